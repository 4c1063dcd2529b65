"""Keeps packages from loading optional ones that they import wherever they find them."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def hidden(*names: str, emptied: Iterable[str] = ()) -> Iterator[None]:
    """Makes packages look as if not installed, where they are not loaded yet.

    Args:
        names: Cannot be imported inside the block.
        emptied: Can be imported, and have nothing in them.
    """
    stand_ins: dict[str, types.ModuleType | None] = dict.fromkeys(names)
    stand_ins.update((name, _Empty(name)) for name in emptied)
    concealed = [name for name in stand_ins if name not in sys.modules]
    for name in concealed:
        sys.modules[name] = stand_ins[name]  # type: ignore[assignment] # None forbids the import
    try:
        yield
    finally:
        for name in concealed:
            del sys.modules[name]


class _Empty(types.ModuleType):
    """A package with nothing in it."""

    VERSION = "2"  # looked at in pydantic
