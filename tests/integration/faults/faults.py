"""Everything that Pylon can do wrong, by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from tests.builders import a_hotkey
from tests.integration.faults.faulty_pylon import (
    BOMB,
    Behaviour,
    Entries,
    FaultyPylon,
    Reply,
    as_json,
)
from tests.unit.adapters.registry.sources import key_of

OWNER: Final = a_hotkey("dave")
"""Whose entry is wrong where only one is."""


@dataclass(frozen=True)
class Fault:
    """One way to be wrong.

    Attributes:
        name: As it stands in the table.
        begin: Makes a Pylon misbehave.
        changes_keys: Whether callers have another key, which a registry that fetches one key after
            the other cannot find suspicious.
    """

    name: str
    begin: Callable[[FaultyPylon], Awaitable[None]]
    changes_keys: bool = False


async def end(pylon: FaultyPylon) -> None:
    """Makes a Pylon behave again."""
    pylon.behaviour = None
    pylon.is_resetting = False
    await pylon.open()


async def _refuse(pylon: FaultyPylon) -> None:
    await pylon.shut()


async def _reset(pylon: FaultyPylon) -> None:
    pylon.is_resetting = True


def _behaving(name: str, behaviour: Behaviour) -> Fault:
    async def begin(pylon: FaultyPylon) -> None:
        pylon.behaviour = behaviour

    return Fault(name, begin)


def _always(name: str, reply: Reply | None) -> Fault:
    return _behaving(name, lambda _: reply)


def _error(name: str, status: int, detail: str) -> Fault:
    return _always(name, as_json({"status_code": status, "detail": detail}, status=status))


def _map(name: str, change: Callable[[Entries], object]) -> Fault:
    """What is told of all hotkeys, with something wrong in it."""

    def behave(pylon: FaultyPylon) -> Entries:
        entries = pylon.entries()
        change(entries)
        return entries

    return _behaving(name, behave)


def _entry(name: str, **fields: object) -> Fault:
    """What is told of all hotkeys, with one entry wrong."""
    return _map(name, lambda entries: entries[OWNER.address].update(fields))


def _change_keys(name: str, *, changed: int, key_of_hotkey: Callable[[int], bytes]) -> Fault:
    """What is told of all hotkeys, with another key for the first so many of them."""

    def change(entries: Entries) -> None:
        for number, entry in enumerate(list(entries.values())[:changed]):
            entry["public_key"] = key_of_hotkey(number).hex()

    return replace(_map(name, change), changes_keys=True)


def _keep(*names: str) -> Callable[[Entries], None]:
    kept = {a_hotkey(name).address for name in names}

    def change(entries: Entries) -> None:
        for address in [address for address in entries if address not in kept]:
            del entries[address]

    return change


def _add_nonsense(entries: Entries) -> None:
    nonsense: list[object] = [None, [], 7, "key", {}, {"algorithm": 1}, {"public_key": "00"}]
    entries.update({f"nonsense {n}": value for n, value in enumerate(nonsense)})
    entries.update({a_hotkey(f"n{n}").address: value for n, value in enumerate(nonsense)})
    entries[OWNER.address] = None


def _nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


_GOOD_KEY: Final = key_of("dave").hex()
_HTML: Final = Reply(
    body=b"<!doctype html><title>Welcome</title>", headers=(("Content-Type", "text/html"),)
)

FAULTS: Final = (
    Fault("connection refused", _refuse),
    Fault("connection reset", _reset),
    _always("accepts and says nothing", None),
    _always("a byte a second", Reply(body=b" " * 100, pause=1.0)),
    _error("500", 500, "Internal Server Error"),
    _error("502", 502, "Bad Gateway"),
    _error("504", 504, "Request timed out"),
    _error("401", 401, "Authorization header is required"),
    _error("403", 403, "Invalid authorization token"),
    _error("404 for everything", 404, "Not Found"),
    _always("308", Reply(status=308, headers=(("Location", "/api/v1/elsewhere"),))),
    _always("HTML with status 200", _HTML),
    _behaving("truncated JSON", lambda pylon: Reply(body=as_json(pylon.entries()).body[:-20])),
    _always("JSON of the wrong shape", as_json([1, {"certificates": {}}])),
    _always("a body of 50 MB", Reply(body=b" " * 1_000_000, repeat=50)),
    _always("a gzip bomb", Reply(body=BOMB, headers=(("Content-Encoding", "gzip"),))),
    _entry("a key of 31 bytes", public_key=_GOOD_KEY[2:]),
    _entry("a key of 33 bytes", public_key=_GOOD_KEY + "00"),
    _entry("a key of 0 bytes", public_key=""),
    _entry("a key that is not hex", public_key="zz" * 32),
    _entry("a key with 0x", public_key=f"0x{_GOOD_KEY}"),
    _entry("a key in upper case", public_key=_GOOD_KEY.upper()),
    _entry("algorithm 2", algorithm=2),
    _entry("another hotkey's key", public_key=key_of("alice").hex()),
    _map("some entries nonsense", _add_nonsense),
    _entry("a key that is a number", public_key=10**300),
    _entry("a key of a kilobyte of zeros", public_key="00" * 1024),
    _entry("an entry of five kilobytes", coldkey="x" * 5000),
    _entry("an entry nested 100 deep", coldkey=_nested(100)),
    _map("9,000 entries", lambda entries: entries.update(dict.fromkeys(map(str, range(9_000)), 0))),
    _always("brackets, nested 100,000 deep", Reply(body=b"[" * 100_000 + b"]" * 100_000)),
    _always("a megabyte of brackets", Reply(body=b"[" + b"[[[[[]]]]]," * 90_000 + b"[]]")),
    _always("an empty answer", Reply(body=b"")),
    _always("5,000 headers", Reply(body=b"{}", headers=(("a", ""),) * 5_000)),
    _map("suddenly empty", _keep()),
    _map("most hotkeys lost", _keep("miner 1", "miner 2")),
    _change_keys("every hotkey the same key", changed=99, key_of_hotkey=lambda _: key_of("no one")),
    _change_keys("most keys changed", changed=9, key_of_hotkey=lambda n: key_of(f"another {n}")),
)
