"""What a decision is: granted or denied, never a truth value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from datetime import datetime

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron


@unique
class DenialReason(StrEnum):
    """Why a caller was refused. The values are stable codes that users rely on."""

    NO_CERTIFICATE = "no-certificate"
    """Not exactly one certificate was presented."""
    BAD_ENCODING = "bad-encoding"
    """The header that carries the certificate does not decode."""
    MALFORMED_CERTIFICATE = "malformed-certificate"
    """Not exactly one well-formed X.509 v3 certificate of a reasonable size."""
    NO_ORGANIZATION = "no-organization"
    """The subject does not name exactly one organization."""
    INVALID_HOTKEY = "invalid-hotkey"
    """The organization is not an SS58 address."""
    UNSUPPORTED_KEY = "unsupported-key"
    """The certificate's key is not a usable Ed25519 key."""
    EXPIRED = "expired"
    """The certificate's validity is over."""
    NOT_YET_VALID = "not-yet-valid"
    """The certificate's validity has not begun."""
    WRONG_USAGE = "wrong-usage"
    """The certificate was not made for authenticating a client."""
    NOT_REGISTERED = "not-registered"
    """The registry knows no key of this hotkey."""
    KEY_MISMATCH = "key-mismatch"
    """The registry knows another key of this hotkey."""
    BAD_SIGNATURE = "bad-signature"
    """The certificate was not signed with its own key."""
    NOT_PERMITTED = "not-permitted"
    """The policy does not admit this hotkey."""
    REGISTRY_UNAVAILABLE = "registry-unavailable"
    """Who is registered is not known now."""
    UNTRUSTED_PEER = "untrusted-peer"
    """Whoever asked is none of the reverse proxies whose word is taken."""

    @property
    def body(self) -> str:
        """The text that a refused caller is shown."""
        return _BODIES[self]


_VALIDATION_FAILED = "Access denied: Certificate validation failed"
_NOT_AUTHORIZED = "Access denied: Organization not authorized"
_BODIES: dict[DenialReason, str] = {
    DenialReason.NO_CERTIFICATE: "Access denied: No client certificate",
    DenialReason.BAD_ENCODING: "Access denied: Invalid certificate encoding",
    DenialReason.MALFORMED_CERTIFICATE: "Access denied: Invalid certificate",
    DenialReason.NO_ORGANIZATION: "Access denied: No organization in certificate",
    DenialReason.INVALID_HOTKEY: _NOT_AUTHORIZED,
    DenialReason.UNSUPPORTED_KEY: _VALIDATION_FAILED,
    DenialReason.EXPIRED: _VALIDATION_FAILED,
    DenialReason.NOT_YET_VALID: _VALIDATION_FAILED,
    DenialReason.WRONG_USAGE: _VALIDATION_FAILED,
    DenialReason.NOT_REGISTERED: _NOT_AUTHORIZED,
    DenialReason.KEY_MISMATCH: _VALIDATION_FAILED,
    DenialReason.BAD_SIGNATURE: _VALIDATION_FAILED,
    DenialReason.NOT_PERMITTED: _NOT_AUTHORIZED,
    DenialReason.REGISTRY_UNAVAILABLE: _NOT_AUTHORIZED,
    DenialReason.UNTRUSTED_PEER: _NOT_AUTHORIZED,
}

GRANTED_BODY = "Access granted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The caller holds the key that the registry knows for this hotkey.

    Attributes:
        hotkey: Who is calling.
        fingerprint: SHA-256 of the certificate's DER, lower-case hex.
        expires_at: Until when the facts behind this decision may be used (aware, UTC):
            the earlier of the certificate's end and the end of what the registry knows.
        neuron: What the registry knows of the caller's place in the subnet, where that is fetched.
    """

    hotkey: Hotkey
    fingerprint: str
    expires_at: datetime
    neuron: Neuron | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError("a decision has no truth value: match on Granted and Denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The caller is refused.

    Attributes:
        reason: The stable code.
        detail: What was wrong, in our own words, for the log; never text from the certificate.
        hotkey: The hotkey that the certificate names, where it got that far. Claimed, not proven.
        fingerprint: SHA-256 of the certificate's DER, where there was one.
    """

    reason: DenialReason
    detail: str = ""
    hotkey: Hotkey | None = None
    fingerprint: str | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError("a decision has no truth value: match on Granted and Denied")


Decision = Granted | Denied
"""The outcome for one caller at one moment."""
