from __future__ import annotations

import time

import pytest

from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.proxies.client import ask, ask_http2, http1_request
from tests.integration.proxies.documentation import REWRITE, documented_results, version_of
from tests.integration.proxies.scenarios import (
    LET_IN,
    REFUSED,
    SAFE,
    SCENARIOS,
    Scenario,
    judge,
    rotated,
)
from tests.integration.proxies.stack import REUSE_SECONDS, Stack


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.name for s in SCENARIOS])
def test_a_proxy_lets_in_the_right_ones_under_their_own_name(
    stack: Stack, scenario: Scenario, recorded: dict[tuple[str, str], str]
) -> None:
    """What reaches the application carries the caller's own hotkey, and nothing else gets there."""
    outcome = judge(scenario, stack)
    recorded[stack.proxy, scenario.name] = outcome
    match scenario.expected:
        case "refused":
            assert outcome in {REFUSED, "403"}
        case "let in":
            assert outcome == LET_IN
        case _:
            assert scenario.expected == SAFE
    if REWRITE:
        return
    documented, version = documented_results(stack.proxy)
    if version == version_of(stack.proxy):
        assert outcome == documented.get(scenario.name), (
            "the proxy's page says otherwise; see tests/integration/proxies/documentation.py"
        )


def test_a_rotated_key_ends_the_old_one_within_the_time_of_reuse(stack: Stack) -> None:
    """No proxy goes on letting in by an answer that is older than it was told."""
    keys, dora = stack.auth.registry.keys, a_hotkey("dora")
    keys[dora] = public_bytes(a_key("dora"))
    assert stack.ask("dora").status == 200
    assert ask(stack.port, rotated(stack, "dora")).status == 403
    keys[dora] = public_bytes(a_key("dora 2"))
    assert ask(stack.port, rotated(stack, "dora")).status == 200
    # A second for the reuse, and one for clocks that count in whole seconds.
    time.sleep(REUSE_SECONDS + 1.1)
    assert stack.ask("dora").status == 403


TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENTS_WORDS = [
    *((name, "/forged") for name in ("X-Original-URI", "X-Forwarded-Uri", "X_Original_URI")),
    *((name, "FORGED") for name in ("X-Original-Method", "X-Forwarded-Method")),
    *((f"X-Client-Cert-{name}", "O=/forged") for name in ("Subject", "Issuer")),
    ("X-Request-ID", "forged"),
    ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),
]


@pytest.mark.parametrize("who", ["nobody", "carol"])
@pytest.mark.parametrize("sends_twice", [False, True])
def test_what_a_client_says_of_its_request_is_never_logged_as_the_proxys_word(
    stack: Stack, who: str, *, sends_twice: bool
) -> None:
    """The real path and method, not a client's word; no id, no trace, no query with its tokens."""
    words = CLIENTS_WORDS * (1 + sends_twice)
    target, listener = "/real?token=s3cret", stack.auth.listener
    before = len(listener.facts)
    request = http1_request(method="PUT", target=target, headers=words)
    assert stack.ask(who, request).status == 403
    over_http2 = [(name.lower(), value) for name, value in words]
    answer = ask_http2(
        stack.port, stack.people[who], method="PUT", target=target, headers=over_http2
    )
    assert answer.status in {0, 400, 403}
    facts, headers = listener.facts[before:], listener.headers[before:]
    assert len(facts) >= 1
    for each in facts:
        assert each["uri"] == "/real"
        assert each["method"] == "PUT"
        assert "forged" not in str(each).lower()
        assert "s3cret" not in str(each)
    for sent in headers:
        assert not [value for _, value in sent if b"forged" in value.lower()]
        assert not [value for _, value in sent if TRACE.encode() in value]


def test_two_callers_never_share_an_answer(stack: Stack) -> None:
    """Whatever a proxy remembers, it remembers by certificate."""
    for _ in range(3):
        for who in ("alice", "bob"):
            count = len(stack.application.records)
            assert stack.ask(who).status == 200
            assert [r.hotkeys for r in stack.since(count)] == [[a_hotkey(who).address]]
        assert stack.ask("carol").status == 403
        assert stack.ask("nobody").status == 403


def test_no_request_of_http2_asks_the_application_for_another_protocol(stack: Stack) -> None:
    """The header has no place there, and an answer of 101 would end nowhere."""
    headers = [("upgrade", "websocket"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]
    count = len(stack.application.records)
    answer = ask_http2(stack.port, stack.people["alice"], headers=headers)
    assert answer.status in {0, 200, 400}
    assert all("upgrade" not in dict(record.headers) for record in stack.since(count))


def test_the_bodies_and_targets_of_callers_arrive_unchanged(stack: Stack) -> None:
    """Asking first takes nothing away from the request."""
    body = b"0123456789" * 300_000
    count = len(stack.application.records)
    request = http1_request(
        method="POST", target="/a/b%20c?d=e&f", headers=[("X-Mine", "yes")], body=body
    )
    assert stack.ask("alice", request).status == 200
    (record,) = stack.since(count)
    assert record.line == "POST /a/b%20c?d=e&f HTTP/1.1"
    assert record.body == body.decode()
    assert ("x-mine", "yes") in record.headers
