"""Folders that go when the last process that uses them does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from nexus_auth.entrypoints.private_folders import PREFIX, private_folder


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def an_abandoned_folder(parent: Path) -> Path:
    """What a service leaves behind that is killed."""
    path = parent / f"{PREFIX}abandoned"
    path.mkdir(mode=0o700)
    (path / "snapshot.json").write_text("{}")
    (path / ".snapshot.json.half").touch()
    return path


def test_folder_is_its_owners_and_goes_with_the_block(parent: Path) -> None:
    """With whatever is in it."""
    with private_folder() as path:
        assert path.parent == parent
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "snapshot.json").touch()
    assert list(parent.iterdir()) == []


def test_folder_that_was_left_goes_when_the_next_is_made(parent: Path) -> None:
    """Whoever was killed could not remove it."""
    abandoned = an_abandoned_folder(parent)
    with private_folder():
        assert not abandoned.exists()


def test_folder_in_use_stays() -> None:
    """Whoever else starts leaves it alone."""
    with private_folder() as one:
        with private_folder() as other:
            assert one.exists()
            assert other.exists()
        assert one.exists()


def test_what_is_not_ours_stays(parent: Path) -> None:
    """Links, files, folders that others can look into, and folders under other names."""
    elsewhere = parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "file").touch()
    (parent / f"{PREFIX}link").symlink_to(elsewhere)
    (parent / f"{PREFIX}file").touch()
    (parent / f"{PREFIX}open").mkdir(mode=0o755)
    before = sorted(parent.rglob("*"))
    with private_folder():
        pass
    assert sorted(parent.rglob("*")) == before


def test_nowhere_to_make_one_is_an_error(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the caller tells of."""
    monkeypatch.setattr(tempfile, "tempdir", str(parent / "missing"))
    with pytest.raises(OSError, match="No such file"), private_folder():
        pass
