"""Single files: what may stand under a name, and how one is written."""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_auth.adapters.files import (
    LEFTOVER_SECONDS,
    ReservedFile,
    load_bytes,
    replace_file,
    sync_directory,
)


def count_bytes_in(pipe: int) -> int:
    """How much is in a pipe that was not read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    """Whatever the file holds."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert load_bytes(path, 4) == b"0123"
    assert load_bytes(path, 100) == b"0123456789"


def test_pipe_without_a_writer_is_empty(tmp_path: Path) -> None:
    """It is not waited for."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert load_bytes(path, 100) == b""


def test_writer_of_a_pipe_is_waited_for(tmp_path: Path) -> None:
    """All that it writes is read, however late it comes."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # Opened for both, a pipe needs no other end.
    writer = os.open(path, os.O_RDWR)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(load_bytes(path, 10)))
    reader.start()
    os.write(writer, b"01234")
    deadline = time.monotonic() + 10
    while count_bytes_in(writer) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.write(writer, b"56789")
    reader.join(10)
    os.close(writer)
    assert found == [b"0123456789"]


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    """With the system's own words."""
    with pytest.raises(OSError, match=r"No such file|Is a directory"):
        load_bytes(tmp_path / name, 100)


def mode(path: Path) -> int:
    """The permission bits."""
    return path.stat().st_mode & 0o777


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def _umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """One umask or another, for everything but the folder, which must be of use."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_file_is_the_owners_alone_at_every_moment(tmp_path: Path) -> None:
    """Whatever the umask; looser bits come with the content, where they are wanted."""
    with ReservedFile(tmp_path, ".x.") as file:
        assert mode(file.path) == 0o600
        file.fill(b"secret")
        assert mode(file.path) == 0o600
        file.publish(tmp_path / "x")
    assert (mode(tmp_path / "x"), (tmp_path / "x").read_bytes()) == (0o600, b"secret")
    with ReservedFile(tmp_path, ".y.") as file:
        file.fill(b"", mode=0o644)
        file.publish(tmp_path / "y")
    assert mode(tmp_path / "y") == 0o644


def test_room_is_on_the_disk_before_it_is_needed(tmp_path: Path) -> None:
    """It is written, not only promised."""
    with ReservedFile(tmp_path, ".x.", room_bytes=16 * 1024) as file:
        assert file.path.stat().st_size == 16 * 1024
        assert file.path.stat().st_blocks > 0


def test_file_that_was_not_published_goes_away(tmp_path: Path) -> None:
    """Also when it was filled, and when the block fails."""
    with pytest.raises(RuntimeError), ReservedFile(tmp_path, ".x.") as file:  # noqa: PT012 - the block is what fails
        file.fill(b"secret")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_to_be_kept_stays(tmp_path: Path) -> None:
    """It may be the only copy."""
    with ReservedFile(tmp_path, ".x.") as file:
        file.keep()
        file.fill(b"secret")
    assert file.path.read_bytes() == b"secret"


def test_link_in_the_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Nothing is ever written through a link."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / "x").symlink_to(victim)
    with ReservedFile(tmp_path, ".x.") as file:
        file.fill(b"secret")
        file.publish(tmp_path / "x")
    assert victim.read_bytes() == b"untouched"
    assert not (tmp_path / "x").is_symlink()


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be reserved is removed."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space"):
        ReservedFile(tmp_path, ".x.", room_bytes=1)
    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_synced_is_no_failure(tmp_path: Path) -> None:
    """There is nothing better to do about it."""
    sync_directory(tmp_path / "missing")


def test_replaced_file_has_its_new_content_and_is_its_owners(tmp_path: Path) -> None:
    """Whatever was there; what the system says of the file is returned."""
    path = tmp_path / "x"
    for content in (b"one", b"the other", b""):
        found = replace_file(path, content)
        assert path.read_bytes() == content
        assert (found.st_ino, found.st_mtime_ns) == (path.stat().st_ino, path.stat().st_mtime_ns)
    assert mode(path) == 0o600
    replace_file(path, b"public", mode=0o644)
    assert mode(path) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_replaced_file_and_its_name_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut takes neither: first the content, then the rename, then the directory."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("directory" if is_directory else "content")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    replace_file(tmp_path / "x", b"content")
    assert [each for each, _ in itertools.groupby(done)] == ["content", "rename", "directory"]


def test_file_that_cannot_be_replaced_keeps_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else stays there."""
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    """Those of an hour ago; a fresh one may still be written, and other files are not ours."""
    kept = [".x.fresh.tmp", ".x.notes", "x.tmp", ".xy.1.tmp"]
    for name in [*kept, ".x.old.tmp"]:
        (tmp_path / name).touch()
        if "fresh" not in name:
            long_ago = time.time() - LEFTOVER_SECONDS - 1
            os.utime(tmp_path / name, (long_ago, long_ago))
    (tmp_path / ".x.link.tmp").symlink_to("x")
    replace_file(tmp_path / "x", b"content")
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {*kept, "x", ".x.link.tmp"}
