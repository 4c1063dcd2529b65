"""What it costs to start: imports, the command line, the service until it is ready, memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.programs import free_port, process_tree, resident_bytes, running

_ROUNDS: Final = 11

_COMMANDS: Final = {
    "an empty interpreter": ["-c", "pass"],
    "import cryptography.x509": ["-c", "import cryptography.x509"],
    "import nexus_auth and its verifier": [
        "-c",
        "import nexus_auth; nexus_auth.CertificateVerifier",
    ],
    "nexus-auth --help": ["-m", "nexus_auth", "--help"],
}


def start_up_seconds() -> dict[str, list[float]]:
    """Wall time of short commands, in turn, so that a slow moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for name in _COMMANDS:  # warm the page cache and the compiled modules
        _run(_COMMANDS[name])
    for _ in range(_ROUNDS):
        for name, arguments in _COMMANDS.items():
            times[name].append(_run(arguments))
    return times


def _run(arguments: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    return time.perf_counter() - begin


def service_ready_seconds(command: list[str], folder: Path, pylon: str) -> float:
    """Median time from starting a service until it listens."""
    times = []
    for _ in range(5):
        port = free_port()
        env = {
            "NEXUS_AUTH_LISTEN_ADDR": f"127.0.0.1:{port}",
            "NEXUS_AUTH_ADMIN_ADDR": "off",
            "NEXUS_PYLON_ENDPOINT": pylon,
            "NEXUS_PYLON_NETUID": "1",
        }
        begin = time.perf_counter()
        with running(command, port=port, log=folder / "ready.log", env=env):
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def memory_mb(pid: int) -> float:
    """Resident memory of the largest process of a tree, megabytes."""
    return max(resident_bytes(each) for each in process_tree(pid)) / 1e6
