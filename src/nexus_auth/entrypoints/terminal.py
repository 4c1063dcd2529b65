"""What may be written to a terminal: text from outside made harmless, colour only where wanted."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from typing import Final, TextIO

_PLAIN: Final = re.compile(r"[0-9A-Za-z ._:@/+-]+")
_COLOURS: Final = {"green": "32", "red": "31", "yellow": "33", "bold": "1", "dim": "2"}


def escaped(text: str) -> str:
    """Makes text from outside safe to show: ASCII in one line, quoted where it is not plain.

    Control characters, escape sequences, bidirectional marks, look-alike letters: everything
    that could make a terminal show something other than what is there is written as an escape.
    """
    return text if _PLAIN.fullmatch(text) else ascii(text)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal; one that was closed is none."""
    with suppress(OSError, ValueError):
        return stream.isatty()
    return False


def wants_colour(stream: TextIO) -> bool:
    """Whether colour may be written to a stream: a terminal, and not switched off.

    See https://no-color.org for NO_COLOR.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return is_terminal(stream)


def painted(text: str, colour: str, stream: TextIO) -> str:
    """Wraps text that is already safe in a colour where the stream may have one.

    Colours are green, red, yellow, bold and dim; an empty one changes nothing.
    """
    if not colour or not wants_colour(stream):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def as_json(value: object) -> str:
    """Writes JSON that is safe to show: ASCII alone, control characters as escapes."""
    # DEL is the one control character that JSON allows as it is.
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")
