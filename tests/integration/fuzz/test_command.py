"""`python -m fuzz`, as developers and CI start it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.real import REQUIRE_REAL

ROOT = Path(__file__).parents[3]


def run_fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.timeout(300)
def test_run_by_count_goes_through_so_many_inputs() -> None:
    """It ends by itself and says what it did, without the fuzzer's own output."""
    if importlib.util.find_spec("atheris") is None:
        if REQUIRE_REAL and sys.version_info < (3, 14):
            pytest.fail("atheris is not installed")
        done = run_fuzz("xfcc", "--runs", "1")
        assert done.returncode == 0
        assert "!!! NOT RUN" in done.stderr
        pytest.skip(done.stderr.strip())
    done = run_fuzz("xfcc", "--runs", "300")
    assert done.stderr == ""
    assert done.stdout == "fuzz: xfcc: 300 inputs\nfuzz: 1 targets, 0 broken\n"
    assert done.returncode == 0


def test_finding_is_replayed_without_a_fuzzer(tmp_path: Path) -> None:
    """A file is enough to see it again."""
    finding = tmp_path / "finding"
    finding.write_bytes(b"\x01")
    done = run_fuzz("xfcc", "--replay", str(finding))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("arguments", [("nothing",), ("--replay", "file")])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    """A misspelt target is not silently none."""
    assert run_fuzz(*arguments).returncode == 2
