from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.reasons import DenialReason
from tests.builders import NOW, a_hotkey

FINGERPRINT = "ab" * 32

DECISIONS: list[Decision] = [
    Granted(hotkey=a_hotkey(), fingerprint=FINGERPRINT, expires_at=NOW),
    Denied(reason=DenialReason.EXPIRED),
]


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


def test_denial_has_no_detail_unless_one_is_given() -> None:
    """An application may deny for a reason alone."""
    denied = Denied(reason=DECISIONS[1].reason)  # type: ignore[union-attr] # The denied one.
    assert (denied.detail, denied.hotkey, denied.fingerprint) == ("", None, None)
