from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from nexus_auth.adapters.files import LEFTOVER_SECONDS
from nexus_auth.adapters.store.file_store import FileStore
from nexus_auth.adapters.store.record import LONGEST_LEASE, MAX_RECORD_BYTES
from nexus_auth.domain.errors import RecordRejected, StoreUnavailable
from tests.builders import NOW

KEEP = timedelta(minutes=15)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the snapshot is kept."""
    return tmp_path / "snapshot.json"


async def save(path: Path, record: bytes = b"record") -> None:
    """Saves a record as the service does."""
    await FileStore(path).save(record, said_at=NOW, keep_for=KEEP)


async def test_files_are_for_their_owner_alone(path: Path) -> None:
    """Also over a file that was readable for all."""
    path.write_bytes(b"old")
    path.chmod(0o644)
    await save(path)
    assert await FileStore(path).acquire_lease("me", KEEP)
    assert path.read_bytes() == b"record"
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {"snapshot.json": 0o600, "snapshot.json.turn": 0o600}


async def test_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """The folder need not exist."""
    path = tmp_path / "var" / "snapshot.json"
    await save(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_symbolic_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    """A link in its place has no other file read or written."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    path.with_name("snapshot.json.turn").symlink_to(victim)
    with pytest.raises(RecordRejected):
        await FileStore(path).load()
    with pytest.raises(StoreUnavailable):
        await FileStore(path).acquire_lease("me", KEEP)
    await save(path)
    assert victim.read_bytes() == b"precious"
    assert not path.is_symlink()


async def test_fifo_does_not_block(path: Path) -> None:
    """Nor does anything else that is not a regular file get read."""
    os.mkfifo(path, 0o600)
    with pytest.raises(RecordRejected, match="regular"):
        await FileStore(path).load()


async def test_file_that_others_may_write_is_not_believed(path: Path) -> None:
    """Its content may be anybody's."""
    await save(path)
    path.chmod(0o666)
    with pytest.raises(RecordRejected, match="others may write it"):
        await FileStore(path).load()


async def test_file_of_another_user_is_not_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that others may write, they can place one; ours and closed to others is read."""
    await save(path)
    assert await FileStore(path).load() == b"record"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RecordRejected, match="belongs to another user"):
        await FileStore(path).load()
    with pytest.raises(StoreUnavailable, match="belongs to another user"):
        await FileStore(path).acquire_lease("me", KEEP)


async def test_file_that_is_too_large_is_not_read(path: Path) -> None:
    """A file cannot fill the memory."""
    await save(path, b"x" * (MAX_RECORD_BYTES + 1))
    with pytest.raises(RecordRejected, match="too large"):
        await FileStore(path).load()


async def test_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """The path is named."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "snapshot.json"
    for call in (FileStore(path).save(b"x", said_at=NOW, keep_for=KEEP), FileStore(path).version()):
        with pytest.raises(StoreUnavailable, match="snapshot"):
            await call


async def test_leftovers_of_killed_writers_are_cleared_away(path: Path) -> None:
    """Those of an hour ago; a fresh one may belong to a process that is still writing."""
    old, fresh = (
        path.with_name(".snapshot.json.old.tmp"),
        path.with_name(".snapshot.json.fresh.tmp"),
    )
    old.touch()
    fresh.touch()
    hour_ago = time.time() - LEFTOVER_SECONDS - 1
    os.utime(old, (hour_ago, hour_ago))
    await save(path)
    assert not old.exists()
    assert fresh.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"holder": "x", "until": 1e999, "boot": null}',
        b'{"holder": "x", "until": 1e300, "boot": null}',
        b'{"holder": "x", "until": 1' + b"0" * 400 + b', "boot": null}',
        b'{"holder": "x"}',
        b"[" * 1000,
    ],
)
async def test_lease_that_makes_no_sense_is_free(path: Path, content: bytes) -> None:
    """Damage to the lease's file blocks no process."""
    lease_path = path.with_name("snapshot.json.turn")
    lease_path.write_bytes(content)
    lease_path.chmod(0o600)
    assert await FileStore(path).acquire_lease("me", KEEP)


def write(path: Path, content: bytes, *, mode: int) -> None:
    """A file."""
    path.write_bytes(content)
    path.chmod(mode)


def a_huge_file(path: Path) -> None:
    """One that takes no room on the disk."""
    path.touch(0o600)
    os.truncate(path, 2**40)


def a_device(path: Path) -> None:
    """The one that never ends: /dev/zero."""
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


def a_socket(path: Path) -> None:
    """A unix socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "a directory that is not empty": lambda path: (path / "x").mkdir(parents=True),
    "a FIFO": lambda path: os.mkfifo(path, 0o600),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a device": a_device,
    "a socket": a_socket,
    "a file that nobody may read": lambda path: path.touch(0o000),
    "a file that all may write": lambda path: write(path, b"x", mode=0o666),
    "an empty file": lambda path: path.touch(0o600),
    "a huge sparse file": a_huge_file,
    "garbage": lambda path: write(path, b"\xff\x00{[" * 1000, mode=0o600),
}
"""What may stand in the place of a file of ours."""


async def outcome(call: Awaitable[object], *declared: type[Exception]) -> object:
    """What a call returns, or its error where the port declares it; any other ends the test."""
    try:
        return await call
    except declared as exc:
        return exc.with_traceback(None)


@pytest.mark.parametrize("name", ["snapshot.json", "snapshot.json.turn"])
@pytest.mark.parametrize("hostile", HOSTILE)
async def test_whatever_stands_there_the_errors_are_the_ports(
    path: Path, hostile: str, name: str
) -> None:
    """Nothing else comes out, nothing blocks, and no more is read than a record may have."""
    HOSTILE[hostile](path.with_name(name))
    store = FileStore(path)
    tracemalloc.start()
    version = await outcome(store.version(), StoreUnavailable)
    record = await outcome(store.load(), StoreUnavailable, RecordRejected)
    remaining = await outcome(store.lease_remaining(), StoreUnavailable)
    acquired = await outcome(store.acquire_lease("me", KEEP), StoreUnavailable)
    saved = await outcome(store.save(b"x", said_at=NOW, keep_for=KEEP), StoreUnavailable)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(version, str | StoreUnavailable | None)
    assert isinstance(record, bytes | StoreUnavailable | RecordRejected | None)
    assert isinstance(remaining, timedelta | StoreUnavailable | None)
    assert isinstance(acquired, bool | StoreUnavailable)
    assert isinstance(saved, str | StoreUnavailable)
    assert peak < 2 * MAX_RECORD_BYTES
    # Either it was replaced, or it is in the way and says so again.
    assert isinstance(saved, StoreUnavailable) or await store.load() == b"x"
    await store.aclose()


@pytest.mark.parametrize("name", ["x" * 300, "a/b/../../" + "c/" * 3000 + "x", "file/x"])
async def test_path_that_cannot_be_is_unavailable(tmp_path: Path, name: str) -> None:
    """Each way to reach it has the port's error."""
    (tmp_path / "file").touch()
    store = FileStore(tmp_path / name)
    for call in (
        store.version(),
        store.lease_remaining(),
        store.acquire_lease("me", KEEP),
        store.save(b"x", said_at=NOW, keep_for=KEEP),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    with pytest.raises((StoreUnavailable, RecordRejected)):
        await store.load()


async def test_no_more_threads_is_unavailable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine at its limit has the port's error too."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StoreUnavailable, match="thread"):
            await FileStore(path).version()


async def test_longest_lease_keeps_others_out_until_it_ends(path: Path) -> None:
    """By the clock that cannot be set; and no lease for longer is believed."""
    now = 1000.0
    store = FileStore(path, monotonic=lambda: now)
    assert await store.acquire_lease("me", LONGEST_LEASE)
    assert not await store.acquire_lease("another", LONGEST_LEASE)
    now += LONGEST_LEASE.total_seconds()
    assert await store.acquire_lease("another", LONGEST_LEASE * 2)
    assert await store.acquire_lease("me", LONGEST_LEASE)


async def test_file_system_that_hangs_holds_one_thread_and_none_that_others_need(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many accesses are given up meanwhile: those are not made later either."""
    hangs, goes_on = threading.Event(), threading.Event()
    held: list[threading.Thread] = []

    def hang(_: Path) -> None:
        held.append(threading.current_thread())
        hangs.set()
        goes_on.wait()
        raise FileNotFoundError

    store = FileStore(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", hang)
        accesses = [asyncio.create_task(store.version()) for _ in range(100)]
        # In a thread that others need: never, if the accesses held them all.
        assert await asyncio.to_thread(hangs.wait)
        for each in accesses[1:]:
            each.cancel()
        await asyncio.wait(accesses[1:])
        await store.aclose()
        goes_on.set()
        assert await accesses[0] is None
        await asyncio.to_thread(held[0].join)
    assert len(held) == 1


async def test_store_that_is_closed_is_unavailable(path: Path) -> None:
    """As one that was never there."""
    store = FileStore(path)
    assert await store.version() is None
    await store.aclose()
    with pytest.raises(StoreUnavailable):
        await store.version()
