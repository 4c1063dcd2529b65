from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_auth.adapters.credentials.files import ReservedFile, sync_directory


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
    with ReservedFile(tmp_path, ".x") as file:
        assert mode(file.path) == 0o600
        file.fill(b"secret")
        assert mode(file.path) == 0o600
        file.publish(tmp_path / "x")
    assert (mode(tmp_path / "x"), (tmp_path / "x").read_bytes()) == (0o600, b"secret")
    with ReservedFile(tmp_path, ".y") as file:
        file.fill(b"", mode=0o644)
        file.publish(tmp_path / "y")
    assert mode(tmp_path / "y") == 0o644


def test_room_is_on_the_disk_before_it_is_needed(tmp_path: Path) -> None:
    """It is written, not only promised."""
    with ReservedFile(tmp_path, ".x") as file:
        assert file.path.stat().st_size == 16 * 1024
        assert file.path.stat().st_blocks > 0


def test_file_that_was_not_published_goes_away(tmp_path: Path) -> None:
    """Also when it was filled, and when the block fails."""
    with pytest.raises(RuntimeError), ReservedFile(tmp_path, ".x") as file:  # noqa: PT012 - the block is what fails
        file.fill(b"secret")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_to_be_kept_stays(tmp_path: Path) -> None:
    """It may be the only copy."""
    with ReservedFile(tmp_path, ".x") as file:
        file.keep()
        file.fill(b"secret")
    assert file.path.read_bytes() == b"secret"


def test_link_in_the_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Nothing is ever written through a link."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / "x").symlink_to(victim)
    with ReservedFile(tmp_path, ".x") as file:
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
        ReservedFile(tmp_path, ".x")
    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_synced_is_no_failure(tmp_path: Path) -> None:
    """There is nothing better to do about it."""
    sync_directory(tmp_path / "missing")
