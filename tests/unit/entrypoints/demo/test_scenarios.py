from __future__ import annotations

import sys
from email.message import Message
from typing import Final

import pytest

from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints.demo.certificates import a_hotkey
from nexus_auth.entrypoints.demo.scenarios import (
    Answer,
    Scenario,
    problem_of,
    show_scenario,
    show_verdict,
)

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


def test_piped_output_is_plain_and_one_line_a_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but text reaches a file; a failure can be found with grep."""
    show_scenario(status=200, line="a caller", why="it is known", problem="")
    show_scenario(status=200, line="a stranger", why="it is unknown", problem="expected 403")
    shown = capsys.readouterr().out
    right, wrong = shown.splitlines()
    assert right.split() == ["ok", "200", "a", "caller", "it", "is", "known"]
    assert wrong.split() == ["FAIL", "200", "a", "stranger", "expected", "403"]
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("all_right", "expected"), [(True, "All as it must be."), (False, "Not all is as it must be.")]
)
def test_verdict_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    all_right: bool,  # noqa: FBT001 - a table
    expected: str,
) -> None:
    """One sentence sums it up."""
    show_verdict(all_right=all_right)
    assert capsys.readouterr().out.strip() == expected


@pytest.mark.parametrize(("columns", "lines"), [("80", 2), ("96", 1)])
def test_narrow_terminal_gets_the_reason_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: str,
    lines: int,
) -> None:
    """No word is broken at the edge."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_scenario(status=200, line="a caller", why="it is known", problem="")
    assert len(capsys.readouterr().out.splitlines()) == lines
