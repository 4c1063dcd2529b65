"""What is written about decisions."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from nexus_auth.adapters.observability.decision_log import DecisionLog, GrantLogging
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.reasons import DenialReason
from tests.builders import NOW, a_hotkey

ALICE = Granted(hotkey=a_hotkey("alice"), fingerprint="aa", expires_at=NOW)
BOB = Granted(hotkey=a_hotkey("bob"), fingerprint="bb", expires_at=NOW)
DENIED = Denied(reason=DenialReason.EXPIRED, detail="its validity is over")


class Seconds:
    """A monotonic clock that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def decide(decisions: DecisionLog, decision: Granted | Denied, **request: Any) -> None:
    """Has the log notified of one decision on an ordinary request."""
    known: dict[str, Any] = {"method": b"GET", "target": b"/auth", "headers": (), **request}
    decisions.decided(decision, seconds=0.0012345, **known)


def test_denial_is_written_with_all_its_facts() -> None:
    """One line: what, why, who, what for, how long."""
    with capture_logs() as lines:
        decide(
            DecisionLog(),
            Denied(
                reason=DenialReason.KEY_MISMATCH,
                detail="another key is registered",
                hotkey=a_hotkey("alice"),
                fingerprint="aa",
            ),
            headers=[
                (b"X-Original-URI", b"/x?y=z"),
                (b"x-original-method", b"POST"),
                (b"X-Request-ID", b"7f3a"),
            ],
        )
    assert lines == [
        {
            "event": "decision",
            "log_level": "info",
            "outcome": "denied",
            "code": "key-mismatch",
            "detail": "another key is registered",
            "hotkey": a_hotkey("alice").address,
            "certificate": "aa",
            "request_id": "7f3a",
            "method": "POST",
            "uri": "/x",
            "vouched": False,
            "duration_ms": 1.234,
        }
    ]


@pytest.mark.parametrize(
    ("grants", "lines"),
    [("all", ["decision"] * 5), ("sampled", ["decision"] * 2), ("none", [])],
)
def test_grants_are_written_as_often_as_is_wanted(grants: GrantLogging, lines: list[str]) -> None:
    """All, the first of each certificate, or none; denials always."""
    decisions = DecisionLog(grants=grants)
    with capture_logs() as written:
        for decision in (ALICE, BOB, ALICE, ALICE, BOB):
            decide(decisions, decision)
    assert [line["event"] for line in written] == lines
    with capture_logs() as written:
        decide(decisions, DENIED)
        decide(decisions, DENIED)
    assert [line["code"] for line in written] == ["expired", "expired"]


def test_repeated_grants_are_counted() -> None:
    """Nothing is lost: the lines and the counts make up the requests."""
    seconds = Seconds()
    decisions = DecisionLog(monotonic=seconds)
    with capture_logs() as lines:
        for decision in (ALICE, BOB, ALICE, ALICE):
            decide(decisions, decision)
        seconds.now += 60
        decisions.summarise()
        decide(decisions, ALICE)
        seconds.now += 60
        decisions.summarise()
        decisions.summarise()
        decide(decisions, ALICE)
    assert [(line["event"], line["certificate"], line.get("times")) for line in lines] == [
        ("decision", "aa", None),
        ("decision", "bb", None),
        ("grants_repeated", "aa", 2),
        ("grants_repeated", "aa", 1),
        ("decision", "aa", None),
    ]
    assert lines[2]["seconds"] == 60.0
    assert lines[2]["hotkey"] == a_hotkey("alice").address


def test_number_of_counted_certificates_is_bounded() -> None:
    """A caller with many certificates fills no memory, and no counts are lost."""
    decisions = DecisionLog()
    with capture_logs() as lines:
        decide(decisions, ALICE)
        decide(decisions, ALICE)
        for number in range(5000):
            decide(decisions, Granted(hotkey=ALICE.hotkey, fingerprint=str(number), expires_at=NOW))
    assert len(decisions._counts) == 4096
    assert [line["times"] for line in lines if line["event"] == "grants_repeated"] == [1]
