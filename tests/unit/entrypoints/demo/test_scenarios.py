from __future__ import annotations

import sys

import pytest

from nexus_auth.entrypoints.demo.scenarios import show_scenario, show_verdict


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
