"""What the process writes about itself."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import logging.config
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvicorn.config
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.entrypoints.logs import configure_logging

HOSTILE = "a\r\nb\x00\x1b[31m\x7f\x9b\u202e\u200b\ud800ä"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leaves no trace of the configuration in other tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configured(log_format: str = "json", level: str = "info") -> tuple[Any, io.StringIO]:
    """A logger of ours, and where it writes."""
    stream = io.StringIO()
    configure_logging(log_format=log_format, level=level, stream=stream)
    return structlog.get_logger(), stream


def test_json_line_begins_with_time_level_and_event() -> None:
    """So that a person can read it, too."""
    log, stream = configured()
    log.info("decision", outcome="granted", times=3, nothing=None)
    line = json.loads(stream.getvalue())
    assert list(line) == ["timestamp", "level", "event", "outcome", "times", "nothing"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["event"], line["times"]) == ("info", "decision", 3)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_text_from_outside_cannot_forge_a_line(log_format: str) -> None:
    """One event is one line of printable ASCII."""
    log, stream = configured(log_format)
    log.info("decision", uri=HOSTILE)
    logging.getLogger("library").error("said %s", HOSTILE)
    first, second = stream.getvalue().splitlines()
    assert (first + second).isascii()
    assert (first + second).isprintable()


@given(text=st.text())
def test_any_text_is_one_printable_line(text: str) -> None:
    """Whatever is in it; and JSON gives it back."""
    log, stream = configured()
    log.info("decision", uri=text)
    (line,) = stream.getvalue().split("\n")[:-1]
    assert line.isascii()
    assert line.isprintable()
    if len(text) <= 4096:
        assert json.loads(line)["uri"] == text


def test_reader_that_stops_reading_delays_nothing() -> None:
    """Lines without room are left out, and counted before the next line that finds room."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as stream:
        configure_logging(log_format="json", level="info", stream=stream)
        log = structlog.get_logger()
        for number in range(1000):
            log.info("decision", number=number, uri="x" * 500)
        os.set_blocking(reading, False)
        before = [json.loads(line) for line in reader.read().splitlines()]
        log.info("decision", number=1000)
        notice, after = (json.loads(line) for line in reader.read().splitlines())
        log.info("decision", number=1001)
        (last,) = (json.loads(line) for line in reader.read().splitlines())
    assert [line["number"] for line in before] == list(range(len(before)))
    assert (notice["event"], notice["lines"]) == ("log_lines_lost", 1000 - len(before))
    assert (after["number"], last["number"]) == (1000, 1001)


def test_reader_that_went_away_delays_nothing() -> None:
    """Nor does it end anything."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    configure_logging(log_format="json", level="info", stream=stream)
    structlog.get_logger().info("decision")
    with contextlib.suppress(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_traceback_is_told_without_forging_lines(log_format: str) -> None:
    """An exception's text may come from outside."""
    log, stream = configured(log_format)
    try:
        int("x\nforged\x1b[31m")
    except ValueError:
        log.exception("decision_failed")
    text = stream.getvalue()
    assert "ValueError" in text
    assert "\nforged" not in text
    assert "\x1b" not in text
    if log_format == "json":
        assert len(text.splitlines()) == 1


def test_huge_text_is_cut() -> None:
    """A line stays short enough to be written in one piece."""
    log, stream = configured()
    log.info("decision", uri="a" * 100_000)
    assert len(stream.getvalue()) < 5_000
    assert "(100000 characters)" in stream.getvalue()


def test_what_configured_a_library_before_is_undone() -> None:
    """A uvicorn that once ran with its own defaults does not keep its messages to itself."""
    logging.config.dictConfig(uvicorn.config.LOGGING_CONFIG)
    logging.getLogger("uvicorn.error").disabled = True
    _, stream = configured()
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert json.loads(stream.getvalue())["event"] == "library_message"


def test_level_and_quiet_libraries_are_respected() -> None:
    """Debug is off by default, and what httpx says at INFO is not ours to write."""
    log, stream = configured()
    log.debug("detail")
    logging.getLogger("httpx").info("HTTP Request: GET ...")
    logging.getLogger("uvicorn.error").info("Started server process")
    assert stream.getvalue() == ""
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"]) == ("library_message", "uvicorn.error")


def test_warnings_become_events() -> None:
    """Nothing is written past the log."""
    _, stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "old" in json.loads(stream.getvalue())["message"]


def test_full_disk_loses_whole_lines_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the line in whose middle it became full; nothing waits in a buffer for the end."""
    room = 300
    really_write = os.write

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = really_write(descriptor, data[:room])
        room -= written
        return written

    path = tmp_path / "log"
    with path.open("w") as stream:
        configure_logging(log_format="json", level="info", stream=stream)
        log = structlog.get_logger()
        monkeypatch.setattr(os, "write", write)
        for number in range(10):
            log.info("decision", number=number)
        monkeypatch.setattr(os, "write", really_write)
        log.info("decision", number=10)
    *before, cut, notice, last = path.read_text().splitlines()
    assert [json.loads(line)["number"] for line in before] == list(range(len(before)))
    assert cut.startswith("{")
    assert json.loads(notice)["lines"] == 10 - len(before)
    assert json.loads(last)["number"] == 10


def test_unwritable_log_raises_nothing() -> None:
    """A full disk is no reason to stop deciding."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    configure_logging(log_format="json", level="info", stream=Full())
    structlog.get_logger().info("decision")
    logging.getLogger("library").error("said")


def test_console_is_for_people() -> None:
    """No braces, no empty values, no colours except on a terminal."""
    log, stream = configured("console")
    log.info("decision", outcome="granted", hotkey="5F", certificate=None, detail="")
    line = stream.getvalue().strip()
    assert line.endswith("decision         outcome=granted hotkey=5F")
    assert "\x1b" not in line
