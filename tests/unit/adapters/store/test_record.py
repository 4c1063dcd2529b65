from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import tracemalloc
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.adapters.clock import SYSTEM_CLOCKS, Clocks
from nexus_auth.adapters.store import record as module
from nexus_auth.adapters.store.record import (
    MAX_RECORD_BYTES,
    RecordFormat,
    derive_secret,
    read_boot_id,
    scope_of,
    scope_of_chain,
)
from nexus_auth.domain.errors import RecordRejected
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.snapshot import Block, SubnetSnapshot
from tests.builders import NOW, a_hotkey, a_key, public_bytes
from tests.fakes import FakeClock
from tests.unit.adapters.registry.sources import FakeClocks, keys_of

SCOPE = scope_of(endpoint="http://pylon:8000", netuid=12)
SECRET = derive_secret("token", scope=SCOPE)
NEURON = Neuron(uid=3, validator_permit=True, active=False, alpha=1.5, tao=0.25, total=1.75)
BLOCK = Block(number=8_123_456, hash="0x" + "5c" * 32, time=NOW - timedelta(seconds=30))
SNAPSHOT = SubnetSnapshot(
    keys=keys_of("alice", "bob"), said_at=NOW, neurons={a_hotkey("alice"): NEURON}, block=BLOCK
)
FORMAT = RecordFormat(
    scope=SCOPE, secret=SECRET, clocks=Clocks(FakeClock(), lambda: 1000.0), boot_id="this boot"
)
RECORD = FORMAT.build(SNAPSHOT, fetched_at=1000.0)
UNSEALED = dataclasses.replace(FORMAT, secret=None)
HEAD = b"nexus-auth snapshot 2"


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """An unsealed record whose content was changed by hand."""
    head, _, content = UNSEALED.build(SNAPSHOT, fetched_at=1000.0).partition(b"\n")
    document = json.loads(content)
    change(document)
    return head + b"\n" + json.dumps(document).encode()


def sealed(content: bytes) -> bytes:
    """Any content, with a seal that fits."""
    seal = hmac.new(SECRET or b"", content, hashlib.sha256).hexdigest().encode()
    return HEAD + b" " + seal + b"\n" + content


def test_record_comes_back_as_it_was() -> None:
    """Keys, neurons, block and moment survive; the age is what the clock says."""
    clock = FakeClock()
    later = dataclasses.replace(FORMAT, clocks=Clocks(clock, lambda: 1000.0), boot_id=None)
    clock.advance(minutes=3)
    stored = later.parse(RECORD)
    assert stored.snapshot == SNAPSHOT
    assert stored.age == timedelta(minutes=3)


def test_record_of_a_version_without_blocks_is_read() -> None:
    """And an earlier version reads ours, since it passes over what it does not know."""
    stored = UNSEALED.parse(changed(lambda record: record.pop("block")))
    assert stored.snapshot == dataclasses.replace(SNAPSHOT, block=None)
    nameless = dataclasses.replace(SNAPSHOT, block=None)
    assert FORMAT.parse(FORMAT.build(nameless, fetched_at=1000.0)).snapshot == nameless


def test_wall_clock_set_back_makes_no_record_younger_on_the_same_machine() -> None:
    """Since the same start of the machine, its monotonic clock has the last word."""
    clocks = FakeClocks()
    now = dataclasses.replace(FORMAT, clocks=clocks.both)
    record = now.build(SNAPSHOT, fetched_at=clocks.seconds)
    clocks.advance(600)
    clocks.wall.advance(seconds=-595)
    stored = now.parse(record)
    assert stored.age == timedelta(seconds=600)
    assert stored.snapshot.said_at == clocks.wall.now - timedelta(seconds=600)
    restarted = dataclasses.replace(now, boot_id="next boot")
    assert restarted.parse(record).age == timedelta(seconds=5)


def test_monotonic_clocks_of_machines_without_a_name_are_not_compared() -> None:
    """Two that cannot tell their starts apart may be two machines: the wall clock alone counts."""
    nameless = dataclasses.replace(FORMAT, boot_id=None)
    later = dataclasses.replace(nameless, clocks=Clocks(FakeClock(), lambda: 9000.0))
    assert later.parse(nameless.build(SNAPSHOT, fetched_at=1000.0)).age == timedelta(0)


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="no such system")
def test_start_of_this_machine_has_one_name() -> None:
    """A random one, the same in every process: without it, no process takes over a snapshot."""
    assert str(uuid.UUID(read_boot_id())) == read_boot_id()
    assert RecordFormat(scope=SCOPE).boot_id == read_boot_id()


@pytest.mark.parametrize("content", [None, b"\xff\n"])
def test_start_without_a_readable_name_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """Another system, or a sandbox: that is no error."""
    if content is not None:
        (tmp_path / "boot_id").write_bytes(content)
    monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "boot_id")
    assert read_boot_id() is None


def test_record_is_unsealed_and_timed_by_the_system_unless_told_otherwise() -> None:
    """What one process writes, another reads."""
    snapshot = dataclasses.replace(SNAPSHOT, said_at=SYSTEM_CLOCKS.wall())
    record = RecordFormat(scope=SCOPE).build(snapshot, fetched_at=SYSTEM_CLOCKS.monotonic())
    assert record.startswith(HEAD + b" -\n")
    assert RecordFormat(scope=SCOPE).parse(record).snapshot.keys == SNAPSHOT.keys


@pytest.mark.parametrize("seconds", [1, 5])
def test_record_from_a_moment_ahead_counts_from_now(seconds: float) -> None:
    """Two machines may differ by a little; that makes nothing younger than now."""
    clock = FakeClock(NOW - timedelta(seconds=seconds))
    stored = dataclasses.replace(FORMAT, clocks=Clocks(clock, lambda: 1000.0)).parse(RECORD)
    assert stored.age == timedelta(0)
    assert stored.snapshot.said_at == clock.now


def test_record_from_the_future_is_rejected() -> None:
    """A clock was wrong when it was written, or is now."""
    clock = FakeClock(NOW - timedelta(seconds=5.001))
    with pytest.raises(RecordRejected, match="future"):
        dataclasses.replace(FORMAT, clocks=Clocks(clock, lambda: 1000.0)).parse(RECORD)


@pytest.mark.parametrize(
    ("reader", "problem"),
    [
        (dataclasses.replace(FORMAT, secret=b"another"), "another secret"),
        (dataclasses.replace(FORMAT, secret=None), "not set here"),
        (dataclasses.replace(FORMAT, scope=scope_of(endpoint="http://pylon:8000", netuid=1)), "."),
    ],
)
def test_record_of_another_writer_is_rejected(reader: RecordFormat, problem: str) -> None:
    """Another secret, another subnet."""
    with pytest.raises(RecordRejected, match=problem):
        reader.parse(RECORD)


def test_record_of_another_subnet_is_rejected_without_a_seal_too() -> None:
    """The scope is part of the record."""
    other = dataclasses.replace(UNSEALED, scope=scope_of(endpoint="http://pylon:8000", netuid=None))
    with pytest.raises(RecordRejected, match="another subnet"):
        other.parse(UNSEALED.build(SNAPSHOT, fetched_at=0.0))


def test_unsealed_record_is_rejected_where_a_secret_is_set() -> None:
    """Leaving the seal away is no way around it."""
    with pytest.raises(RecordRejected, match="not sealed"):
        FORMAT.parse(UNSEALED.build(SNAPSHOT, fetched_at=0.0))


def test_scope_of_a_chain_is_that_chain_and_subnet_alone() -> None:
    """Whatever its nodes, where its block 0 is known; never a Pylon's, nor another subnet's."""
    one, two, genesis = ["ws://a/s3cret"], ["ws://b", "ws://a/s3cret"], "0x" + "2f" * 32
    scopes = [
        scope_of_chain(endpoints=nodes, genesis=block_0, netuid=netuid)
        for nodes, block_0, netuid in [
            (one, None, 12),
            (two, None, 12),
            (one, None, 1),
            (one, genesis, 12),
            (one, "0x" + "3f" * 32, 12),
        ]
    ]
    assert len({*scopes, scope_of(endpoint="ws://a", netuid=12)}) == len(scopes) + 1
    assert scope_of_chain(endpoints=two, genesis=genesis, netuid=12) == scopes[3]
    assert scope_of_chain(endpoints=two[::-1], genesis=None, netuid=12) == scopes[1]
    assert "s3cret" not in "".join(scopes)
    # No endpoint of a Pylon has a space in it, or no scheme.
    assert all(scope.startswith("chain ") for scope in scopes)


ALICE = a_hotkey("alice").address
WRONG: list[object] = [12, [], "", True, ...]
FIELDS = ("scope", "said_at", "boot", "keys", "neurons")


def replaced(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    """Replaces a field of the content, or takes it away (...)."""

    def change(content: dict[str, Any]) -> None:
        del content[name]
        if value is not ...:
            content[name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(replaced(name, value) for name in FIELDS for value in WRONG),
        lambda r: r.update(said_at="2026-06-01T12:00:00"),
        lambda r: r.update(said_at="9999-12-31T23:59:59+00:00"),
        lambda r: r.update(said_at="0001-01-01T00:00:00+23:59"),
        lambda r: r.update(boot=None),
        lambda r: r["boot"].update(seconds=None),
        lambda r: r["boot"].update(id="this boot", seconds=-1e300),
        lambda r: r["keys"].update(self="00" * 32),
        lambda r: r["keys"].update({ALICE: "00" * 32}),
        lambda r: r["keys"].update({ALICE: "0x" + "ab" * 31}),
        lambda r: r["keys"].update({ALICE: "AB" * 32}),
        lambda r: r["keys"].update({ALICE: "ab" * 31}),
        lambda r: r["keys"].update({ALICE: "ab" * 32 + "\n"}),
        lambda r: r["keys"].update({ALICE: None}),
        lambda r: r["keys"].update({ALICE[:-1] + "1": "ab" * 32}),
        lambda r: r["neurons"].update({ALICE: {}}),
        lambda r: r["neurons"].update({"x" * 48: r["neurons"][ALICE]}),
        lambda r: r["neurons"][ALICE].update(uid=True),
        lambda r: r["neurons"][ALICE].update(validator_permit=1),
        lambda r: r["neurons"][ALICE].update(total=-1),
        lambda r: r["neurons"][ALICE].update(total=float("nan")),
        *(lambda r, v=value: r.update(block=v) for value in WRONG[:-1]),
        lambda r: r["block"].update(number=-1),
        lambda r: r["block"].update(number=1.5),
        lambda r: r["block"].update(number=2**64),
        lambda r: r["block"].update(time="0001-01-01T00:00:00+23:59"),
        lambda r: r["block"].update(hash="0x" + "5C" * 32),
        lambda r: r["block"].update(hash="0x" + "5c" * 32 + "\n"),
        lambda r: r["block"].update(time="2026-06-01T12:00:00"),
        lambda r: r["block"].pop("time"),
    ],
)
def test_changed_record_is_rejected(change: Callable[[dict[str, Any]], object]) -> None:
    """A record with anything wrong in it was not written by us: all of it is rejected."""
    with pytest.raises(RecordRejected):
        UNSEALED.parse(changed(change))


OLDER = json.dumps(
    {
        "format": "nexus-auth snapshot",
        "version": 1,
        "seal": None,
        "content": {
            "scope": SCOPE,
            "said_at": NOW.isoformat(),
            "boot": {"id": None, "seconds": 1.0},
            "keys": {},
            "neurons": None,
        },
    },
    indent=1,
).encode()


@given(st.binary() | st.text().map(str.encode))
@example(b"[" * 100_000)
@example(b'{"format":1}')
@example(b"9" * 10_000)
@example(b" " * (MAX_RECORD_BYTES + 1))
@example(OLDER)
@example(RECORD.replace(b"snapshot 2", b"snapshot 3"))
def test_bytes_from_anywhere_are_rejected_in_one_way(record: bytes) -> None:
    """Nothing but `RecordRejected` comes out, also for a record of another version."""
    for reader in (FORMAT, UNSEALED):
        with pytest.raises(RecordRejected):
            reader.parse(record)


@given(st.binary())
@example(b"[" * 100_000)
@example(b'{"keys":' * 100_000)
@example(b'{"scope":"\xff"}')
@example(b'{"scope":"\\ud800"}')
@example(b"")
def test_content_from_anywhere_is_rejected_in_one_way(content: bytes) -> None:
    """Also where its seal fits, or none is asked for."""
    for reader, record in ((FORMAT, sealed(content)), (UNSEALED, b"%s -\n%s" % (HEAD, content))):
        with pytest.raises(RecordRejected, match="damaged"):
            reader.parse(record)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"{" * 100_000, b"\xff" * 100_000])
@pytest.mark.parametrize("seal", [b"", b"0" * 64, b"\xff" * 64, b"0" * 100_000])
def test_seal_is_checked_before_anything_is_parsed(seal: bytes, content: bytes) -> None:
    """Of bytes that were not sealed here, no parser sees one."""
    with pytest.raises(RecordRejected, match="seal does not fit"):
        FORMAT.parse(b"%s %s\n%s" % (HEAD, seal, content))


def test_record_of_the_largest_subnet_fits_and_comes_back() -> None:
    """4,096 neurons with the longest numbers: the bound is above what is honest, and near it."""
    hotkeys = [a_hotkey(str(number)) for number in range(4096)]
    amount = 12345678.123456789
    neuron = Neuron(
        uid=65535, validator_permit=False, active=False, alpha=amount, tao=amount, total=amount
    )
    snapshot = SubnetSnapshot(
        keys=dict.fromkeys(hotkeys, public_bytes(a_key("longest"))),
        neurons=dict.fromkeys(hotkeys, neuron),
        said_at=NOW,
    )
    record = FORMAT.build(snapshot, fetched_at=1000.0)
    assert MAX_RECORD_BYTES // 2 < len(record) < MAX_RECORD_BYTES
    assert FORMAT.parse(record).snapshot == snapshot


def test_record_that_is_too_long_is_rejected_unread() -> None:
    """Though its seal fits."""
    with pytest.raises(RecordRejected, match="too large"):
        FORMAT.parse(sealed(b" " * MAX_RECORD_BYTES))


def test_record_as_long_as_a_record_may_be_counts() -> None:
    """The bound is not below what it says."""
    _, _, content = RECORD.partition(b"\n")
    content += b" " * (MAX_RECORD_BYTES - len(RECORD))
    assert len(sealed(content)) == MAX_RECORD_BYTES
    assert FORMAT.parse(sealed(content)).snapshot == SNAPSHOT


@pytest.mark.parametrize("field", ["keys", "neurons"])
def test_names_that_cannot_be_are_refused_at_the_first(field: str) -> None:
    """As many as fit into a record are never built: they would take many times its size."""
    value = "ab" * 32 if field == "keys" else 0
    names: dict[str, object] = {f"{number:x}": value for number in range(150_000)}
    if field == "keys":
        names = dict(list(names.items())[:25_000])
    record = changed(lambda content: content.update({field: names}))
    assert MAX_RECORD_BYTES // 2 < len(record) < MAX_RECORD_BYTES
    tracemalloc.start()
    with pytest.raises(RecordRejected, match="damaged"):
        UNSEALED.parse(record)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(record)


@given(st.integers(0, len(RECORD) - 1), st.integers(1, 255))
def test_sealed_record_with_one_changed_byte_is_rejected(place: int, flip: int) -> None:
    """Wherever it is changed."""
    damaged = RECORD[:place] + bytes([RECORD[place] ^ flip]) + RECORD[place + 1 :]
    with pytest.raises(RecordRejected):
        FORMAT.parse(damaged)


def test_secret_depends_on_the_token_and_the_scope() -> None:
    """The first that is given counts; without any there is no seal."""
    assert derive_secret(None, "", scope=SCOPE) is None
    assert derive_secret(None, "token", scope=SCOPE) == SECRET
    assert derive_secret("other", "token", scope=SCOPE) != SECRET
    assert derive_secret("token", scope="other") != SECRET
    assert "secret" not in repr(FORMAT)
