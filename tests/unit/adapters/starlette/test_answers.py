"""How decisions are written as responses."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nexus_auth.adapters.starlette.answers import Answer, build_answer
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.reasons import DenialReason
from tests.builders import NOW, a_hotkey

ALICE = a_hotkey("alice")


@pytest.mark.parametrize("reason", DenialReason)
def test_denial_says_why_and_forbids_keeping_it(reason: DenialReason) -> None:
    """Every reason has its body and its code, and nothing that could be taken for a grant."""
    answer = build_answer(Denied(reason=reason), NOW, timedelta(seconds=5))
    headers = dict(answer.headers)
    assert answer.status == 403
    assert answer.body == reason.body.encode()
    assert headers == {
        b"x-nexus-auth-reason": reason.value.encode(),
        b"cache-control": b"no-store",
        b"content-length": str(len(answer.body)).encode(),
        b"content-type": b"text/plain; charset=utf-8",
    }


def a_grant(expires_in: timedelta) -> Granted:
    """A grant to alice that holds for so long."""
    return Granted(hotkey=ALICE, fingerprint="", expires_at=NOW + expires_in)


@pytest.mark.parametrize(
    ("expires_in", "reuse", "expected"),
    [
        (timedelta(minutes=15), timedelta(seconds=5), b"5"),
        (timedelta(seconds=3.9), timedelta(seconds=5), b"3"),
        (timedelta(seconds=1), timedelta(seconds=5), b"1"),
        (timedelta(seconds=0.9), timedelta(seconds=5), None),
        (timedelta(0), timedelta(seconds=5), None),
        # The end passed while the answer was being written.
        (timedelta(seconds=-100), timedelta(seconds=5), None),
        (timedelta(minutes=15), timedelta(0), None),
    ],
)
def test_grant_may_be_reused_for_as_long_as_it_is_worth(
    expires_in: timedelta, reuse: timedelta, expected: bytes | None
) -> None:
    """In whole seconds, rounded down; nothing left means no header at all, and no-store."""
    headers = dict(build_answer(a_grant(expires_in), NOW, reuse).headers)
    assert headers.get(b"x-accel-expires") == expected
    assert headers.get(b"cache-control") == (None if expected else b"no-store")


def test_head_is_the_status_and_the_headers_as_http_writes_them() -> None:
    """For a server that writes the response itself."""
    answer = Answer(403, ((b"x-nexus-auth-reason", b"expired"), (b"content-length", b"0")), b"")
    assert answer.head == (
        b"HTTP/1.1 403 Forbidden\r\nX-Nexus-Auth-Reason: expired\r\nContent-Length: 0\r\n"
    )
    with pytest.raises(TypeError):
        Answer(403, (), b"", b"HTTP/1.1 200 OK\r\n")  # type: ignore[call-arg] # The point.
