"""Compares results with those that were committed last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

_WORSE: Final = 0.10

_Results = dict[str, Any]
_Figure = Callable[[_Results, str], float]


def regressions(before: _Results, now: _Results) -> list[str]:
    """Every figure of ours that is more than a tenth worse than the committed one."""
    return [
        *_worse(before, now, "direct", _ratio, "of the yardstick", more_is_better=True),
        *_worse(before, now, "through nginx", _ratio, "of the yardstick", more_is_better=True),
        *_worse(before, now, "verifier", _ratio, "of one Ed25519 verification"),
        *_worse(before, now, "flood", _ratio, "of one Ed25519 verification"),
        *_worse(before, now, "start-up", _in_interpreters, "empty interpreters"),
        *_worse(before, now, "memory", _plain, "MB"),
    ]


def _ratio(section: _Results, name: str) -> float:
    return float(section[name]["ratio"])


def _plain(section: _Results, name: str) -> float:
    return float(section[name])


def _in_interpreters(section: _Results, name: str) -> float:
    return float(section[name] / section["an empty interpreter"])


def _worse(
    before: _Results,
    now: _Results,
    section: str,
    figure: _Figure,
    unit: str,
    *,
    more_is_better: bool = False,
) -> Iterator[str]:
    committed, measured = before[section], now[section]
    for name in committed:
        if name not in measured or not _is_ours(section, name):
            continue
        was, is_now = figure(committed, name), figure(measured, name)
        if is_now < was * (1 - _WORSE) if more_is_better else is_now > was * (1 + _WORSE):
            yield f"{name}: {is_now:.4g} {unit}, was {was:.4g}"


def _is_ours(section: str, name: str) -> bool:
    """Nobody but us is to blame for our verifier; elsewhere others are measured beside us."""
    ours = ("nexus-auth", "our ", "import nexus_auth")
    return section in {"verifier", "flood"} or name.startswith(ours)
