"""What a certificate says, told to a person or to a program; lenient where the decision is strict.

Nothing here decides: it shows also what the decision would refuse, so that one sees why.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from nexus_auth.adapters.files import load_bytes
from nexus_auth.domain.certificate import MAX_DER_BYTES, ClientCertificate, parse_pem
from nexus_auth.domain.decision import Denied
from nexus_auth.domain.errors import CertificateRejected, CredentialsError, InvalidHotkey
from nexus_auth.domain.evaluate import DEFAULT_LEEWAY, evaluate_alone
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints.terminal import escaped

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

T = TypeVar("T")

# As PEM the largest certificate that is looked at has some 22 KB; the rest is white space.
_MAX_INPUT_BYTES: Final = 64 * 1024
_DER_BEGINS: Final = b"\x30"
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_SHORT_NAMES: Final = {
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COMMON_NAME: "CN",
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
}


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
            f"{shown}: it holds a private key; show me the certificate (client.crt) alone, "
            "and the key nobody"
        )
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is in a certificate, as far as it can be read. Text from it is *not* made harmless.

    Attributes:
        subject: The subject's attributes as (name, value), in their order.
        issuer: The issuer's.
        hotkey: The hotkey, where there is exactly one valid one.
        public_key: The key's algorithm, and the raw key in hex where it is Ed25519.
        not_before: Start of validity.
        not_after: End of validity.
        usage: What key usage and extended key usage allow, by name.
        fingerprint: SHA-256 of the DER, lower-case hex.
        self_signed: Whether it was signed with its own key; None when that could not be checked.
        refusal: Why the decision would be a denial whatever the registry says; None when nothing
            but the registry's answer is missing.
    """

    subject: tuple[tuple[str, str], ...]
    issuer: tuple[tuple[str, str], ...]
    hotkey: str | None
    public_key: tuple[str, str]
    not_before: datetime | None
    not_after: datetime | None
    usage: tuple[str, ...]
    fingerprint: str
    self_signed: bool | None
    refusal: Denied | None

    def days_left(self, now: datetime) -> int | None:
        """Whole days until the end of validity; negative when it is over."""
        return None if self.not_after is None else (self.not_after - now).days

    def as_json(self, now: datetime) -> dict[str, Any]:
        """The form that programs read."""
        algorithm, raw = self.public_key
        return {
            "subject": [{"name": name, "value": value} for name, value in self.subject],
            "issuer": [{"name": name, "value": value} for name, value in self.issuer],
            "hotkey": self.hotkey,
            "public_key": {"algorithm": algorithm, "hex": raw or None},
            "not_before": None if self.not_before is None else self.not_before.isoformat(),
            "not_after": None if self.not_after is None else self.not_after.isoformat(),
            "days_left": self.days_left(now),
            "usage": list(self.usage),
            "fingerprint_sha256": self.fingerprint,
            "self_signed": self.self_signed,
            "refusal": None
            if self.refusal is None
            else {"reason": self.refusal.reason.value, "detail": self.refusal.detail},
        }

    def as_lines(self, now: datetime) -> list[str]:
        """The form that people read, one fact a line, everything from outside made harmless."""
        algorithm, raw = self.public_key
        issuer = "the same as the subject" if self.issuer == self.subject else _name(self.issuer)
        facts = (
            ("subject", _name(self.subject)),
            ("issuer", issuer),
            ("hotkey", self.hotkey or "none: O is not exactly one SS58 address"),
            ("public key", f"{algorithm} {raw}".strip()),
            ("valid", self._validity(now)),
            ("usage", ", ".join(self.usage) or "not restricted"),
            ("signature", _SIGNATURE[self.self_signed]),
            ("fingerprint", f"SHA-256 {self.fingerprint}"),
        )
        return [f"{label:<12} {value}" for label, value in facts]

    def _validity(self, now: datetime) -> str:
        if self.not_before is None or self.not_after is None:
            return "not readable"
        span = f"{self.not_before:%Y-%m-%d %H:%M:%S} to {self.not_after:%Y-%m-%d %H:%M:%S} UTC"
        if now > self.not_after:
            return f"{span} (over for {_days((now - self.not_after).days)})"
        if now < self.not_before:
            return f"{span} (not yet)"
        return f"{span} ({_days((self.not_after - now).days)} left)"


def _days(number: int) -> str:
    return f"{number} day" if number == 1 else f"{number} days"


_SIGNATURE: Final = {
    True: "made with the certificate's own key",
    False: "NOT made with the certificate's own key",
    None: "not checked",
}


def _name(attributes: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}={escaped(value)}" for name, value in attributes) or "empty"


def build_description(
    data: bytes, now: datetime, *, leeway: timedelta = DEFAULT_LEEWAY
) -> Description:
    """Describes a certificate, PEM or DER, without asking anybody.

    Args:
        data: What was presented.
        now: The time to judge its validity by (aware, UTC).
        leeway: Tolerance on both ends of the validity.

    Raises:
        CertificateRejected: When it is no certificate at all, so that there is nothing to show.
    """
    der = data if data[:1] == _DER_BEGINS else parse_pem(data)
    if len(der) > MAX_DER_BYTES:
        raise CertificateRejected(
            DenialReason.MALFORMED_CERTIFICATE, f"longer than {MAX_DER_BYTES} bytes"
        )
    certificate = _attempt(lambda: x509.load_der_x509_certificate(der))
    if certificate is None:
        raise CertificateRejected(
            DenialReason.MALFORMED_CERTIFICATE, "not a well-formed X.509 certificate"
        )
    strict, refusal = _judge(der, now, leeway)
    subject = _attributes(lambda: certificate.subject)
    return Description(
        subject=subject,
        issuer=_attributes(lambda: certificate.issuer),
        hotkey=_hotkey([value for name, value in subject if name == "O"]),
        public_key=_attempt(lambda: _public_key(certificate)) or ("not readable", ""),
        not_before=_attempt(lambda: certificate.not_valid_before_utc),
        not_after=_attempt(lambda: certificate.not_valid_after_utc),
        usage=_attempt(lambda: _usage(certificate)) or (),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        self_signed=None if strict is None else strict.is_self_signed(),
        refusal=refusal,
    )


def _judge(
    der: bytes, now: datetime, leeway: timedelta
) -> tuple[ClientCertificate | None, Denied | None]:
    """Takes every check of the decision that needs no registry: 3 to 8, then 11."""
    try:
        strict = ClientCertificate.from_der(der)
    except CertificateRejected as exc:
        return None, Denied(reason=exc.reason, detail=exc.detail)
    refusal = evaluate_alone(strict, now, leeway=leeway)
    if refusal is None and not strict.is_self_signed():
        refusal = Denied(reason=DenialReason.BAD_SIGNATURE, detail="not signed with its own key")
    return strict, refusal


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


def _attributes(read: Callable[[], x509.Name]) -> tuple[tuple[str, str], ...]:
    name = _attempt(read)
    if name is None:
        return (("not readable", ""),)
    return tuple(
        (
            _SHORT_NAMES.get(each.oid, each.oid.dotted_string),
            each.value if isinstance(each.value, str) else each.value.hex(),
        )
        for each in name
    )


def _public_key(certificate: x509.Certificate) -> tuple[str, str]:
    key = certificate.public_key()
    if isinstance(key, Ed25519PublicKey):
        return "Ed25519", key.public_bytes_raw().hex()
    return f"{type(key).__name__.removesuffix('PublicKey')}, not Ed25519", ""


def _usage(certificate: x509.Certificate) -> tuple[str, ...]:
    usage: list[str] = []
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            usage.append("certificate authority")
        elif isinstance(value, x509.KeyUsage):
            usage += [_camel(name) for name in _KEY_USAGES if getattr(value, name)]
        elif isinstance(value, x509.ExtendedKeyUsage):
            usage += [_EXTENDED_USAGES.get(oid.dotted_string, oid.dotted_string) for oid in value]
    return tuple(usage)


_KEY_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
# RFC 5280 §4.2.1.12
_EXTENDED_USAGES: Final = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.3": "codeSigning",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
