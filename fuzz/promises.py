"""How a target says that a promise is broken."""

from __future__ import annotations

from typing import Final

MAX_MESSAGE: Final = 400
"""No message of ours is longer: it would carry something from outside with it."""


class PropertyBroken(AssertionError):
    """A promise does not hold for an input."""


def require(holds: object, promise: str) -> None:
    """Raises `PropertyBroken` with the promise when it does not hold."""
    if not holds:
        raise PropertyBroken(promise)


def require_plain(message: str) -> None:
    """A message is one line that every terminal and log shows as it stands."""
    require(message.isprintable(), f"a message with control characters: {message!r}")
    require(0 < len(message) <= MAX_MESSAGE, f"a message of {len(message)} characters")
