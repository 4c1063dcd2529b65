"""What `python -m fuzz` says and how it ends, without running a fuzzer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fuzz.__main__ as command
from fuzz import NAMES


@pytest.fixture(autouse=True)
def _work_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the checkout."""
    monkeypatch.setattr(command, "WORK", tmp_path)


def test_missing_fuzzer_is_a_loud_skip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on Python 3.14: no failure, and nothing that looks like a success."""
    monkeypatch.setitem(sys.modules, "atheris", None)
    monkeypatch.setattr(sys, "argv", ["fuzz"])
    assert command.main() == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("!!! NOT RUN: fuzzing needs atheris")
    # In CI nothing that exists for this Python is skipped.
    monkeypatch.setenv("NEXUS_AUTH_REQUIRE_REAL", "1")
    assert command.main() == (1 if sys.version_info < (3, 14) else 0)


class Runs:
    """Stands for the processes of the targets."""

    def __init__(self, broken: str) -> None:
        self.broken = broken
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.broken in command:
            return subprocess.CompletedProcess(command, 77, "PropertyBroken: a promise\n")
        said = "stat::number_of_executed_units: 12\n"
        return subprocess.CompletedProcess(command, 0, said)


def test_broken_target_fails_the_command_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The exit code, the promise, and where the input is."""
    runs = Runs(broken="heads")
    monkeypatch.setattr(sys, "argv", ["fuzz", "--runs", "12"])
    monkeypatch.setattr(subprocess, "run", runs)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert command.main() == 1
    said = capsys.readouterr()
    assert len(runs.commands) == len(NAMES)
    assert all({"-runs=12", "-seed=1"} <= set(each) for each in runs.commands)
    assert said.out.endswith(f"fuzz: {len(NAMES)} targets, 1 broken heads\n")
    assert "fuzz: xfcc: 12 inputs\n" in said.out
    assert "PropertyBroken: a promise" in said.err
    assert f"!!! heads is broken; the input is in {tmp_path / 'heads' / 'findings'}" in said.err


def test_run_by_time_shares_it_and_keeps_what_it_learns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each target gets its share, and a corpus of its own to go on from."""
    runs = Runs(broken="none")
    monkeypatch.setattr(sys, "argv", ["fuzz", "xfcc", "heads", "--seconds", "10"])
    monkeypatch.setattr(subprocess, "run", runs)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert command.main() == 0
    for name, each in zip(("xfcc", "heads"), runs.commands, strict=True):
        assert each[1:5] == ["-m", "fuzz.one", name, str(tmp_path / name / "corpus")]
        assert "-max_total_time=5" in each
