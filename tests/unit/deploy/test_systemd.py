"""The systemd unit."""

from __future__ import annotations

import shutil
import subprocess
import sys
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


def can_mount() -> bool:
    """Whether this user may mount a /proc of its own, as the unit's options have systemd do."""
    tried = ["unshare", "--mount", "true"]
    return shutil.which("unshare") is not None and not subprocess.run(tried, check=False).returncode


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
def test_boot_id_is_visible_under_the_options_of_the_unit() -> None:
    """Without it the age of a record in the store hangs on the wall clock alone."""
    options = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "Proc" in line)
    mount = f"hidepid={options['ProtectProc']},subset={options.get('ProcSubset', '')}"
    mount = mount.removesuffix(",subset=")
    read = "from nexus_auth.adapters.store.record import read_boot_id; print(read_boot_id())"
    inside = 'mount -t proc -o "$0" proc /proc && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside, mount, sys.executable, "-c", read],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.strip()) == 36
