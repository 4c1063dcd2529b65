"""What a service needs of its process: connections, a folder, a server, worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.signals import STOPPING

log = structlog.get_logger(__name__)

ENOUGH_FILES: Final = 65_536
"""More connections than any proxy opens; the limit where the system knows none."""

FOLDER_PREFIX: Final = "nexus-auth-process-"

YOUNG_SECONDS: Final = 1.0
"""A worker that dies sooner than this is replaced only after a pause of the same length: what
killed it would kill the next one too."""

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_WATCHED: Final = (*STOPPING, signal.SIGHUP, signal.SIGCHLD)

RunWorker = Callable[[int, int], int]
"""Runs a worker in its own process: its number, and a descriptor that is readable once the
supervisor is gone. Returns the exit code."""


def allow_many_connections() -> None:
    """Raises the soft limit of open files to the hard one; keeps it where that cannot be.

    The soft limit is 1024 nearly everywhere, for the sake of programs that call `select`, and each
    connection takes one. Programs in Go, the original among them, raise it by themselves.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems have a lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its process, and takes in what the kernel let in.

    uvicorn itself would die of a signal after it has ended well.
    """

    def __init__(
        self, config: uvicorn.Config, *, on_stop: Callable[[], None] | None = None
    ) -> None:
        """Makes a server that calls `on_stop`, if any, just before it stops listening."""
        super().__init__(config)
        self._on_stop = on_stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends after one more pass of the loop: every accepted connection is drained, too."""
        await asyncio.sleep(0)
        if self._on_stop is not None:
            self._on_stop()
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn then leaves the lifespan to be cancelled, which it reports as a failure.
            await self.lifespan.shutdown()


def clean_environment() -> dict[str, str]:
    """The environment of a child that is another program, and has to do with this machine alone.

    Without our settings, secrets among them, and without an HTTP proxy.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("NEXUS_") and not name.lower().endswith("_proxy")
    }


def ending_of(code: int) -> str:
    """How a child ended, in words; `code` is as of `subprocess`."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Makes a folder for files of its owner alone, and removes it at the end of the block.

    A process that is killed removes nothing. So a folder is locked by the process that made it
    and, since they inherit the lock, by all that were forked inside the block. Folders of earlier
    processes that are not locked any more are removed first.

    Raises:
        OSError: If none can be made.
    """
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    path, descriptor = _make_locked(parent)
    try:
        yield path
    finally:
        _remove(path, descriptor)
        os.close(descriptor)


def _make_locked(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
        # Until it is locked, another process that starts now may take it for one that was left.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, _OPEN_FOLDER)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            except OSError:  # A file system without locks: nothing is ever removed there.
                return path, descriptor
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, _OPEN_FOLDER)
            try:
                found = os.fstat(descriptor)
                if found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
                    # Fails where a process has it.
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(path, descriptor)
            finally:
                os.close(descriptor)


def _remove(path: Path, folder: int) -> None:
    """Removes a folder of files, emptied by its descriptor: its name may be reused by now."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            os.unlink(name, dir_fd=folder)
        path.rmdir()


def supervise(
    count: int, run_worker: RunWorker, *, stop_listening: Callable[[], None], grace_seconds: float
) -> int:
    """Keeps so many workers running until SIGTERM or SIGINT, and returns the exit code.

    The supervisor only forks and waits for signals: it has no event loop and no threads.

    Args:
        count: How many.
        run_worker: What each of them does.
        stop_listening: Closes the sockets in this process, so that no connection waits in a queue
            that no worker looks at any more.
        grace_seconds: How long workers may take to end before they are killed.
    """
    # Signals are taken one by one with sigtimedwait, so that none comes at a bad moment.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    return _Supervisor(count, run_worker).run(stop_listening, grace_seconds)


class _Supervisor:
    def __init__(self, count: int, run_worker: RunWorker) -> None:
        self._run_worker = run_worker
        # By process id, its worker's number and when it started; by number, when one is to start.
        self._workers: dict[int, tuple[int, float]] = {}
        self._due: dict[int, float] = dict.fromkeys(range(count), 0.0)
        # Never written to: its end is what workers notice.
        self._alive_read, self._alive_write = os.pipe()

    def run(self, stop_listening: Callable[[], None], grace_seconds: float) -> int:
        """Starts and replaces workers until a signal ends it."""
        log.info("supervising", workers=len(self._due), pid=os.getpid())
        while True:
            now = time.monotonic()
            for number in [number for number, due in self._due.items() if due <= now]:
                del self._due[number]
                self._start(number)
            next_due = min(self._due.values(), default=None)
            received = self._wait(None if next_due is None else next_due - time.monotonic())
            if received in STOPPING:
                break
            if received == signal.SIGHUP:
                self._signal_all(signal.SIGHUP)
            self._replace_ended()
        stop_listening()
        return self._end(grace_seconds)

    def _wait(self, seconds: float | None) -> int | None:
        if seconds is None:
            return signal.sigwait(_WATCHED)
        received = signal.sigtimedwait(_WATCHED, max(0.0, seconds))
        return None if received is None else received.si_signo

    def _start(self, number: int) -> None:
        pid = os.fork()
        if pid:
            self._workers[pid] = number, time.monotonic()
            return
        code = exit_codes.FAILED
        try:
            os.close(self._alive_write)
            # The others stay blocked until the worker's event loop handles them.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            code = self._run_worker(number, self._alive_read)
        except BaseException:
            log.exception("worker_failed")
        finally:
            os._exit(code)

    def _ended(self) -> Iterator[tuple[int, int, float, int]]:
        """Takes every worker that ended off the list: process id, number, start, exit code."""
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, *self._workers.pop(pid), os.waitstatus_to_exitcode(status)

    def _replace_ended(self) -> None:
        for pid, number, started, code in self._ended():
            now = time.monotonic()
            is_young = now - started < YOUNG_SECONDS
            self._due[number] = now + YOUNG_SECONDS if is_young else now
            log.error("worker_died", pid=pid, number=number, code=code)

    def _signal_all(self, number: int) -> None:
        for pid in self._workers:
            os.kill(pid, number)

    def _end(self, grace_seconds: float) -> int:
        """Has every worker drain, and kills those that do not."""
        self._signal_all(signal.SIGTERM)
        code = exit_codes.DONE
        deadline = time.monotonic() + grace_seconds
        while self._workers:
            left = deadline - time.monotonic()
            if left <= 0:
                log.error("workers_killed", pids=list(self._workers))
                self._signal_all(signal.SIGKILL)
                left = 1.0
                deadline = time.monotonic() + left
            if self._wait(left) in STOPPING:
                self._signal_all(signal.SIGTERM)
            for *_, ended_with in self._ended():
                code = exit_codes.FAILED if ended_with else code
        return code
