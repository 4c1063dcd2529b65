"""What is in a certificate, for a terminal or as JSON. Lenient where the decision is strict.

Nothing here decides: a certificate that would be denied is shown as well, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from nexus_auth.domain.certificate import MAX_DER_BYTES, ClientCertificate, parse_pem
from nexus_auth.domain.decision import Denied
from nexus_auth.domain.errors import CertificateRejected, InvalidHotkey
from nexus_auth.domain.evaluate import evaluate_alone
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints.defaults import LEEWAY
from nexus_auth.entrypoints.terminal import escaped

T = TypeVar("T")

_DER_BEGINS: Final = b"\x30"
_SHORT_NAMES: Final = {
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COMMON_NAME: "CN",
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is in a certificate, as far as it can be read. Text from it is *not* escaped.

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
        denial: The decision, where it is a denial whatever the registry answers; None where the
            registry decides.
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
    denial: Denied | None

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
            "refusal": None if self.denial is None else denial_as_json(self.denial),
        }

    def as_lines(self, now: datetime) -> list[str]:
        """The form for a terminal: one fact a line, with everything from outside escaped."""
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


def denial_as_json(denial: Denied) -> dict[str, str]:
    """The form of a denial that programs read."""
    return {"reason": denial.reason.value, "detail": denial.detail}


def _days(number: int) -> str:
    return f"{number} day" if number == 1 else f"{number} days"


_SIGNATURE: Final = {
    True: "made with the certificate's own key",
    False: "NOT made with the certificate's own key",
    None: "not checked",
}


def _name(attributes: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}={escaped(value)}" for name, value in attributes) or "empty"


def build_description(data: bytes, now: datetime, *, leeway: timedelta = LEEWAY) -> Description:
    """Describes a certificate, PEM or DER, without a request to anything.

    Args:
        data: What was presented.
        now: The time to judge its validity by (aware, UTC).
        leeway: Tolerance on both ends of the validity.

    Raises:
        CertificateRejected: When it is no certificate at all, so that there is nothing to show.
    """
    der = data if data[:1] == _DER_BEGINS else parse_pem(data)
    if len(der) > MAX_DER_BYTES:
        raise _malformed(f"longer than {MAX_DER_BYTES} bytes")
    certificate = _attempt(lambda: x509.load_der_x509_certificate(der))
    if certificate is None:
        raise _malformed("not a well-formed X.509 certificate")
    strict, denial = _judge(der, now, leeway)
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
        denial=denial,
    )


def _judge(
    der: bytes, now: datetime, leeway: timedelta
) -> tuple[ClientCertificate | None, Denied | None]:
    try:
        strict = ClientCertificate.from_der(der)  # the checks 3 to 6
    except CertificateRejected as exc:
        return None, Denied(reason=exc.reason, detail=exc.detail)
    return strict, judge_offline(strict, now, leeway)


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


def _malformed(detail: str) -> CertificateRejected:
    return CertificateRejected(DenialReason.MALFORMED_CERTIFICATE, detail)


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
            usage += [shown for name, shown in _KEY_USAGES.items() if getattr(value, name)]
        elif isinstance(value, x509.ExtendedKeyUsage):
            usage += [_EXTENDED_USAGES.get(oid.dotted_string, oid.dotted_string) for oid in value]
    return tuple(usage)


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
