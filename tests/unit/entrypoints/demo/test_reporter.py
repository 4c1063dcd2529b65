from __future__ import annotations

import io

import pytest

from nexus_auth.entrypoints.demo.reporter import Reporter


def test_piped_output_is_plain_and_one_line_a_scenario() -> None:
    """Nothing but text reaches a file; a failure can be found with grep."""
    stream = io.StringIO()
    reporter = Reporter(stream)
    reporter.scenario(is_right=True, status=200, asked="a caller", why="it is known")
    reporter.scenario(is_right=False, status=200, asked="a stranger", why="expected 403")
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["ok", "200", "a", "caller", "it", "is", "known"]
    assert lines[1].split()[:2] == ["FAIL", "200"]
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("all_right", "expected"), [(True, "All as it must be."), (False, "Not all is as it must be.")]
)
def test_verdict_is_the_last_word(all_right: bool, expected: str) -> None:  # noqa: FBT001 - a table
    """One sentence sums it up."""
    stream = io.StringIO()
    Reporter(stream).verdict(all_right=all_right)
    assert stream.getvalue().strip() == expected


@pytest.mark.parametrize(("columns", "lines"), [("80", 2), ("96", 1)])
def test_narrow_terminal_gets_the_reason_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, columns: str, lines: int
) -> None:
    """No word is broken at the edge."""
    monkeypatch.setenv("COLUMNS", columns)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    Reporter(stream).scenario(is_right=True, status=200, asked="a caller", why="it is known")
    assert len(stream.getvalue().splitlines()) == lines
