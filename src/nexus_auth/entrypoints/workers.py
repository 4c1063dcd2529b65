"""Several processes behind one listening socket: starts them, replaces them, ends them.

A plain parent that forks: it has no event loop and no threads, and waits for signals alone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from nexus_auth.entrypoints import exit_codes

log = structlog.get_logger(__name__)

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_WATCHED: Final = (*_STOPPING, signal.SIGHUP, signal.SIGCHLD)

YOUNG_SECONDS: Final = 1.0
"""A worker that dies sooner than this is replaced only after as long a rest: whatever kills it
would kill the next one too."""

RunWorker = Callable[[int, int], int]
"""Runs a worker in its own process: its number, and a descriptor that is readable once the
supervisor is gone. Returns the exit code."""


@dataclass(slots=True)
class _Worker:
    number: int
    started: float


def supervise(
    count: int,
    run_worker: RunWorker,
    *,
    stop_listening: Callable[[], None],
    grace_seconds: float,
) -> int:
    """Keeps so many workers running until SIGTERM or SIGINT, and returns the exit code.

    Args:
        count: How many.
        run_worker: What each of them does.
        stop_listening: Closes the sockets in this process, so that nobody waits in a queue that
            no worker looks at any more.
        grace_seconds: How long workers may take to end before they are killed.
    """
    # Signals are taken one by one with sigtimedwait, so that none comes at a bad moment.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    return _Supervisor(count, run_worker).run(stop_listening, grace_seconds)


class _Supervisor:
    def __init__(self, count: int, run_worker: RunWorker) -> None:
        self._run_worker = run_worker
        self._workers: dict[int, _Worker] = {}
        self._due: dict[int, float] = dict.fromkeys(range(count), 0.0)
        # Never written to: its end is what workers notice.
        self._alive_read, self._alive_write = os.pipe()

    def run(self, stop_listening: Callable[[], None], grace_seconds: float) -> int:
        """Starts and replaces workers until told to end."""
        log.info("supervising", workers=len(self._due), pid=os.getpid())
        while True:
            self._start_due()
            received = self._wait(self._next_due())
            if received in _STOPPING:
                break
            if received == signal.SIGHUP:
                self._tell_all(signal.SIGHUP)
            self._reap()
        stop_listening()
        return self._end(grace_seconds)

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._start(number)

    def _next_due(self) -> float | None:
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None

    def _wait(self, seconds: float | None) -> int | None:
        if seconds is None:
            return signal.sigwait(_WATCHED)
        received = signal.sigtimedwait(_WATCHED, seconds)
        return None if received is None else received.si_signo

    def _start(self, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._workers[pid] = _Worker(number, time.monotonic())
            return
        code = exit_codes.FAILED
        try:
            os.close(self._alive_write)
            # The worker's event loop handles them from here on.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            code = self._run_worker(number, self._alive_read)
        except BaseException:
            log.exception("worker_failed")
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _reap(self) -> None:
        """Takes note of workers that ended, and has them replaced."""
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            worker = self._workers.pop(pid)
            now = time.monotonic()
            young = now - worker.started < YOUNG_SECONDS
            self._due[worker.number] = now + YOUNG_SECONDS if young else now
            log.error(
                "worker_died",
                pid=pid,
                number=worker.number,
                code=os.waitstatus_to_exitcode(status),
            )

    def _tell_all(self, number: int) -> None:
        for pid in self._workers:
            os.kill(pid, number)

    def _end(self, grace_seconds: float) -> int:
        """Has every worker drain, and kills those that do not."""
        self._tell_all(signal.SIGTERM)
        code = exit_codes.DONE
        deadline = time.monotonic() + grace_seconds
        while self._workers:
            left = deadline - time.monotonic()
            if left <= 0:
                log.error("workers_killed", pids=list(self._workers))
                self._tell_all(signal.SIGKILL)
                left = 1.0
                deadline = time.monotonic() + left
            if self._wait(left) in _STOPPING:
                self._tell_all(signal.SIGTERM)
            while self._workers:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                del self._workers[pid]
                if os.waitstatus_to_exitcode(status) != 0:
                    code = exit_codes.FAILED
        return code
