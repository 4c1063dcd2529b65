"""The signals by which a process is asked to end, in the hands of whoever cannot end just now."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

_ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_SIGNALLED: Final = 128


def exit_code_of(number: int) -> int:
    """What a shell reports of a process that a signal ended."""
    return _SIGNALLED + number


@contextmanager
def handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Takes over Ctrl-C and its relatives for the length of the block, on the main thread."""
    before: dict[int, Any] = {each: signal.signal(each, handle) for each in _ENDING}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
