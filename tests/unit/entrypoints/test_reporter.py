from __future__ import annotations

import asyncio
import io

import pytest

from nexus_auth.entrypoints.reporter import Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError

    def isatty(self) -> bool:
        raise OSError


def test_results_and_the_rest_go_different_ways() -> None:
    """What a script reads is not mixed with what a person reads."""
    out, err = io.StringIO(), io.StringIO()
    reporter = Reporter(out=out, err=err)
    reporter.result("done")
    reporter.say("going on")
    reporter.warn("beware")
    assert out.getvalue() == "done\n"
    assert err.getvalue() == "going on\nWARNING: beware\n"


async def test_terminal_shows_one_line_that_is_wiped() -> None:
    """It counts the seconds, and a message in between stands on its own line."""
    err = Terminal()
    reporter = Reporter(out=io.StringIO(), err=err)
    async with reporter.waiting("waiting"):
        await asyncio.sleep(0)
        reporter.say("something")
    shown = err.getvalue()
    assert "\r\x1b[K| waiting (0 s)" in shown
    assert "\r\x1b[Ksomething\n" in shown


@pytest.mark.virtual_time
async def test_log_gets_plain_lines() -> None:
    """One at once, and one every now and then."""
    err = io.StringIO()
    async with Reporter(out=io.StringIO(), err=err).waiting("waiting"):
        await asyncio.sleep(60)
    lines = err.getvalue().splitlines()
    assert lines[0] == "waiting"
    assert lines[1:] == ["waiting (0 s)"] * 3
    assert "\x1b" not in err.getvalue()


async def test_reader_that_went_away_is_no_failure() -> None:
    """A closed pipe must not lose a key."""
    reporter = Reporter(out=Broken(), err=Broken())
    async with reporter.waiting("waiting"):
        reporter.say("something")
        reporter.warn("something")
    reporter.result("done")


def test_process_without_streams_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has None in the place of a stream that was closed at the start."""
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    reporter = Reporter()
    reporter.result("done")
    reporter.warn("something")


def test_stream_that_was_closed_is_no_failure() -> None:
    """Whatever is asked of it fails."""
    stream = io.StringIO()
    stream.close()
    Reporter(out=stream, err=stream).warn("something")


class Strange(Terminal):
    def write(self, _: str) -> int:
        raise LookupError


async def test_display_that_breaks_is_no_failure_of_what_is_waited_for() -> None:
    """Even in an unforeseen way."""
    reporter = Reporter(out=io.StringIO(), err=Strange())
    async with reporter.waiting("waiting"):
        await asyncio.sleep(0)
    reporter.warn("something")


def test_check_is_one_line_that_grep_finds() -> None:
    """Nothing but text reaches a file; what is wrong is marked."""
    out = io.StringIO()
    reporter = Reporter(out=out, err=io.StringIO())
    reporter.check("a caller", "it is known", is_right=True)
    reporter.check("a stranger", "expected 403", is_right=False)
    assert out.getvalue() == "  ok  a caller  it is known\n FAIL a stranger  expected 403\n"


@pytest.mark.parametrize(("columns", "lines"), [("80", 2), ("96", 1)])
def test_narrow_terminal_gets_the_reason_of_a_check_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, columns: str, lines: int
) -> None:
    """No word is broken at the edge."""
    monkeypatch.setenv("COLUMNS", columns)
    out = Terminal()
    Reporter(out=out, err=io.StringIO()).check("a caller", "it is known", is_right=True)
    assert len(out.getvalue().splitlines()) == lines


def test_result_may_have_a_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file it is plain text."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for out, shown in ((Terminal(), "\x1b[32mgood\x1b[0m\n"), (io.StringIO(), "good\n")):
        Reporter(out=out, err=io.StringIO()).result("good", "green")
        assert out.getvalue() == shown
