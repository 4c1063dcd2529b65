from __future__ import annotations

from email.message import Message
from typing import Final

import pytest

from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints.demo.certificates import a_hotkey
from nexus_auth.entrypoints.demo.scenarios import Answer, Scenario, problem_of

CALLER: Final = a_hotkey("validator")
GRANTED: Final = Scenario("a caller", "it is known")
DENIED: Final = Scenario("a stranger", "it is unknown", DenialReason.NOT_REGISTERED)


def answer(status: int, reason: str | None = None, **seen: Hotkey | str) -> Answer:
    """An answer; with headers that the application saw, it was reached."""
    headers = Message()
    for name, value in seen.items():
        headers[name.replace("_", "-")] = str(value)
    return Answer(status=status, reason=reason, seen=headers if seen else None)


@pytest.mark.parametrize(
    ("scenario", "got", "problem"),
    [
        (GRANTED, answer(200, X_Hotkey=CALLER), ""),
        (GRANTED, answer(403, "not-registered"), "expected 200"),
        (GRANTED, answer(200), "the answer is not the application's"),
        (GRANTED, answer(200, Host="x"), "the application saw X-Hotkey: []"),
        (GRANTED, answer(200, X_Hotkey="5other"), "the application saw X-Hotkey: ['5other']"),
        (
            GRANTED,
            answer(200, X_Hotkey=CALLER, X_Client_Cert="pem"),
            "a certificate header reached the application",
        ),
        (DENIED, answer(403, "not-registered"), ""),
        (DENIED, answer(200, X_Hotkey=CALLER), "expected 403"),
        (DENIED, answer(403, "not-registered", Host="x"), "the application was reached"),
        (DENIED, answer(403, None), "expected not-registered, the reason is None"),
    ],
)
def test_answer_is_right_in_every_respect_or_a_failure(
    scenario: Scenario, got: Answer, problem: str
) -> None:
    """Status, reason, whether the application was reached, and what it saw."""
    assert problem_of(got, scenario, caller=CALLER) == problem
