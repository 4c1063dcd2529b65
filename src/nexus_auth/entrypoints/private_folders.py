"""A folder for the processes of one service, which goes when the last of them does.

Whoever is killed removes nothing. So each folder is locked by the process that made it and, since
they inherit the lock, by all that it forked. One that nobody has locked any more is nobody's, and
goes when the next one is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX: Final = "nexus-auth-workers-"

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Makes a folder for files of its owner alone, and removes it at the end of the block.

    Those that others left behind are removed first. A process that was forked inside the block
    keeps the folder from being taken for such a one for as long as it lives.

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
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Until it is locked, another process that starts now may take it for one that was left.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, _OPEN)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            except OSError:  # A file system without locks: nobody removes anything there.
                return path, descriptor
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, _OPEN)
            try:
                found = os.fstat(descriptor)
                if found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
                    # Fails where somebody has it.
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(path, descriptor)
            finally:
                os.close(descriptor)


def _remove(path: Path, folder: int) -> None:
    """Removes a folder of files, emptied by its descriptor: the name may be another's by now."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            os.unlink(name, dir_fd=folder)
        path.rmdir()
