"""Limits, folders and processes of the service."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import pytest

from nexus_auth.entrypoints.process import (
    ENOUGH_FILES,
    FOLDER_PREFIX,
    allow_many_connections,
    private_folder,
)

UNBOUND = resource.RLIM_INFINITY


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def an_abandoned_folder(parent: Path) -> Path:
    """What a service leaves behind that is killed."""
    path = parent / f"{FOLDER_PREFIX}abandoned"
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
    """A process that was killed could not remove it."""
    abandoned = an_abandoned_folder(parent)
    with private_folder():
        assert not abandoned.exists()


def test_folder_in_use_stays() -> None:
    """Another process that starts leaves it alone."""
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
    (parent / f"{FOLDER_PREFIX}link").symlink_to(elsewhere)
    (parent / f"{FOLDER_PREFIX}file").touch()
    (parent / f"{FOLDER_PREFIX}open").mkdir(mode=0o755)
    before = sorted(parent.rglob("*"))
    with private_folder():
        pass
    assert sorted(parent.rglob("*")) == before


def test_nowhere_to_make_one_is_an_error(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the caller reports."""
    monkeypatch.setattr(tempfile, "tempdir", str(parent / "missing"))
    with pytest.raises(OSError, match="No such file"), private_folder():
        pass


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1024, 4096), (4096, 4096)),
        ((1024, 1_000_000), (ENOUGH_FILES, 1_000_000)),
        ((1024, UNBOUND), (ENOUGH_FILES, UNBOUND)),
        ((4096, 4096), None),
        ((100_000, UNBOUND), None),
        ((UNBOUND, UNBOUND), None),
    ],
)
def test_soft_limit_is_raised_and_never_lowered(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    """Up to the hard limit, or to what is enough."""
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: set_to.append(pair))
    allow_many_connections()
    assert set_to == ([] if expected is None else [expected])


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_system_that_does_not_allow_it_is_no_problem(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """The service then starts with what it has."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_many_connections()
