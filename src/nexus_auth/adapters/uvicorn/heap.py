"""Gives memory back to the system after a flood."""

from __future__ import annotations

import ctypes

# What is freed in the middle of the heap glibc keeps for later, and there is always something at
# its end. Other C libraries have no such function, and need none: theirs give pages back.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_memory_back() -> None:
    """Gives the free pages of the heap back; takes a millisecond for some 10 MB."""
    if _malloc_trim is not None:
        _malloc_trim(0)
