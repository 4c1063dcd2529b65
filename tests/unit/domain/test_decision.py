from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.reasons import GRANTED_BODY, DenialReason
from tests.builders import NOW, a_hotkey

FINGERPRINT = "ab" * 32

# The table of the contract: every code with the text that a refused caller reads.
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

DECISIONS: list[Decision] = [
    Granted(hotkey=a_hotkey(), fingerprint=FINGERPRINT, expires_at=NOW),
    Denied(reason=DenialReason.EXPIRED),
]


def test_codes_and_texts_are_those_of_the_contract() -> None:
    """The enumeration is the table that users rely on, no code more and none less."""
    assert {reason.value: reason.body for reason in DenialReason} == CONTRACT


def test_body_of_a_grant_is_fixed() -> None:
    """The text that a caller reads when it is let in."""
    assert GRANTED_BODY == "Access granted"


@pytest.mark.parametrize("decision", DECISIONS, ids=["granted", "denied"])
def test_decision_has_no_truth_value(decision: Decision) -> None:
    """Without this, `if decision:` would let everybody in."""
    with pytest.raises(TypeError, match="no truth value"):
        bool(decision)


@pytest.mark.parametrize("decision", DECISIONS, ids=["granted", "denied"])
def test_decision_is_an_immutable_value(decision: Decision) -> None:
    """A decision compares by its content, copies and pickles, and cannot be changed."""
    assert copy.deepcopy(decision) == decision
    assert pickle.loads(pickle.dumps(decision)) == decision  # noqa: S301 - our own bytes
    assert hash(decision) == hash(copy.copy(decision))
    with pytest.raises(dataclasses.FrozenInstanceError):
        decision.hotkey = a_hotkey("bob")  # type: ignore[misc] # The point of the test.


def test_match_consumes_both() -> None:
    """How a decision is meant to be used."""
    seen = []
    for decision in DECISIONS:
        match decision:
            case Granted(hotkey=hotkey):
                seen.append(hotkey.address)
            case Denied(reason=reason):
                seen.append(reason.value)
    assert seen == [a_hotkey().address, "expired"]
