"""Why a caller is denied: one row for each reason."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Final, Self

GRANTED_BODY: Final = "Access granted"

_NO_CERTIFICATE: Final = "Access denied: No client certificate"
_NOT_AUTHORIZED: Final = "Access denied: Organization not authorized"
_VALIDATION_FAILED: Final = "Access denied: Certificate validation failed"


@unique
class DenialReason(StrEnum):
    """Why a caller is denied.

    Each member is a stable code that users rely on. Its row holds the code, the body and the
    explanation.

    Attributes:
        body: The text that the denied caller is shown.
        explanation: What it means, for operators; one sentence.
    """

    body: str
    explanation: str

    def __new__(cls, code: str, body: str = "", explanation: str = "") -> Self:
        """Makes a member out of its row; a lookup by value gives the code alone."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.body = body
        member.explanation = explanation
        return member

    NO_CERTIFICATE = (
        "no-certificate",
        _NO_CERTIFICATE,
        "The proxy passed on no certificate, or more than one.",
    )
    BAD_ENCODING = (
        "bad-encoding",
        "Access denied: Invalid certificate encoding",
        "The certificate header does not decode; is the proxy set right?",
    )
    MALFORMED_CERTIFICATE = (
        "malformed-certificate",
        "Access denied: Invalid certificate",
        "Not exactly one well-formed certificate.",
    )
    NO_ORGANIZATION = (
        "no-organization",
        "Access denied: No organization in certificate",
        "The subject does not name exactly one organization.",
    )
    INVALID_HOTKEY = (
        "invalid-hotkey",
        _NOT_AUTHORIZED,
        "The organization is not a hotkey's address.",
    )
    UNSUPPORTED_KEY = (
        "unsupported-key",
        _VALIDATION_FAILED,
        "The certificate's key is not an Ed25519 key.",
    )
    EXPIRED = ("expired", _VALIDATION_FAILED, "The certificate's validity is over.")
    NOT_YET_VALID = (
        "not-yet-valid",
        _VALIDATION_FAILED,
        "The certificate is not valid yet; compare the clocks.",
    )
    WRONG_USAGE = ("wrong-usage", _VALIDATION_FAILED, "The certificate was not made for a client.")
    NOT_REGISTERED = ("not-registered", _NOT_AUTHORIZED, "The subnet has no key of this hotkey.")
    KEY_MISMATCH = (
        "key-mismatch",
        _VALIDATION_FAILED,
        "The subnet has another key of this hotkey: it was replaced.",
    )
    BAD_SIGNATURE = (
        "bad-signature",
        _VALIDATION_FAILED,
        "The certificate was not signed with its own key.",
    )
    NOT_PERMITTED = (
        "not-permitted",
        _NOT_AUTHORIZED,
        "The access policy does not admit this hotkey.",
    )
    REGISTRY_UNAVAILABLE = (
        "registry-unavailable",
        _NOT_AUTHORIZED,
        "Who is registered is not known now.",
    )
    UNTRUSTED_PEER = (
        "untrusted-peer",
        _NOT_AUTHORIZED,
        "The peer is none of the trusted proxies.",
    )
