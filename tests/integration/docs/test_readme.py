"""The library's example in README.md, run as it stands."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_pem
from tests.integration.pylon.running import running_pylon
from tests.pages import ROOT, blocks


def _examples() -> list[str]:
    found = [block.code for block in blocks(ROOT / "README.md") if block.language == "python"]
    assert found
    return found


@pytest.mark.parametrize("example", _examples(), ids=["embed"])
def test_example_is_short(example: str) -> None:
    """What one needs fits into less than 15 lines."""
    assert len([line for line in example.splitlines() if line.strip()]) < 15


@pytest.mark.parametrize("example", _examples(), ids=["embed"])
@pytest.mark.parametrize(
    ("registered", "expected"),
    [("alice", f"let in: {a_hotkey()}\n"), ("mallory", "turned away: key-mismatch\n")],
)
def test_example_does_what_it_shows(
    tmp_path: Path, example: str, registered: str, expected: str
) -> None:
    """A registered caller is let in; with another key on chain the same one is turned away."""
    now = datetime.now(UTC)
    certificate = a_certificate(not_before=now, not_after=now + timedelta(days=1))
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "client.crt").write_bytes(to_pem(certificate))
    with running_pylon(open_access_token=None) as pylon:
        pylon.store.set_certificate(a_hotkey(), public_bytes(a_key(registered)))
        done = subprocess.run(
            [sys.executable, "-c", example.replace("http://127.0.0.1:8000", pylon.url)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert (done.stdout, done.stderr) == (expected, "")
