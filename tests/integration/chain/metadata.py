"""Builds small runtime metadata (version 15), honest and hostile, for what reads it.

Written from the public definition of `frame-metadata` and `scale-info`. Types are named by the
place at which they were added.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.integration.chain.scale import compact, vector


def _text(text: str) -> bytes:
    return compact(len(text.encode())) + text.encode()


def _texts(*texts: str) -> bytes:
    return vector([_text(text) for text in texts])


class Registry:
    """The types of a runtime, and the runtime APIs that use them."""

    PRIMITIVES = ("bool", "char", "str", "u8", "u16", "u32", "u64", "u128")

    def __init__(self) -> None:
        self._types: list[bytes] = []

    @property
    def next_id(self) -> int:
        """What the next type will be called; a type may name itself by it."""
        return len(self._types)

    def _add(self, kind: int, definition: bytes, path: Sequence[str] = ()) -> int:
        self._types.append(_texts(*path) + compact(0) + bytes([kind]) + definition + compact(0))
        return len(self._types) - 1

    def composite(self, fields: Sequence[tuple[str, int]], *, path: Sequence[str] = ()) -> int:
        """A struct, with its fields' names and types."""
        return self._add(0, _fields(fields), path)

    def variant(
        self, variants: Sequence[tuple[str, Sequence[int]]], *, path: Sequence[str] = ()
    ) -> int:
        """An enum, with its variants' names and the types in them."""
        encoded = [
            _text(name) + _fields([("", each) for each in types]) + bytes([index]) + compact(0)
            for index, (name, types) in enumerate(variants)
        ]
        return self._add(1, vector(encoded), path)

    def option(self, inner: int) -> int:
        """Rust's `Option`."""
        return self.variant([("None", ()), ("Some", (inner,))], path=["Option"])

    def sequence(self, inner: int) -> int:
        """A `Vec`."""
        return self._add(2, compact(inner))

    def array(self, inner: int, length: int) -> int:
        """An array."""
        return self._add(3, length.to_bytes(4, "little") + compact(inner))

    def row(self, *inner: int) -> int:
        """A tuple; one of nothing takes no byte."""
        return self._add(4, vector([compact(each) for each in inner]))

    def primitive(self, name: str) -> int:
        """One of `PRIMITIVES`."""
        return self._add(5, bytes([self.PRIMITIVES.index(name)]))

    def compact(self, inner: int) -> int:
        """A compact number."""
        return self._add(6, compact(inner))

    def account(self) -> int:
        """`AccountId32`."""
        array = self.array(self.primitive("u8"), 32)
        return self.composite([("", array)], path=["sp_core", "crypto", "AccountId32"])

    def metadata(
        self, api: str, methods: Sequence[tuple[str, Sequence[tuple[str, int]], int]]
    ) -> bytes:
        """All of it, with one API: its methods' names, inputs and outputs."""
        unit = self.row()
        encoded = [
            _text(name)
            + vector([_text(each) + compact(kind) for each, kind in inputs])
            + compact(output)
            + compact(0)
            for name, inputs, output in methods
        ]
        types = [compact(number) + each for number, each in enumerate(self._types)]
        return b"".join(
            [
                b"meta\x0f",
                vector(types),
                vector([]),  # pallets
                b"\x04" + compact(unit) * 4 + vector([]),  # extrinsics
                compact(unit),  # the runtime
                vector([_text(api) + vector(encoded) + compact(0)]),
                compact(unit) * 3,  # outer enums
                vector([]),  # custom
            ]
        )


def _fields(fields: Sequence[tuple[str, int]]) -> bytes:
    return vector(
        [
            (b"\1" + _text(name) if name else b"\0") + compact(kind) + b"\0" + compact(0)
            for name, kind in fields
        ]
    )


def as_answer(metadata: bytes) -> bytes:
    """As `Metadata_metadata_at_version` gives it: an option of opaque bytes."""
    return b"\1" + compact(len(metadata)) + metadata
