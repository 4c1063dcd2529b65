"""What is written about decisions."""

from __future__ import annotations

import re
from typing import Any

import pytest
from structlog.testing import capture_logs

from nexus_auth.adapters.observability.decision_log import DecisionLog, GrantLogging, client_request
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


def tell(decisions: DecisionLog, decision: Granted | Denied, **request: Any) -> None:
    """Tells the log of one decision on an ordinary request."""
    known: dict[str, Any] = {"method": b"GET", "target": b"/auth", "headers": (), **request}
    decisions.decided(decision, seconds=0.0012345, **known)


def test_denial_is_written_with_all_its_facts() -> None:
    """One line: what, why, who, what for, how long."""
    with capture_logs() as lines:
        tell(
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
            "uri": "/x?y=z",
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
            tell(decisions, decision)
    assert [line["event"] for line in written] == lines
    with capture_logs() as written:
        tell(decisions, DENIED)
        tell(decisions, DENIED)
    assert [line["code"] for line in written] == ["expired", "expired"]


def test_repeated_grants_are_counted() -> None:
    """Nothing is lost: the lines and the counts make up the requests."""
    seconds = Seconds()
    decisions = DecisionLog(monotonic=seconds)
    with capture_logs() as lines:
        for decision in (ALICE, BOB, ALICE, ALICE):
            tell(decisions, decision)
        seconds.now += 60
        decisions.summarise()
        tell(decisions, ALICE)
        seconds.now += 60
        decisions.summarise()
        decisions.summarise()
        tell(decisions, ALICE)
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
    """Whoever has many certificates fills no memory, and loses no counts."""
    decisions = DecisionLog()
    with capture_logs() as lines:
        tell(decisions, ALICE)
        tell(decisions, ALICE)
        for number in range(5000):
            tell(decisions, Granted(hotkey=ALICE.hotkey, fingerprint=str(number), expires_at=NOW))
    assert len(decisions._counts) == 4096
    assert [line["times"] for line in lines if line["event"] == "grants_repeated"] == [1]


@pytest.mark.parametrize(
    ("headers", "uri", "method"),
    [
        ((), "/auth", "GET"),
        ([(b"X-Forwarded-Uri", b"/f"), (b"X-Forwarded-Method", b"PUT")], "/f", "PUT"),
        ([(b"x-forwarded-uri", b"/f"), (b"x-original-uri", b"/o")], "/o", "GET"),
        ([(b"x-original-uri", b"/first"), (b"x-original-uri", b"/second")], "/first", "GET"),
        ([(b"x-original-uri", b"/\xff\xe2\x80\xae")], "/\\xff\\xe2\\x80\\xae", "GET"),
        ([(b"x-original-uri", b"a" * 600)], "a" * 512 + "… (600 bytes)", "GET"),
        ([(b"x-original-method", b"M" * 33)], "/auth", "M" * 32 + "… (33 bytes)"),
    ],
)
def test_original_request_is_told_within_bounds(
    headers: list[tuple[bytes, bytes]], uri: str, method: str
) -> None:
    """What the proxy says of the client's request, never longer than is useful."""
    with capture_logs() as lines:
        tell(DecisionLog(), DENIED, headers=headers)
    assert (lines[0]["uri"], lines[0]["method"]) == (uri, method)


@pytest.mark.parametrize(
    "given",
    [
        b"d9428888122b11e1b85c61cd3cbb3210",
        b"1-5759e988-bd862e3fe1be46a994272793",
        b"host/abcDEF-000001",
        b"x" * 128,
    ],
)
def test_request_id_of_the_proxy_is_taken_over(given: bytes) -> None:
    """So that our line can be found from the proxy's, and the other way round."""
    assert client_request(b"GET", b"/", [(b"x-request-id", given)])["request_id"] == given.decode()


@pytest.mark.parametrize("given", [None, b"", b"x" * 129, b"a b", b"a\nb", b'a"b', b"\xff"])
def test_request_id_is_made_where_none_is_usable(given: bytes | None) -> None:
    """Every line has one, and none holds what could be mistaken for something else."""
    headers = [] if given is None else [(b"x-request-id", given)]
    made = {client_request(b"GET", b"/", headers)["request_id"] for _ in range(3)}
    assert len(made) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)


@pytest.mark.parametrize(
    ("headers", "policy"),
    [
        ([], None),
        ([(b"X-Nexus-Auth-Policy", b"team")], "team"),
        (
            [(b"x-nexus-auth-policy", b"\x1b[2J" + 99 * b"a")],
            "\x1b[2J" + 60 * "a" + "… (103 bytes)",
        ),
    ],
)
def test_policy_that_the_proxy_chose_is_told(
    headers: list[tuple[bytes, bytes]], policy: str | None
) -> None:
    """Whoever was refused at one place may be welcome at another."""
    assert client_request(b"GET", b"/", headers).get("policy") == policy
