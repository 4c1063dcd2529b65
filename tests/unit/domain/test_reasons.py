from __future__ import annotations

import pytest

from nexus_auth.domain.reasons import GRANTED_BODY, DenialReason

# The table of the contract: every code with the text that a denied caller reads.
CONTRACT = {
    "no-certificate": "Access denied: No client certificate",
    "bad-encoding": "Access denied: Invalid certificate encoding",
    "malformed-certificate": "Access denied: Invalid certificate",
    "no-organization": "Access denied: No organization in certificate",
    "invalid-hotkey": "Access denied: Organization not authorized",
    "unsupported-key": "Access denied: Certificate validation failed",
    "expired": "Access denied: Certificate validation failed",
    "not-yet-valid": "Access denied: Certificate validation failed",
    "wrong-usage": "Access denied: Certificate validation failed",
    "not-registered": "Access denied: Organization not authorized",
    "key-mismatch": "Access denied: Certificate validation failed",
    "bad-signature": "Access denied: Certificate validation failed",
    "not-permitted": "Access denied: Organization not authorized",
    "registry-unavailable": "Access denied: Organization not authorized",
    "untrusted-peer": "Access denied: Organization not authorized",
}


def test_codes_and_texts_are_those_of_the_contract() -> None:
    """The enumeration is the table that users rely on, no code more and none less."""
    assert {reason.value: reason.body for reason in DenialReason} == CONTRACT


def test_body_of_a_grant_is_fixed() -> None:
    """The text that a caller reads when it is let in."""
    assert GRANTED_BODY == "Access granted"


@pytest.mark.parametrize("reason", DenialReason)
def test_every_reason_is_explained_and_found_by_its_code(reason: DenialReason) -> None:
    """One row each: code, body and explanation, none of them empty."""
    assert DenialReason(reason.value) is reason
    assert reason == reason.value
    assert reason.explanation.endswith((".", "?"))


def test_unknown_code_is_no_reason() -> None:
    """A lookup makes no new member."""
    with pytest.raises(ValueError, match="nonsense"):
        DenialReason("nonsense")
