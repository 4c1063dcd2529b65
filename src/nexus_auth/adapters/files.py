"""Reads files that somebody named, whatever they turn out to be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# Windows has neither named pipes among its files nor the flag.
_DO_NOT_WAIT: Final = getattr(os, "O_NONBLOCK", 0)


def load_bytes(path: Path, limit: int) -> bytes:
    """Reads a file to its end, or as much of it as the limit allows.

    A pipe is read like a file while somebody writes to it, as in `<(openssl x509 ...)`. One that
    nobody writes to is empty: opening it as usual would wait for a writer for ever.

    Raises:
        OSError: When it cannot be read.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if _DO_NOT_WAIT:
            # What a writer is about to write is waited for.
            os.set_blocking(file.fileno(), True)
        return file.read(limit)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | _DO_NOT_WAIT)
