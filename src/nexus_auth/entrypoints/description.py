"""The certificate that a command is given: read, and described for a terminal and as JSON.

Lenient where the decision is strict. Nothing here decides: a certificate that would be denied is
shown as well, with the reason.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from nexus_auth.adapters.files import load_bytes
from nexus_auth.domain.certificate import (
    MAX_DER_BYTES,
    ClientCertificate,
    parse_pem,
    silence_parser,
    unparsable,
)
from nexus_auth.domain.decision import Denied
from nexus_auth.domain.errors import CertificateRejected, CredentialsError, InvalidHotkey
from nexus_auth.domain.evaluate import evaluate_alone
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.server_name import names_of
from nexus_auth.entrypoints.defaults import LEEWAY
from nexus_auth.entrypoints.terminal import escaped

silence_parser(__name__)

T = TypeVar("T")
Attributes = list[tuple[str, str]]
"""Names and values of a subject or an issuer, in their order."""

# As PEM the largest certificate that is looked at has some 22 KB; the rest is white space.
_MAX_INPUT_BYTES: Final = 64 * 1024
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_SIGNATURE: Final = {
    True: "made with the certificate's own key",
    False: "NOT made with the certificate's own key",
    None: "not checked",
}
_malformed: Final = partial(CertificateRejected, DenialReason.MALFORMED_CERTIFICATE)
_DER_BEGINS: Final = b"\x30"
_SHORT_NAMES: Final = {
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COMMON_NAME: "CN",
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
}

# RFC 5280 §4.2.1.3
_KEY_USAGES: Final = {
    "digital_signature": "digitalSignature",
    "content_commitment": "contentCommitment",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "crlSign",
}
# RFC 5280 §4.2.1.12
_EXTENDED_USAGES: Final = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.3": "codeSigning",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is in a certificate, as far as it can be read.

    Attributes:
        lines: The form for a terminal: one fact a line, with everything from outside escaped.
        document: The form that programs read, with nothing escaped.
        denial: The decision, where it is a denial whatever the registry answers; None where the
            registry decides.
    """

    lines: tuple[str, ...]
    document: Mapping[str, Any]
    denial: Denied | None


def load_certificate(source: str) -> bytes:
    """Reads one certificate from a file, or from standard input when the source is `-`.

    Returns:
        The bytes as they are, PEM or DER; what they hold is not checked.

    Raises:
        CredentialsError: When nothing can be read, or it is clearly no certificate.
    """
    try:
        if source == "-":
            data = sys.stdin.buffer.read(_MAX_INPUT_BYTES + 1)
        else:
            data = load_bytes(Path(source), _MAX_INPUT_BYTES + 1)
    except OSError as exc:
        raise CredentialsError(f"{escaped(source)}: {exc.strerror}") from exc
    shown = "standard input" if source == "-" else escaped(source)
    if not data.strip():
        raise CredentialsError(f"{shown}: it is empty; a certificate is expected, PEM or DER")
    if len(data) > _MAX_INPUT_BYTES:
        raise CredentialsError(f"{shown}: longer than {_MAX_INPUT_BYTES} bytes; no certificate")
    if _PRIVATE_KEY.search(data):
        raise CredentialsError(
            f"{shown}: it holds a private key; give the certificate (client.crt) alone, and "
            "do not share the key"
        )
    return data


def denial_as_json(denial: Denied) -> dict[str, str]:
    """The form of a denial that programs read."""
    return {"reason": denial.reason.value, "detail": denial.detail}


def build_description(data: bytes, now: datetime) -> Description:
    """Describes a certificate, PEM or DER, without a request to anything.

    Args:
        data: What was presented.
        now: The time to judge its validity by (aware, UTC).

    Raises:
        CertificateRejected: When it is no certificate at all, so that there is nothing to show.
    """
    der = data if data[:1] == _DER_BEGINS else parse_pem(data)
    if len(der) > MAX_DER_BYTES:
        raise _malformed(f"longer than {MAX_DER_BYTES} bytes")
    certificate = _attempt(lambda: x509.load_der_x509_certificate(der))
    if certificate is None:
        raise unparsable(der)
    is_self_signed: bool | None = None
    denial: Denied | None
    try:
        strict = ClientCertificate.from_der(der)  # the checks 3 to 6
    except CertificateRejected as exc:
        denial = Denied(reason=exc.reason, detail=exc.detail)
    else:
        denial, is_self_signed = judge_offline(strict, now, LEEWAY), strict.is_self_signed()
    subject = _attributes(lambda: certificate.subject)
    issuer = _attributes(lambda: certificate.issuer)
    hotkey = _hotkey([value for name, value in subject if name == "O"])
    algorithm, raw = _attempt(lambda: _public_key(certificate)) or ("not readable", "")
    begin = _attempt(lambda: certificate.not_valid_before_utc)
    end = _attempt(lambda: certificate.not_valid_after_utc)
    usage = _attempt(lambda: _usage(certificate)) or []
    names = names_of(certificate.public_bytes(Encoding.PEM)) or ()
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    lines = (
        ("subject", _name(subject)),
        ("issuer", "the same as the subject" if issuer == subject else _name(issuer)),
        ("names", shown_names(names) or "none beside the subject"),
        ("hotkey", hotkey or "none: O is not exactly one SS58 address"),
        ("public key", f"{algorithm} {raw}".strip()),
        ("valid", _validity(begin, end, now)),
        ("usage", ", ".join(usage) or "not restricted"),
        ("signature", _SIGNATURE[is_self_signed]),
        ("fingerprint", f"SHA-256 {fingerprint}"),
    )
    document = {
        "subject": [{"name": name, "value": value} for name, value in subject],
        "issuer": [{"name": name, "value": value} for name, value in issuer],
        "names": list(map(_general_name, names)),
        "hotkey": hotkey,
        "public_key": {"algorithm": algorithm, "hex": raw or None},
        "not_before": None if begin is None else begin.isoformat(),
        "not_after": None if end is None else end.isoformat(),
        "days_left": None if end is None else (end - now).days,
        "usage": usage,
        "fingerprint_sha256": fingerprint,
        "self_signed": is_self_signed,
        "refusal": None if denial is None else denial_as_json(denial),
    }
    shown = tuple(f"{label:<12} {value}" for label, value in lines)
    return Description(lines=shown, document=document, denial=denial)


def shown_names(names: Iterable[x509.GeneralName]) -> str:
    """Lists alternative names for a terminal."""
    return ", ".join(escaped(_general_name(each)) for each in names)


def _general_name(name: x509.GeneralName) -> str:
    return str(name.value)


def _days(number: int) -> str:
    return f"{number} day" if number == 1 else f"{number} days"


def _validity(begin: datetime | None, end: datetime | None, now: datetime) -> str:
    if begin is None or end is None:
        return "not readable"
    span = f"{begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC"
    if now > end:
        return f"{span} (over for {_days((now - end).days)})"
    return f"{span} ({'not yet' if now < begin else f'{_days((end - now).days)} left'})"


def _name(attributes: Attributes) -> str:
    return ", ".join(f"{name}={escaped(value)}" for name, value in attributes) or "empty"


def judge_offline(
    certificate: ClientCertificate, now: datetime, leeway: timedelta
) -> Denied | None:
    """Takes the checks of the decision that need no registry: 7, 8 and 11.

    Returns:
        The denial, or None where the registry decides.
    """
    denial = evaluate_alone(certificate, now, leeway=leeway)
    if denial is None and not certificate.is_self_signed():
        return Denied(reason=DenialReason.BAD_SIGNATURE, detail="not signed with its own key")
    return denial


def _hotkey(organizations: list[str]) -> str | None:
    try:
        return Hotkey.parse(organizations[0]).address if len(organizations) == 1 else None
    except InvalidHotkey:
        return None


def _attempt(read: Callable[[], T]) -> T | None:
    """Reads one part of a certificate that may be nonsense; None when it is."""
    try:
        return read()
    except Exception:  # noqa: BLE001 - the parser reports bad input by several exception types
        return None
    except BaseException as exc:
        # A panic in the parser's native code arrives as a BaseException of this name.
        if type(exc).__name__ == "PanicException":
            return None
        raise


def _attributes(read: Callable[[], x509.Name]) -> Attributes:
    name = _attempt(read)
    if name is None:
        return [("not readable", "")]
    return [
        (
            _SHORT_NAMES.get(each.oid, each.oid.dotted_string),
            each.value if isinstance(each.value, str) else each.value.hex(),
        )
        for each in name
    ]


def _public_key(certificate: x509.Certificate) -> tuple[str, str]:
    key = certificate.public_key()
    if isinstance(key, Ed25519PublicKey):
        return "Ed25519", key.public_bytes_raw().hex()
    return f"{type(key).__name__.removesuffix('PublicKey')}, not Ed25519", ""


def _usage(certificate: x509.Certificate) -> list[str]:
    usage: list[str] = []
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            usage.append("certificate authority")
        elif isinstance(value, x509.KeyUsage):
            usage += [shown for name, shown in _KEY_USAGES.items() if getattr(value, name)]
        elif isinstance(value, x509.ExtendedKeyUsage):
            usage += [_EXTENDED_USAGES.get(oid.dotted_string, oid.dotted_string) for oid in value]
    return usage
