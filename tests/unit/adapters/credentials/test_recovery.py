from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nexus_auth.adapters.credentials.recovery import save_recovery_file
from tests.unit.adapters.credentials.pairs import a_pair

PAIR = a_pair("new")


def test_recovery_file_holds_both_halves_for_the_owner_alone(tmp_path: Path) -> None:
    """As near as possible to where they belong."""
    path = save_recovery_file(PAIR, near=tmp_path)
    assert path is not None
    assert path.parent == tmp_path
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == PAIR.key_pem + PAIR.certificate_pem


def test_recovery_file_and_its_name_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut takes neither: the content is written through first, then the directory."""
    synced: list[bool] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    save_recovery_file(PAIR, near=tmp_path)
    assert synced == [False, True]


def test_next_best_place_is_taken(tmp_path: Path) -> None:
    """The parent, where the directory itself is gone."""
    path = save_recovery_file(PAIR, near=tmp_path / "gone")
    assert path is not None
    assert path.parent == tmp_path


def test_last_place_is_the_one_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better than nowhere."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.chdir("/proc")
    path = save_recovery_file(PAIR, near=Path("/dev/null/a/b"))
    assert path is not None
    assert path.parent == tmp_path


def test_nowhere_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the caller still has the only copy."""
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.chdir("/proc")
    assert save_recovery_file(PAIR, near=Path("/dev/null/a/b")) is None
