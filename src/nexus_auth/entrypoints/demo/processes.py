"""The demo's children, each in a session of its own, and the ports that they listen on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.domain.errors import NexusAuthError
from nexus_auth.entrypoints.process import clean_environment, ending_of
from nexus_auth.entrypoints.signals import Interrupts

_READY_SECONDS: Final = 30.0
"""A cold start on a slow machine takes two or three; nothing is gained by giving up early."""

_POLL_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 5.0
"""How long a child may take to leave before it is killed."""

_TAIL_LINES: Final = 15

LOOPBACK: Final = "127.0.0.1"
OURSELVES: Final = (sys.executable, "-m", "nexus_auth")
"""This very installation as a command, whether or not its script is on PATH."""


class DemoFailed(NexusAuthError):
    """A part of the demo is missing, did not start, or ended before its time."""


class ReservedPort:
    """A port on loopback that the system gives to no other program.

    On Linux a bound socket that does not listen keeps the port from being handed out, while a
    program that sets SO_REUSEADDR, as every server does, may listen on it. Elsewhere the
    reservation ends at once, and a clash is possible, if unlikely.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, 0))
        self.address = TcpAddress(*self._socket.getsockname())
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        """Gives the port back."""
        self._socket.close()

    def is_answered(self) -> bool:
        """Whether a program listens on it."""
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((LOOPBACK, self.address.port)) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One running program; `may_end` says whether its end is expected."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    may_end: bool

    @property
    def tail(self) -> str:
        """The last lines that it wrote, indented."""
        lines = self.log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (it wrote nothing)"


class Children:
    """Starts programs and ends them all before the demo ends."""

    def __init__(self, *, directory: Path, interrupts: Interrupts) -> None:
        self._directory = directory
        self._interrupts = interrupts
        self._running: list[Child] = []

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        may_end: bool = False,
    ) -> Child:
        """Starts a program with its output in a file of its name."""
        log = self._directory / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as output, self._interrupts.held():
            try:
                process = subprocess.Popen(  # noqa: S603 - programs of the demo's own choosing
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._directory,
                    env=clean_environment() | dict(environment or {}),
                    # Ctrl-C in the terminal reaches the demo alone, which then ends its children.
                    start_new_session=True,
                )
            except OSError as exc:
                raise DemoFailed(f"{name} does not start: {exc}") from exc
            child = Child(name=name, process=process, log=log, may_end=may_end)
            self._running.append(child)
        return child

    def wait_until(self, is_so: Callable[[], bool], *, child: Child) -> None:
        """Waits until something holds that a child brings about.

        Raises:
            DemoFailed: When a child ends before its time, or it takes too long; with the last
                lines of what the child wrote.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while not is_so():
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"{child.name} is not ready after {_READY_SECONDS:.0f} s; its last lines:\n"
                    f"{child.tail}"
                )
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Notices a child that ended before it was stopped.

        Raises:
            DemoFailed: Naming it, with its last lines.
        """
        for child in self._running:
            code = child.process.poll()
            if code is not None and not child.may_end:
                raise DemoFailed(f"{child.name} ended early ({ending_of(code)}):\n{child.tail}")

    def run(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> None:
        """Runs a program to its end.

        Raises:
            DemoFailed: When it takes too long or fails.
        """
        child = self.start(name, command, environment=environment, may_end=True)
        try:
            self.wait_until(lambda: child.process.poll() is not None, child=child)
        finally:
            self.stop(child)
        code = child.process.returncode
        if code != 0:
            raise DemoFailed(f"{name} failed ({ending_of(code)}):\n{child.tail}")

    def tails(self) -> str:
        """The last lines of every child that runs."""
        return "\n".join(f"\n{child.name}, last lines:\n{child.tail}" for child in self._running)

    def stop(self, *children: Child) -> None:
        """Ends some children, in this order."""
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                # The whole session that was started for it: a killed nginx leaves its workers.
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
            self._running.remove(child)

    def stop_all(self) -> None:
        """Ends every child, the youngest first."""
        self.stop(*reversed(self._running))
