"""Any bytes as a certificate: a checked value or our own error, and a grant only with a proof."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import hypothesis

from fuzz.people import DER, REGISTERED, a_verifier, at_once
from fuzz.promises import require, require_plain
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import CertificateRejected
from nexus_auth.domain.evaluate import DEFAULT_LEEWAY
from nexus_auth.domain.reasons import DenialReason
from tests import der
from tests.builders import NOW, a_hotkey, a_key
from tests.strategies import structured_certificates

MAX_BYTES: Final = 4096
WORDS: Final = (
    *(der.ED25519, der.VERSION_3, der.oid(der.O_OID), der.oid(der.CN_OID)),
    *(der.oid(der.EXTENDED_KEY_USAGE_OID), der.oid(der.KEY_USAGE_OID)),
    *(der.oid(der.BASIC_CONSTRAINTS_OID), der.oid(der.CLIENT_AUTH_OID), der.tlv(der.NULL)),
    *(b"\x30\x80", b"\xa3", b"\x00\x00", a_hotkey().address.encode()),
)

_REASONS: Final = {
    DenialReason.MALFORMED_CERTIFICATE,
    DenialReason.NO_ORGANIZATION,
    DenialReason.INVALID_HOTKEY,
    DenialReason.UNSUPPORTED_KEY,
}
"""The checks 3 to 6: those that `from_der` takes."""

_CHOICE: Final = 0x01
"""An input that begins so chooses among the parts of `tests/strategies.py` by its other bytes;
DER begins with 0x30."""


def check(data: bytes) -> None:
    """Parses and decides on the bytes as they are, and with a right signature put on them."""
    if data[:1] == bytes([_CHOICE]):
        _check_structured(data[1:])
        return
    _check_certificate(data)
    with suppress(der.NotDer):
        _check_certificate(_signed_anew(data))


def _check_certificate(data: bytes) -> None:
    try:
        certificate = ClientCertificate.from_der(data)
    except CertificateRejected as exc:
        require(exc.reason in _REASONS, "a reason of the checks 3 to 6")
        require_plain(exc.detail)
    else:
        require(is_usable_public_key(certificate.public_key), "a usable key")
        require(certificate.not_before.tzinfo is not None, "aware dates")
        certificate.is_self_signed()
    with suppress(CertificateRejected):
        ClientCertificate.from_pem(data)
    match at_once(a_verifier().verify(data)):
        case Granted(hotkey=hotkey):
            require(
                der.proves(
                    data,
                    address=hotkey.address,
                    key=REGISTERED[hotkey],
                    now=NOW,
                    leeway=DEFAULT_LEEWAY,
                ),
                "what is granted proves itself to an independent reader",
            )
        case Denied(detail=detail):
            require_plain(detail)


@hypothesis.settings(database=None, deadline=None)
@hypothesis.given(structured_certificates())
def _structured(data: bytes) -> None:
    _check_certificate(data)


def _check_structured(choices: bytes) -> None:
    # The decorator puts it there, and its type does not say so.
    _structured.hypothesis.fuzz_one_input(choices)  # type: ignore[attr-defined]


def _signed_anew(data: bytes) -> bytes:
    """The signed part with alice's signature: a change elsewhere must not hide behind a wrong one.

    Raises `NotDer` where there is no such part.
    """
    signed = der.read_element(der.read_element(data).content).whole
    signature = der.tlv(der.BIT_STRING, b"\0" + a_key().sign(signed))
    return der.tlv(der.SEQUENCE, signed, der.ED25519, signature)


def seeds() -> dict[str, bytes]:
    """Honest certificates, and some that are odd in one way each."""
    organization = der.attribute(der.O_OID, a_hotkey().address.encode())
    odd = {
        "no-extensions": der.Parts(extensions=None),
        "two-organizations": der.Parts(subject=der.name(organization, organization)),
        "two-in-one-rdn": der.Parts(
            subject=der.name((organization, der.attribute(der.CN_OID, b"x")))
        ),
        "address-as-cn-too": der.Parts(
            subject=der.name(organization, der.attribute(der.CN_OID, a_hotkey().address.encode()))
        ),
        "printable": der.Parts(
            subject=der.name(
                der.attribute(der.O_OID, a_hotkey().address.encode(), der.PRINTABLE_STRING)
            )
        ),
        "authority": der.Parts(
            extensions=der.tlv(
                der.SEQUENCE,
                der.extension(
                    der.BASIC_CONSTRAINTS_OID,
                    der.tlv(der.SEQUENCE, der.tlv(der.BOOLEAN, b"\xff")),
                    critical=True,
                ),
            )
        ),
        "version-1": der.Parts(version=b"", extensions=None),
        "unique-ids": der.Parts(unique_ids=der.tlv(0x81, b"\0x")),
        "unused-bits": der.Parts(unused_bits=1),
        "small-order-key": der.Parts(key_info=der.ed25519_key_info(bytes(32))),
        "trailing": der.Parts(trailing=der.tlv(der.NULL)),
    }
    return (
        dict(DER)
        | {name: parts.certificate() for name, parts in odd.items()}
        | {f"choices-{fill:02x}": bytes([_CHOICE]) + bytes([fill]) * 120 for fill in (0, 1, 7, 255)}
        | {"cut": DER["alice"][:200], "empty": b""}
    )
