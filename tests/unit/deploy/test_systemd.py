"""The systemd unit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[3] / "deploy" / "systemd" / "nexus-auth.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_unit_is_accepted_by_systemd(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, with the program put where it can be found."""
    unit = tmp_path / "nexus-auth.service"
    text = UNIT.read_text().replace("/opt/nexus-auth/bin/nexus-auth", "/bin/true")
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "nexus-auth.service" in line]
    assert complaints == []
    assert done.returncode == 0, done.stderr


def test_unit_is_hardened() -> None:
    """The promises of the unit that matter most."""
    lines = UNIT.read_text().splitlines()
    for line in (
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    ):
        assert line in lines
