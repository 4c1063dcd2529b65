"""How text from a command line or a setting becomes a value, and how commands declare flags.

A parser here takes text and returns the value, or raises `ValueError` saying what is expected.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

from nexus_auth.domain.errors import ConfigurationError

Declares = argparse.ArgumentParser | argparse._ArgumentGroup  # noqa: SLF001 - no other name
"""What flags can be declared on."""

T = TypeVar("T")

_MAX_DIGITS: Final = 12
_TRUTHS: Final = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def add_value(parser: Declares, name: str, **options: Any) -> None:
    """Declares a flag with a value, written with one dash or two; `options` are argparse's."""
    parser.add_argument(f"-{name}", f"--{name}", **options)


def add_switch(parser: argparse.ArgumentParser, name: str, explanation: str) -> None:
    """Declares a flag that is there or not."""
    add_value(parser, name, action="store_true", help=explanation)


def add_go_switch(parser: argparse.ArgumentParser, name: str, explanation: str) -> None:
    """Declares a switch that may be written as in Go too: -name=true, -name=false.

    Only for commands without positional arguments, which it would take for its value.
    """
    add_value(
        parser,
        name,
        nargs="?",
        const=True,
        default=False,
        type=_truth,
        metavar="true|false",
        help=explanation,
    )


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise argparse.ArgumentTypeError("expected true or false")
    return _TRUTHS[text.lower()]


def parsed(flag: str, text: str, parse: Callable[[str], T], *, source: str | None = None) -> T:
    """Parses the value of a flag.

    Raises:
        ConfigurationError: When the parser does not accept it; it names the flag and the text.
    """
    try:
        return parse(text)
    except ValueError as exc:
        raise ConfigurationError(setting=flag, source=source, problem=f"{text!r}: {exc}") from None


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """Makes a parser for whole numbers of a range, both ends included."""

    def parse(text: str) -> int:
        # Digits alone: `int` would also take 1_000, other scripts' digits and white space.
        digits = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
        if not digits or not lowest <= int(text) <= highest:
            raise ValueError(f"expected a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def seconds(lowest: float, highest: float) -> Callable[[str], float]:
    """Makes a parser for seconds of a range, both ends included."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            number = float(text)
            if lowest <= number <= highest:
                return number
        raise ValueError(f"expected seconds from {lowest:g} to {highest:g}")

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    """Makes a parser for one of a few words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text

    return parse


def true_or_false(text: str) -> bool:
    """Parses `true` or `false`."""
    if text not in {"true", "false"}:
        raise ValueError("expected true or false")
    return text == "true"


def token(text: str) -> str:
    """Parses what can travel in an Authorization header."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a token is printable ASCII without spaces")
    return text
