"""Keeps a snapshot in a file, for the next start and for other processes of this machine."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from nexus_auth.adapters.clock import monotonic_seconds
from nexus_auth.adapters.files import PRIVATE_MODE, replace_file
from nexus_auth.adapters.store.record import LONGEST_LEASE, MAX_RECORD_BYTES, read_boot_id
from nexus_auth.domain.errors import RecordRejected, StoreUnavailable
from nexus_auth.domain.ports import MonotonicClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_MAX_LEASE_BYTES: Final = 1024

P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(
    method: Callable[Concatenate[FileStore, P], T],
) -> Callable[Concatenate[FileStore, P], Coroutine[Any, Any, T]]:
    """Runs a method in the store's thread. An error of the system becomes the port's."""

    @functools.wraps(method)
    async def run(self: FileStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            access = functools.partial(method, self, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._thread, access)
        except (OSError, RuntimeError) as exc:
            # A RuntimeError where no thread can be started, or the store is closed.
            raise StoreUnavailable(
                f"{self._path}: {getattr(exc, 'strerror', None) or exc}"
            ) from exc

    return run


class FileStore:
    """A `SnapshotStore` in one file, readable by its owner alone.

    A second file beside it (`.turn`) holds the lease. Both are opened without following a symbolic
    link, and rejected when they belong to another user or others may write them: in a folder that
    others may write, they can place files of their own.
    """

    def __init__(self, path: Path, *, monotonic: MonotonicClock = monotonic_seconds) -> None:
        """Opens nothing yet. The path is absolute; its folder exists, or can be made.

        `monotonic` measures spans on this machine, across processes.
        """
        self._path = path
        self._lease_path = path.with_name(f"{path.name}.turn")
        self._monotonic = monotonic
        self._boot_id = read_boot_id()
        # One of its own: a file system that hangs must not hold the threads that others need.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot-store")

    def __repr__(self) -> str:
        return f"FileStore({str(self._path)!r})"

    @_in_thread
    def version(self) -> str | None:
        """See `SnapshotStore.version`."""
        try:
            return _version_of(self._path.lstat())
        except FileNotFoundError:
            return None

    @_in_thread
    def load(self) -> bytes | None:
        """See `SnapshotStore.load`."""
        try:
            record = _read_own(self._path, MAX_RECORD_BYTES + 1)
        except OSError as exc:
            # Saving replaces whatever is there, so this is no reason not to try.
            raise RecordRejected(f"{self._path}: {exc.strerror or exc}") from exc
        if record is not None and len(record) > MAX_RECORD_BYTES:
            raise RecordRejected(f"{self._path}: it is too large")
        return record

    @_in_thread
    def save(self, record: bytes, *, said_at: datetime, keep_for: timedelta) -> str:  # noqa: ARG002 - a file needs neither; readers look at the age.
        """See `SnapshotStore.save`."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _version_of(replace_file(self._path, record))

    @_in_thread
    def acquire_lease(self, holder: str, span: timedelta) -> bool:
        """See `SnapshotStore.acquire_lease`."""
        self._lease_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _open_own(self._lease_path, os.O_RDWR | os.O_CREAT)
        with open(descriptor, "r+b") as file:  # noqa: PTH123 - a descriptor.
            try:
                # Held for these few lines only. A process that is suspended in between must
                # not block the others: they try again soon.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            now = self._monotonic()
            current = self._parse_lease(file.read(_MAX_LEASE_BYTES), now)
            if current is not None and current[0] != holder:
                return False
            until = now + span.total_seconds()
            lease = {"holder": holder, "until": until, "boot": self._boot_id}
            file.seek(0)
            file.write(json.dumps(lease).encode("ascii"))
            file.truncate()
            return True

    @_in_thread
    def lease_remaining(self) -> timedelta | None:
        """See `SnapshotStore.lease_remaining`."""
        text = _read_own(self._lease_path, _MAX_LEASE_BYTES)
        now = self._monotonic()
        current = None if text is None else self._parse_lease(text, now)
        return None if current is None else timedelta(seconds=current[1] - now)

    async def aclose(self) -> None:
        """Ends the thread; an access that hangs is not waited for."""
        self._thread.shutdown(wait=False)

    def _parse_lease(self, text: bytes, now: float) -> tuple[str, float] | None:
        """Who holds the lease at a moment, and until when; None when it is free."""
        try:
            lease: dict[str, Any] = json.loads(text)
            holder, until, boot = str(lease["holder"]), float(lease["until"]), lease["boot"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        # NaN and infinity are no end either.
        is_held = boot == self._boot_id and now < until <= now + LONGEST_LEASE.total_seconds()
        return (holder, until) if is_held else None


def _read_own(path: Path, limit: int) -> bytes | None:
    """Reads a file of ours, up to a limit; None when there is none."""
    try:
        descriptor = _open_own(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor.
        return file.read(limit)


def _open_own(path: Path, flags: int) -> int:
    """Opens a regular file of ours that only we may write."""
    # O_NONBLOCK: a FIFO that was placed here must not block the process.
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, PRIVATE_MODE)
    problem = _find_problem(os.fstat(descriptor))
    if problem is not None:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, problem)
    return descriptor


def _find_problem(found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    if stat.S_IMODE(found.st_mode) & 0o022:
        return "others may write it"
    return None


def _version_of(found: os.stat_result) -> str:
    return f"{found.st_ino}.{found.st_mtime_ns}.{found.st_size}"
