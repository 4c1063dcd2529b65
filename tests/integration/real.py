"""Finds, starts and stops the real programs that integration tests drive."""

from __future__ import annotations

import itertools
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import pytest

REQUIRE_REAL: Final = os.environ.get("NEXUS_AUTH_REQUIRE_REAL") == "1"
"""Read at import: the tests themselves run with every NEXUS_ variable cleared."""

READY_TIMEOUT_SECONDS: Final = 15.0
"""Long enough for a cold start on a busy machine with two cores."""

STOP_TIMEOUT_SECONDS: Final = 10.0
"""How long a program may take to leave after SIGTERM before it is killed."""

_POLL_SECONDS: Final = 0.02
_RESEND_SECONDS: Final = 3.0


def require_program(name: str, how: str) -> Path:
    """Finds a program on this machine; without it the test is skipped, or fails.

    Looks beside the running interpreter, on PATH, and in the system folders that
    are often missing from PATH.

    Args:
        name: The program, such as `nginx`.
        how: How to install it, such as `apt-get install nginx`.
    """
    search = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
    )
    found = shutil.which(name, path=search)
    if found is not None:
        return Path(found)
    message = f"{name} is not installed here; get it with: {how}"
    if REQUIRE_REAL:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def free_port() -> int:
    """Finds a TCP port that is free on every address, and stays so until it is used.

    Neither an outgoing connection nor another process of these tests takes a port of this range.
    """
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is always a next port")


def _ports() -> Iterator[int]:
    """Ports in turn, from below those that Linux gives to outgoing connections (32,768 on).

    Starts anywhere: two runs of the tests on one machine seldom meet.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(20_000 + mine, 32_000, processes)
    start = secrets.randbelow(len(ports))
    return itertools.cycle([*ports[start:], *ports[:start]])


_PORTS: Final = _ports()


def accepts_connections(port: int) -> bool:
    """Tells whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_ready(
    is_ready: Callable[[], bool],
    *,
    what: str,
    process: Process | None = None,
    timeout_seconds: float = READY_TIMEOUT_SECONDS,
) -> None:
    """Waits until a condition holds, and fails the test when it does not in time.

    Args:
        is_ready: Asked again and again; must return quickly.
        what: Names the thing waited for in the failure message.
        process: If given, its early end ends the waiting, and its output is shown.
        timeout_seconds: The longest wait.
    """
    deadline = time.monotonic() + timeout_seconds
    while not is_ready():
        if process is not None and not process.is_running:
            pytest.fail(f"{what}: ended early ({process.returncode})\n{process.output}")
        if time.monotonic() > deadline:
            said = "" if process is None else f"\n{process.output}"
            pytest.fail(f"{what}: not ready within {timeout_seconds} s{said}")
        time.sleep(_POLL_SECONDS)


def resending(send: Callable[[], object], *, until: Callable[[], bool]) -> Callable[[], bool]:
    """A condition to wait for that a signal brings about; sends it again where nothing happens.

    A master process that is still busy with its last worker loses a signal.
    """
    sent_at = -math.inf

    def is_done() -> bool:
        nonlocal sent_at
        if time.monotonic() - sent_at > _RESEND_SECONDS:
            send()
            sent_at = time.monotonic()
        return until()

    return is_done


class Process:
    """A child process with its output in a file; leaving the `with` block stops it by its id."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log_file: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.command = [str(part) for part in command]
        self.log_file = log_file
        self._stop_signal = stop_signal
        with log_file.open("wb") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                cwd=directory,
                # Its own group: Ctrl-C in the terminal reaches pytest alone, which then stops it.
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._child.poll()

    @property
    def is_running(self) -> bool:
        """Tells whether the process has not ended yet."""
        return self._child.poll() is None

    @property
    def output(self) -> str:
        """What it wrote so far to stdout and stderr."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def send_signal(self, which: signal.Signals) -> None:
        """Sends a signal to this process alone."""
        self._child.send_signal(which)

    def wait(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> int:
        """Waits until it ended by itself and gives its exit code."""
        return self._child.wait(timeout_seconds)

    def stop(self) -> int:
        """Asks it to end, insists after a while, and gives its exit code."""
        if self._child.poll() is None:
            self._child.send_signal(self._stop_signal)
            try:
                self._child.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
        return self._child.wait()
