"""The log: one event a line, JSON or readable, on standard output.

Our own events go through here, and what libraries write by way of `logging`. Text from outside is
written as escapes wherever it is not plain ASCII, so that no line can be forged and no terminal
be driven. A reader that went away, or stopped reading, or a full disk, never disturbs a decision.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import traceback
import warnings
from contextlib import suppress
from functools import partial
from typing import Any, Final, TextIO

import structlog
from cryptography.utils import CryptographyDeprecationWarning
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from nexus_auth.entrypoints.terminal import escaped, painted

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_FIRST: Final = ("timestamp", "level", "event")
_MAX_VALUE: Final = 4096
"""Longer texts are cut: a line stays short enough to be written in one piece."""

_MAX_TRACEBACK: Final = 16 * 1024

_QUIET_LIBRARIES: Final = (
    *("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "asyncio"),
)
"""What they log at INFO, our own events say better, addresses included."""


class _Lines:
    """Writes whole lines to a stream, and neither fails nor waits.

    A line that finds no room is left out: a reader that stops reading must not stop decisions, and
    neither must a full disk. The next line that finds room is preceded by one that says how many
    are missing. Nothing is buffered, so nothing is left to fail when the process ends.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0
        self._is_cut = False  # the disk was full in the middle of a line
        self._descriptor: int | None = None
        with suppress(OSError, ValueError):  # a stream in memory
            self._descriptor = stream.fileno()

    def msg(self, line: str) -> None:
        lost = self._lost
        if lost and self._has_room():
            self._lost = 0
            log = structlog.get_logger()
            # An error, so that it is written at every log level.
            log.error("log_lines_lost", lines=lost)  # comes back here, once
            if self._lost:  # it was not written either
                self._lost = lost + 1
                return
        if not self._has_room():
            self._lost += 1
            return
        if not self._write(line + "\n"):
            self._lost += 1

    def _write(self, line: str) -> bool:
        """Writes one line; returns whether all of it was written."""
        try:
            if self._descriptor is None:
                self._stream.write(line)
                return True
            data = line.encode("utf-8", "backslashreplace")
            if self._is_cut:
                data = b"\n" + data
            written = os.write(self._descriptor, data)
        except (OSError, ValueError):
            return False
        self._is_cut = written < len(data)
        return not self._is_cut

    def _has_room(self) -> bool:
        """Whether a line can be written without waiting.

        A pipe has room where 4096 bytes fit (POSIX' PIPE_BUF, on Linux). No line whose content a
        caller chooses is longer: what callers send is cut far below.
        """
        if self._descriptor is None:
            return True
        poll = select.poll()  # One each time: two threads cannot use the same one at once.
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    debug = info = warning = error = critical = exception = msg


def configure_logging(*, log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Sets up structlog and the standard library's logging for this process.

    Args:
        log_format: `json`, `console`, or `auto`: console on a terminal and JSON elsewhere.
        level: The least severe level that is written: debug, info, warning or error.
        stream: Where to; standard output by default.
    """
    stream = sys.stdout if stream is None else stream
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_traceback_of),
        partial(_render_console, stream) if console else _render_json,
    ]
    lines = _Lines(stream)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(_LEVELS[level])
    for name in _QUIET_LIBRARIES:
        library = logging.getLogger(name)
        library.setLevel(max(logging.WARNING, _LEVELS[level]))
        # An earlier configuration, such as uvicorn's own defaults, is undone.
        library.handlers.clear()
        library.propagate = True
        library.disabled = False
    logging.captureWarnings(capture=True)
    # Odd serial numbers, negative lengths and the like: the decision says what is wrong with them,
    # and a caller must not choose how much we write.
    warnings.filterwarnings("ignore", category=CryptographyDeprecationWarning)
    warnings.filterwarnings("ignore", module=r"cryptography\b")


class _Bridge(logging.Handler):
    """Passes on what libraries write by way of `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record as the event `library_message`."""
        levels = (name for name, number in _LEVELS.items() if record.levelno <= number)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = record.msg
        more = {"exc_info": record.exc_info} if record.exc_info and record.exc_info[0] else {}
        write = getattr(structlog.get_logger(), next(levels, "error"))
        write("library_message", logger=record.name, message=message, **more)


def _traceback_of(exc_info: ExcInfo) -> str:
    """The traceback without local variables, which may be secret."""
    return "".join(traceback.format_exception(*exc_info))[-_MAX_TRACEBACK:]


def _cut(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]} ({len(value)} characters)"


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    """One JSON object in one line of ASCII; the time, the level and the event come first."""
    trace = event.pop("exception", None)
    ordered: dict[str, Any] = {name: event.pop(name, None) for name in _FIRST}
    for name, value in event.items():
        ordered[name] = _cut(value) if isinstance(value, str) else value
    if trace is not None:
        ordered["traceback"] = trace
    # DEL is the one control character that JSON leaves as it is.
    return json.dumps(ordered, default=str).replace("\x7f", "\\u007f")


def _render_console(stream: TextIO, _: WrappedLogger, __: str, event: EventDict) -> str:
    """One readable line: time, level, event, then name=value."""
    timestamp, level = event.pop("timestamp", ""), event.pop("level", "")
    text, trace = escaped(_cut(str(event.pop("event", "")))), event.pop("exception", "")
    colour = {"warning": "yellow", "error": "red", "critical": "red"}.get(level, "bold")
    parts = [painted(timestamp, "dim", stream), f"{level:<7}"]
    parts.append(painted(f"{text:<16}", colour, stream))
    for name, value in event.items():
        if value is not None and value != "":
            shown = escaped(_cut(str(value)))
            outcome = {"granted": "green", "denied": "red"}.get(shown, "")
            parts.append(f"{name}={painted(shown, outcome, stream)}")
    # Indented and escaped line by line: the text of an exception cannot begin a line of ours.
    parts += [f"\n    {ascii(line)[1:-1]}" for line in trace.splitlines()]
    return " ".join(parts)
