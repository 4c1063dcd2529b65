"""Whether a server is the hotkey that a caller wants to reach: the other half of `evaluate`.

TLS proves that the server holds the private key of the certificate that it shows. What is left to
find out is whether that is the key registered for the hotkey.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from nexus_auth.domain.certificate import MAX_DER_BYTES, silence_parser
from nexus_auth.domain.errors import InvalidHotkey, ServerKeyMismatch
from nexus_auth.domain.hotkey import Hotkey

if TYPE_CHECKING:
    from nexus_auth.domain.ports import Registration

silence_parser(__name__)


def fingerprint_of(public_key: bytes) -> str:
    """The fingerprint of a raw Ed25519 key, as `curl --pinnedpubkey` takes it."""
    return _fingerprint(
        Ed25519PublicKey.from_public_bytes(public_key).public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
    )


def _fingerprint(key_info: bytes) -> str:
    # RFC 7469 §2.4: over the SubjectPublicKeyInfo.
    return "sha256//" + base64.b64encode(hashlib.sha256(key_info).digest()).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    """What counts in the certificate that a server shows. Proves nothing by itself.

    Attributes:
        fingerprint: Of its key, of whatever kind; None where it cannot be read.
        public_key: The raw Ed25519 key; None where it has a key of another kind.
        hotkey: The hotkey that it names; None where it names none, or more than one.
    """

    fingerprint: str | None = None
    public_key: bytes | None = None
    hotkey: Hotkey | None = None

    @classmethod
    def from_der(cls, der: bytes) -> Self:
        """Reads any bytes; what cannot be read is None."""
        if len(der) > MAX_DER_BYTES:
            return cls()
        try:
            certificate = x509.load_der_x509_certificate(der)
            key = certificate.public_key()
            key_info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        except Exception:  # noqa: BLE001 - the parser reports bad input by several exception types
            return cls()
        return cls(
            fingerprint=_fingerprint(key_info),
            public_key=key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None,
            hotkey=_hotkey_in([each.value for each in names]),
        )


def _hotkey_in(names: list[str | bytes]) -> Hotkey | None:
    if len(names) != 1 or not isinstance(names[0], str):
        return None
    try:
        return Hotkey.parse(names[0])
    except InvalidHotkey:
        return None


def check_server(shown: ServerCertificate, hotkey: Hotkey, registration: Registration) -> None:
    """Checks that a server is a hotkey, after TLS has proven that it holds its key.

    Dates, issuer, names and usages of the certificate do not count: the key alone is registered.
    Only a certificate that names another hotkey is refused, although its key is right. Otherwise
    a hotkey could register another's key, and have its callers served by the other.

    Args:
        shown: What the server shows in this handshake.
        hotkey: The hotkey that is called.
        registration: What is registered for it, and may be used now.

    Raises:
        ServerKeyMismatch: Where it is not.
    """
    expected = registration.public_key
    if shown.public_key == expected and shown.hotkey in {None, hotkey}:
        return
    raise ServerKeyMismatch(
        hotkey=hotkey.address,
        expected=fingerprint_of(expected),
        found=shown.fingerprint,
        named=None if shown.hotkey in {None, hotkey} else shown.hotkey.address,
    )
