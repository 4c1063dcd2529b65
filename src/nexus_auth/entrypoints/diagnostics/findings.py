"""What `doctor` and `status` found: one value for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final, TextIO

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.terminal import painted


@unique
class Outcome(StrEnum):
    """How good a finding is."""

    OK = "ok"
    """As it should be."""
    WARNING = "warning"
    """Worth a look."""
    WRONG = "wrong"
    """Keeps something from working."""
    UNREACHABLE = "unreachable"
    """Something gave no answer."""
    SKIPPED = "skipped"
    """Not looked at; the text says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing.

    Attributes:
        subject: What was looked at, in a word or two.
        outcome: How good it is.
        text: What was found, in one line; text from outside is already escaped.
        next_step: The one thing to do next; empty where nothing need be done.
    """

    subject: str
    outcome: Outcome
    text: str
    next_step: str = ""


_MARKS: Final = {
    Outcome.OK: ("ok", "green"),
    Outcome.WARNING: ("!", "yellow"),
    Outcome.WRONG: ("WRONG", "red"),
    Outcome.UNREACHABLE: ("WRONG", "red"),
    Outcome.SKIPPED: ("-", "dim"),
}


def as_lines(findings: Iterable[Finding], stream: TextIO) -> list[str]:
    """The form for a terminal: a line a finding, and what to do below it."""
    lines = []
    for finding in findings:
        mark, colour = _MARKS[finding.outcome]
        shown = painted(f"{mark:<6}", colour, stream)
        lines.append(f"{shown}{finding.subject:<14}{finding.text}")
        if finding.next_step:
            lines.append(f"{'':<20}-> {finding.next_step}")
    return lines


def exit_code(findings: Sequence[Finding]) -> int:
    """0 when nothing is wrong, 3 when something could not be reached, 1 otherwise."""
    outcomes = {finding.outcome for finding in findings}
    if Outcome.WRONG in outcomes:
        return exit_codes.FAILED
    return exit_codes.UNREACHABLE if Outcome.UNREACHABLE in outcomes else exit_codes.DONE
