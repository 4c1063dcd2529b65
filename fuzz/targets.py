"""A fuzz target with all that it begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"
"""One folder a target: inputs that are kept beside the seeds, such as earlier findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target.

    Attributes:
        name: What it is called on the command line and in `corpus`.
        check: Raises where a promise does not hold for the bytes.
        seeds: The inputs to begin with, by name; most are written in the target's module.
        words: What inputs are made of, for the fuzzer to put in.
        max_bytes: How long an input is worth being.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Mapping[str, bytes]
    words: tuple[bytes, ...]
    max_bytes: int


def _kept(name: str) -> Iterator[tuple[str, bytes]]:
    """The inputs in the corpus."""
    return ((path.name, path.read_bytes()) for path in sorted((CORPUS / name).glob("*")))


def load_target(name: str) -> Target:
    """Finds a target by its name, and imports what it needs and no more."""
    module = import_module(f"fuzz.{name}")
    return Target(
        name=name,
        check=module.check,
        seeds=MappingProxyType(module.seeds() | dict(_kept(name))),
        words=module.WORDS,
        max_bytes=module.MAX_BYTES,
    )
