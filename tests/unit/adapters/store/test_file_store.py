from __future__ import annotations

import os
import stat
import time
from datetime import timedelta
from pathlib import Path

import pytest

from nexus_auth.adapters.files import LEFTOVER_SECONDS
from nexus_auth.adapters.store.file_store import FileStore
from nexus_auth.adapters.store.record import MAX_RECORD_BYTES
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
    with pytest.raises(RecordRejected, match="belongs to somebody else"):
        await FileStore(path).load()
    with pytest.raises(StoreUnavailable, match="belongs to somebody else"):
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
