"""A client certificate: parsed once, immutable, able to prove that it holds its own key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, SignatureAlgorithmOID

from nexus_auth.domain.decision import DenialReason
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import CertificateRejected, InvalidHotkey
from nexus_auth.domain.hotkey import Hotkey

MAX_DER_BYTES: Final = 16 * 1024
"""A client certificate has about 350 bytes; nothing honest comes near this bound."""

# RFC 7468 §3, strict: one block, its label, base64 lines; white space around it is harmless.
_PEM: Final = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]*?)-----END CERTIFICATE-----\s*"
)
# 16 KiB of DER in base64, each line of it no shorter than four characters.
_MAX_PEM_BYTES: Final = 48 * 1024

# RFC 8410 §3: the Ed25519 AlgorithmIdentifier has no parameters, so it has this one encoding.
_ED25519_ALGORITHM: Final = bytes.fromhex("300506032b6570")
# The version of a v3 certificate: [0] EXPLICIT INTEGER 2 (RFC 5280 §4.1.2.1).
_VERSION_3: Final = bytes.fromhex("a003020102")
# What a certificate ends with: outer algorithm, then a bit string of 64 bytes.
_ED25519_SIGNATURE_HEAD: Final = _ED25519_ALGORITHM + bytes.fromhex("034100")

# X.690 §8.1.3: from here on, a length byte says how many length bytes follow.
_LONG_FORM: Final = 0x80

# RFC 5280 §4.2: an unrecognised critical extension means that the certificate must be refused.
_RECOGNISED_EXTENSIONS: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)


def _malformed(detail: str) -> CertificateRejected:
    return CertificateRejected(DenialReason.MALFORMED_CERTIFICATE, detail)


def parse_base64_der(body: bytes) -> bytes:
    """Decodes the base64 body of a PEM block; white space between characters is fine.

    Raises:
        CertificateRejected: `malformed-certificate`, when it is not canonical base64.
    """
    if len(body) > _MAX_PEM_BYTES:
        raise _malformed(f"longer than {MAX_DER_BYTES} bytes")
    packed = b"".join(body.split())
    try:
        der = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("the PEM body is not base64") from None
    if base64.b64encode(der) != packed:
        # RFC 4648 §3.5: other trailing bits would be a second spelling of the same certificate.
        raise _malformed("the PEM body is not canonical base64")
    return der


def parse_pem(text: bytes) -> bytes:
    """Takes the DER out of exactly one PEM certificate.

    Raises:
        CertificateRejected: `malformed-certificate`, when there is anything else in the text.
    """
    if len(text) > _MAX_PEM_BYTES:
        raise _malformed(f"longer than {MAX_DER_BYTES} bytes")
    match = _PEM.fullmatch(text)
    if match is None:
        raise _malformed("not exactly one PEM certificate")
    return parse_base64_der(match[1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClientCertificate:
    """What one certificate says, after every check that needs the certificate alone.

    Two certificates are the same when their bytes are: compare `fingerprint`.
    An instance does not prove that its maker held the private key (`is_self_signed` does), that
    it is valid now, or that anybody registered it.

    Attributes:
        hotkey: The one O attribute of the subject.
        public_key: Raw Ed25519 public key, 32 bytes.
        not_before: Start of validity (aware, UTC).
        not_after: End of validity (aware, UTC).
        usage_problem: Why the certificate may not authenticate a client; empty when it may.
        fingerprint: SHA-256 of the DER, lower-case hex.
    """

    hotkey: Hotkey
    public_key: bytes
    not_before: datetime
    not_after: datetime
    usage_problem: str
    fingerprint: str
    _signed: bytes = field(repr=False)
    _signature: bytes = field(repr=False)

    @classmethod
    def from_pem(cls, text: bytes | str) -> Self:
        """Parses exactly one PEM certificate. Raises as `from_der` does."""
        if isinstance(text, str):
            try:
                text = text.encode("ascii")
            except UnicodeEncodeError:
                raise _malformed("PEM is ASCII text") from None
        return cls.from_der(parse_pem(text))

    @classmethod
    def from_der(cls, der: bytes) -> Self:
        """Parses a DER certificate and takes the checks 3 to 6 of the decision.

        Args:
            der: One certificate, at most 16 KiB, nothing after it.

        Raises:
            CertificateRejected: With the reason `malformed-certificate`, `no-organization`,
                `invalid-hotkey` or `unsupported-key`. Nothing else is raised, whatever the bytes.
        """
        if len(der) > MAX_DER_BYTES:
            raise _malformed(f"longer than {MAX_DER_BYTES} bytes")
        try:
            return cls._from_der(der)
        except CertificateRejected:
            raise
        except Exception:  # noqa: BLE001 - any failure to parse is a refusal
            # The parser reports bad input by several exception types, and decodes lazily.
            raise _malformed("not a well-formed X.509 certificate") from None
        except BaseException as exc:
            # A panic in the parser's native code arrives as a BaseException of this name.
            if type(exc).__name__ == "PanicException":
                raise _malformed("not a well-formed X.509 certificate") from None
            raise

    @classmethod
    def _from_der(cls, der: bytes) -> Self:
        # 3. Exactly one well-formed X.509 v3 certificate.
        certificate = x509.load_der_x509_certificate(der)
        if certificate.version is not x509.Version.v3:
            raise _malformed("not an X.509 v3 certificate")
        if certificate.serial_number <= 0:
            raise _malformed("the serial number is not positive")  # RFC 5280 §4.1.2.2
        extensions = certificate.extensions
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        # 4. Exactly one O attribute, wherever in the subject it stands.
        organizations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        if len(organizations) != 1 or not organizations[0].value:
            raise CertificateRejected(
                DenialReason.NO_ORGANIZATION,
                f"the subject has {len(organizations)} O attributes, or an empty one",
            )
        # 5. It is exactly an SS58 address.
        organization = organizations[0].value
        if not isinstance(organization, str):
            raise CertificateRejected(DenialReason.INVALID_HOTKEY, "O is not a character string")
        try:
            hotkey = Hotkey.parse(organization)
        except InvalidHotkey as exc:
            raise CertificateRejected(DenialReason.INVALID_HOTKEY, str(exc)) from None
        # 6. The key is Ed25519.
        return cls(
            hotkey=hotkey,
            public_key=_raw_public_key(certificate),
            not_before=not_before,
            not_after=not_after,
            usage_problem=_usage_problem(extensions),
            fingerprint=hashlib.sha256(der).hexdigest(),
            _signed=certificate.tbs_certificate_bytes,
            _signature=_ed25519_signature(certificate, der),
        )

    def is_self_signed(self) -> bool:
        """Proves that whoever made this certificate held the private key to `public_key`.

        Costs one Ed25519 verification (RFC 8032 §5.1.7). Asks no registry.
        """
        if not self._signature:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(
                self._signature, self._signed
            )
        except (InvalidSignature, ValueError):
            return False
        return True


def _raw_public_key(certificate: x509.Certificate) -> bytes:
    try:
        key = certificate.public_key()
    except Exception:  # noqa: BLE001 - any failure to read the key is a refusal
        # An algorithm the library does not know, or a key that is no point: not ours either way.
        raise CertificateRejected(DenialReason.UNSUPPORTED_KEY, "the key is unusable") from None
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateRejected(DenialReason.UNSUPPORTED_KEY, "the key is not Ed25519")
    raw = key.public_bytes_raw()
    if not is_usable_public_key(raw):
        raise CertificateRejected(DenialReason.UNSUPPORTED_KEY, "the key is of small order")
    return raw


def _ed25519_signature(certificate: x509.Certificate, der: bytes) -> bytes:
    """The signature, where inner and outer algorithm are Ed25519 without parameters, else empty.

    RFC 5280 §4.1.1.2: both algorithm fields must be the same. The bytes are compared, because the
    parser shows the outer field only.
    """
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
        return b""
    signed, signature = certificate.tbs_certificate_bytes, certificate.signature
    if not der.endswith(signed + _ED25519_SIGNATURE_HEAD + signature):
        return b""
    return signature if _inner_algorithm_is_ed25519(signed) else b""


def _inner_algorithm_is_ed25519(signed: bytes) -> bool:
    # DER that the parser accepted: SEQUENCE { [0] version 3, INTEGER serial, algorithm, ... }.
    length = signed[1]
    at = 2 if length < _LONG_FORM else 2 + (length - _LONG_FORM)
    if not signed.startswith(_VERSION_3, at):
        return False
    at += len(_VERSION_3)
    # A serial number has at most 20 bytes (RFC 5280 §4.1.2.2), so its length is a single byte.
    at += 2 + signed[at + 1]
    return signed.startswith(_ED25519_ALGORITHM, at)


def _usage_problem(extensions: x509.Extensions) -> str:
    """Why these extensions keep the certificate from authenticating a client, or nothing."""
    for extension in extensions:
        if extension.critical and extension.oid not in _RECOGNISED_EXTENSIONS:
            return "a critical extension is not recognised"
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            return "it is a CA certificate"
        if (
            isinstance(value, x509.ExtendedKeyUsage)
            and ExtendedKeyUsageOID.CLIENT_AUTH not in value
        ):
            return "its extended key usage lacks clientAuth"
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            return "its key usage lacks digitalSignature"  # RFC 8446 §4.4.2.2
    return ""
