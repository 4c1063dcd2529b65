"""A client certificate: parsed once, immutable, able to prove that it holds its own key."""

from __future__ import annotations

import binascii
import hashlib
import re
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import CertificateRejected, InvalidHotkey
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.reasons import DenialReason

MAX_DER_BYTES: Final = 16 * 1024
"""A client certificate has about 350 bytes; this is a wide bound."""

MORE_THAN_ONE: Final = "more than one certificate"
"""How several of them are named, in whichever form they come: neither could be chosen."""

# RFC 7468 §3, strict: one block, its label, base64 lines; white space around it is harmless.
_PEM_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_PEM_END: Final = b"-----END CERTIFICATE-----"
_LINE_ENDS: Final = frozenset((b"\n", b"\r", b" ", b"\t"))
# 16 KiB of DER in base64, each line of it no shorter than four characters.
_MAX_PEM_BYTES: Final = 48 * 1024

# RFC 8410 §3: the Ed25519 AlgorithmIdentifier has no parameters, so it has this one encoding.
_ED25519_ALGORITHM: Final = bytes.fromhex("300506032b6570")
# RFC 8410 §4: what stands before the 32 bytes of an Ed25519 key, in a SubjectPublicKeyInfo.
_ED25519_KEY_HEAD: Final = bytes.fromhex("302a") + _ED25519_ALGORITHM + bytes.fromhex("032100")
# RFC 5280 §4.1.1: what stands between the signed part and an Ed25519 signature of 64 bytes.
_ED25519_SIGNATURE_HEAD: Final = _ED25519_ALGORITHM + bytes.fromhex("034100")
_SIGNATURE_BYTES: Final = 64

# RFC 5280 §4.1.2.4: a Name of a single O attribute of 48 characters, as UTF8String or as
# PrintableString: what stands before an address in the subject of nearly every client certificate.
_ONLY_ADDRESS_HEADS: Final = (
    bytes.fromhex("303b313930370603 55040a 0c30"),
    bytes.fromhex("303b313930370603 55040a 1330"),
)
_ONLY_ADDRESS_BYTES: Final = len(_ONLY_ADDRESS_HEADS[0]) + 48
# The same as CN behind it, as `build_credentials` writes it: what stands before the two.
_ADDRESS_HEAD: Final = bytes.fromhex("3076313930370603 55040a 0c30")
_SAME_AS_CN_HEAD: Final = bytes.fromhex("313930370603 550403 0c30")

# RFC 5280 §4.1.2.4: the types of an organization's name (UTF8String, PrintableString,
# TeletexString, UniversalString, BMPString); with them IA5String and VisibleString, the other two
# that can hold an address. The parser takes dates and OCTET STRINGs for text as well.
_ORGANIZATION_TYPES: Final = frozenset({0x0C, 0x13, 0x14, 0x1C, 0x1E, 0x16, 0x1A})
_ORGANIZATION_OID: Final = bytes.fromhex("0603 55040a")

# The version field of a v3 certificate: [0] EXPLICIT INTEGER 2 (RFC 5280 §4.1.2.1).
_VERSION_3: Final = bytes.fromhex("a003020102")
_SERIAL_ZERO: Final = bytes.fromhex("020100")
_SEQUENCE: Final = 0x30
# X.690 §8.3: the first bit of an INTEGER's contents is set when it is negative.
_SIGN_BIT: Final = 0x80
# X.690 §8.1.3: from here on, a length byte says how many length bytes follow.
_LONG_FORM: Final = 0x80


def silence_parser(module: str = __name__) -> None:
    """Ignores the parser's warnings about what it reads for a module.

    They concern oddities such as a serial number of zero or a country of three letters, which are
    rejected below or do no harm. Unknown callers must not be able to fill a log with them.
    """
    warnings.filterwarnings("ignore", module=rf"{re.escape(module)}\Z")


silence_parser()

# RFC 5280 §4.2: an unrecognised critical extension means that the certificate must be rejected.
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


def unparsable(der: bytes) -> CertificateRejected:
    """Says why bytes that the parser has rejected are no certificate."""
    try:
        places = _elements_at(der, 0, 2)
    except IndexError:
        places = [0]
    # Whole elements in a row: a file of several certificates, without what separates them.
    if len(places) > 1 and places[-1] <= len(der) and der[places[1]] == der[0] == _SEQUENCE:
        return _malformed(MORE_THAN_ONE)
    return _malformed("not a well-formed X.509 certificate")


def parse_base64_der(body: bytes) -> bytes:
    """Decodes the base64 body of a PEM block; white space between characters is fine.

    Raises:
        CertificateRejected: `malformed-certificate`, when it is not canonical base64.
    """
    if len(body) > _MAX_PEM_BYTES:
        raise _malformed(f"longer than {MAX_DER_BYTES} bytes")
    packed = b"".join(body.split())
    try:
        der = binascii.a2b_base64(packed, strict_mode=True)
    except binascii.Error:
        raise _malformed("the PEM body is not base64") from None
    if binascii.b2a_base64(der, newline=False) != packed:
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
    block = text.strip()
    body = block[len(_PEM_BEGIN) : -len(_PEM_END)]
    if block.count(_PEM_BEGIN) > 1:
        raise _malformed(MORE_THAN_ONE)
    if not (block.startswith(_PEM_BEGIN) and block.endswith(_PEM_END) and body[:1] in _LINE_ENDS):
        raise _malformed("not exactly one PEM certificate")
    return parse_base64_der(body)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClientCertificate:
    """What one certificate says, after every check that needs the certificate alone.

    Two certificates are the same when their bytes are: compare `fingerprint`.
    An instance does not prove that its maker held the private key (`is_self_signed` does), that
    it is valid now, or that it is registered.

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
    def from_pem(cls, text: bytes | bytearray | memoryview | str) -> Self:
        """Parses exactly one PEM certificate. Raises as `from_der` does."""
        if isinstance(text, str):
            try:
                text = text.encode("ascii")
            except UnicodeEncodeError:
                raise _malformed("PEM is ASCII text") from None
        elif type(text) is not bytes:
            text = bytes(memoryview(text))
        return cls.from_der(parse_pem(text))

    @classmethod
    def from_der(cls, der: bytes | bytearray | memoryview) -> Self:
        """Parses a DER certificate and takes the checks 3 to 6 of the decision.

        Args:
            der: One certificate, at most 16 KiB, nothing after it.

        Raises:
            CertificateRejected: With the reason `malformed-certificate`, `no-organization`,
                `invalid-hotkey` or `unsupported-key`. Nothing else is raised, whatever the bytes.
        """
        if type(der) is not bytes:
            der = bytes(memoryview(der))
        if len(der) > MAX_DER_BYTES:
            raise _malformed(f"longer than {MAX_DER_BYTES} bytes")
        try:
            return cls._from_der(der)
        except CertificateRejected:
            raise
        except Exception:  # noqa: BLE001 - any failure to parse is a rejection
            # The parser reports bad input by several exception types, and decodes lazily.
            raise unparsable(der) from None
        except BaseException as exc:
            # A panic in the parser's native code arrives as a BaseException of this name.
            if type(exc).__name__ == "PanicException":
                raise unparsable(der) from None
            raise

    @classmethod
    def _from_der(cls, der: bytes) -> Self:
        # 3. Exactly one well-formed X.509 v3 certificate.
        certificate = x509.load_der_x509_certificate(der)
        layout = _Layout(der)
        usage_problem = _usage_problem(certificate, layout.extensions)
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        # 4. Exactly one O attribute, wherever in the subject it stands.
        organization = _only_organization(certificate, layout.subject)
        # 5. It is exactly an SS58 address.
        try:
            hotkey = Hotkey.parse(organization)
        except InvalidHotkey as exc:
            raise CertificateRejected(DenialReason.INVALID_HOTKEY, str(exc)) from None
        # 6. The key is Ed25519.
        return cls(
            hotkey=hotkey,
            public_key=_ed25519_key(layout.key),
            not_before=not_before,
            not_after=not_after,
            usage_problem=usage_problem,
            fingerprint=hashlib.sha256(der).hexdigest(),
            _signed=layout.signed,
            _signature=_ed25519_signature(layout),
        )

    def is_self_signed(self) -> bool:
        """Proves that the maker of this certificate held the private key to `public_key`.

        Costs one Ed25519 verification (RFC 8032 §5.1.7). Does not look at a registry.
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


class _Layout:
    """Where the fields of a v3 certificate stand, in bytes that the parser has accepted as DER.

    The parser shows neither the inner algorithm nor its parameters, and what else is taken from
    here it would have to build anew, at a third of the price of the whole.
    """

    __slots__ = ("after_signed", "extensions", "inner_algorithm", "key", "signed", "subject")

    def __init__(self, der: bytes) -> None:
        # RFC 5280 §4.1: Certificate ::= SEQUENCE { tbsCertificate, algorithm, signature }
        signed = _contents_at(der, 0)
        # tbsCertificate ::= SEQUENCE { version, serial number, algorithm, issuer, validity,
        # subject, key, unique identifiers and extensions (both optional) }
        version = _contents_at(der, signed)
        if not der.startswith(_VERSION_3, version):
            raise _malformed("not an X.509 v3 certificate")
        serial = version + len(_VERSION_3)
        _, algorithm, issuer, _, subject, key, rest = _elements_at(der, serial, 6)
        if der[_contents_at(der, serial)] >= _SIGN_BIT or der.startswith(_SERIAL_ZERO, serial):
            raise _malformed("the serial number is not positive")  # RFC 5280 §4.1.2.2
        end = _elements_at(der, signed, 1)[1]
        self.signed = der[signed:end]
        self.inner_algorithm = der[algorithm:issuer]
        self.subject = der[subject:key]
        self.key = der[key:rest]
        self.extensions = der[rest:end]
        self.after_signed = der[end:]


def _contents_at(der: bytes, at: int) -> int:
    """Where the contents of the element at a place begin."""
    length = der[at + 1]
    return at + 2 + (length - _LONG_FORM if length >= _LONG_FORM else 0)


def _elements_at(der: bytes, at: int, count: int) -> list[int]:
    """Where so many elements in a row begin, and where the last of them ends."""
    places = [at]
    for _ in range(count):
        length = der[at + 1]
        at += 2
        if length >= _LONG_FORM:
            size = length - _LONG_FORM
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        at += length
        places.append(at)
    return places


def _only_organization(certificate: x509.Certificate, subject: bytes) -> str:
    address = subject[len(_ADDRESS_HEAD) : _ONLY_ADDRESS_BYTES]
    # A head says how long the whole is; of two values only equal ones are taken unread.
    if address.isascii() and (
        subject.startswith(_ONLY_ADDRESS_HEADS)
        or subject == _ADDRESS_HEAD + address + _SAME_AS_CN_HEAD + address
    ):
        return address.decode("ascii")
    organizations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(organizations) != 1 or not organizations[0].value:
        raise CertificateRejected(
            DenialReason.NO_ORGANIZATION, "the subject does not have exactly one O attribute"
        )
    organization = organizations[0].value
    if not isinstance(organization, str) or _type_of(organizations[0]) not in _ORGANIZATION_TYPES:
        raise CertificateRejected(DenialReason.INVALID_HOTKEY, "O is not a character string")
    return organization


def _type_of(organization: x509.NameAttribute[str | bytes]) -> int:
    """The tag of an O attribute's value, which the parser does not show."""
    name = x509.Name([organization]).public_bytes()
    # Name ::= SEQUENCE { SET { SEQUENCE { type, value } } }
    attribute = _contents_at(name, _contents_at(name, _contents_at(name, 0)))
    return name[attribute + len(_ORGANIZATION_OID)]


def _ed25519_key(key_info: bytes) -> bytes:
    """The raw key; an Ed25519 key has one encoding, so that anything else is another kind."""
    raw = key_info[len(_ED25519_KEY_HEAD) :]
    if not key_info.startswith(_ED25519_KEY_HEAD):
        raise CertificateRejected(DenialReason.UNSUPPORTED_KEY, "the key is not Ed25519")
    if not is_usable_public_key(raw):
        raise CertificateRejected(
            DenialReason.UNSUPPORTED_KEY, "the key is of small order, or not canonical"
        )
    return raw


def _ed25519_signature(layout: _Layout) -> bytes:
    """The signature, where inner and outer algorithm are Ed25519 without parameters, else empty.

    RFC 5280 §4.1.1.2: both algorithm fields must be the same.
    """
    if (
        layout.inner_algorithm == _ED25519_ALGORITHM
        and layout.after_signed.startswith(_ED25519_SIGNATURE_HEAD)
        and len(layout.after_signed) == len(_ED25519_SIGNATURE_HEAD) + _SIGNATURE_BYTES
    ):
        return layout.after_signed[-_SIGNATURE_BYTES:]
    return b""


_KNOWN_USAGES: Final = 128
_KNOWN_USAGE_BYTES: Final = 512
_known_usages: Final[dict[bytes, str]] = {}


def _usage_problem(certificate: x509.Certificate, encoded: bytes) -> str:
    """Why a certificate's extensions keep it from authenticating a client; empty when nothing.

    Nearly all certificates carry one of a few sets of extensions, byte for byte: that of the tool
    that made them. What the first of them say is kept (at most 128 of 512 bytes), since it
    follows from the bytes alone.
    """
    problem = _known_usages.get(encoded)
    if problem is None:
        problem = _find_usage_problem(certificate.extensions)
        if len(encoded) <= _KNOWN_USAGE_BYTES and len(_known_usages) < _KNOWN_USAGES:
            _known_usages[encoded] = problem
    return problem


def _find_usage_problem(extensions: x509.Extensions) -> str:
    """See `_usage_problem`."""
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
