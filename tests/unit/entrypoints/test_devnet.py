"""Token files of the development Pylon; the rest is tested as a process."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nexus_auth.adapters.devnet.records import TokenDigest
from nexus_auth.entrypoints.devnet import load_or_make_token


def test_new_tokens_are_usable_and_differ(tmp_path: Path) -> None:
    """Each fits into a header."""
    one, other = load_or_make_token(tmp_path / "one"), load_or_make_token(tmp_path / "other")
    assert one != other
    assert TokenDigest.of(one).matches(one)


def test_token_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """The second call reads what the first one wrote; no temporary file stays."""
    path = tmp_path / "token"
    token = load_or_make_token(path)
    assert load_or_make_token(path) == token
    assert path.read_text() == f"{token}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_token_file_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither half a file nor a temporary one."""
    with pytest.raises(OSError, match="No such file"):
        load_or_make_token(tmp_path / "missing" / "token")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        load_or_make_token(tmp_path / "folder")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
