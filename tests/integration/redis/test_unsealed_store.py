"""A Redis whose records no secret seals, against the real program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.pylon.running import running_pylon
from tests.integration.service.running import running_service

_STORE = "redis://:pw@127.0.0.1:9/0"
_UNSAFE = {"NEXUS_AUTH_UNSAFE_UNSEALED_STORE": "true"}


def run(folder: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with an unsealed store and without a token."""
    environment = {name: value for name, value in os.environ.items() if "NEXUS" not in name}
    return subprocess.run(
        [sys.executable, "-m", "nexus_auth", *command],
        env={**environment, "NEXUS_AUTH_SNAPSHOT_STORE": _STORE, **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_service_does_not_start_without_a_secret(tmp_path: Path, workers: str) -> None:
    """Exit code 2; the message says what to set, and does not show the password of Redis."""
    done = run(tmp_path, "run", NEXUS_AUTH_WORKERS=workers, NEXUS_AUTH_LISTEN_ADDR="127.0.0.1:0")
    assert done.returncode == 2
    assert "NEXUS_AUTH_SNAPSHOT_STORE (from environment)" in done.stderr
    assert "set NEXUS_AUTH_SNAPSHOT_STORE_SECRET" in done.stderr
    assert "pw" not in done.stdout + done.stderr


def test_unsafe_store_that_is_asked_for_by_name_is_warned_of_once(tmp_path: Path) -> None:
    """However many workers there are."""
    with (
        running_pylon(open_access_token=None) as pylon,
        running_service(
            tmp_path,
            pylon.url,
            NEXUS_AUTH_WORKERS="2",
            NEXUS_AUTH_SNAPSHOT_STORE=_STORE,
            NEXUS_AUTH_UNSAFE_UNSEALED_STORE="true",
            NEXUS_PYLON_IDENTITY_NAME="",
            NEXUS_PYLON_IDENTITY_TOKEN="",
        ) as service,
    ):
        (line,) = service.lines("unsealed_store")
    assert line["level"] == "warning"
    assert "NEXUS_AUTH_SNAPSHOT_STORE_SECRET" in line["problem"]


@pytest.mark.parametrize(
    ("settings", "subject", "outcome"),
    [({}, "configuration", "wrong"), (_UNSAFE, "store", "warning")],
    ids=["refused", "unsafe"],
)
def test_doctor_says_what_an_unsealed_store_means(
    tmp_path: Path, settings: dict[str, str], subject: str, outcome: str
) -> None:
    """With the remedy; a service that would not start is wrong, one that was told to is warned."""
    done = run(tmp_path, "doctor", "--json", NEXUS_PYLON_ENDPOINT="http://127.0.0.1:9", **settings)
    found = {each["subject"]: each for each in json.loads(done.stdout)}
    assert found[subject]["outcome"] == outcome
    said = found[subject]["text"] + found[subject]["next_step"]
    assert "any client that can write to Redis decides who is granted" in said
    assert "NEXUS_AUTH_SNAPSHOT_STORE_SECRET" in said
