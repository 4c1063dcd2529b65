"""Single files: read whatever stands under a name, written completely or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

TEMPORARY_SUFFIX: Final = ".tmp"

PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644

LEFTOVER_SECONDS: Final = 3600.0
"""After this time a temporary file belongs to a writer that was killed."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def load_bytes(path: Path, limit: int) -> bytes:
    """Reads a file to its end, or as much of it as the limit allows.

    A pipe is read like a file while it has a writer, as in `<(openssl x509 ...)`. A pipe without
    a writer is empty: opening it as usual would wait for a writer for ever.

    Raises:
        OSError: When it cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        # What a writer is about to write is waited for.
        os.set_blocking(file.fileno(), True)
        return file.read(limit)


class ReservedFile:
    """A new file with room set aside, to be filled and put in its place later.

    Only its owner can read it from the first moment on, whatever the umask. Leaving the `with`
    block removes it where it was neither published nor kept. A crash leaves it under its
    temporary name.
    """

    def __init__(
        self, directory: Path, prefix: str, *, suffix: str = TEMPORARY_SUFFIX, room_bytes: int = 0
    ) -> None:
        """Creates the file, and writes its room full of zeros, onto the disk.

        Args:
            directory: Where it is created; on the file system of its later place.
            prefix: How its temporary name begins; random digits follow.
            suffix: How its temporary name ends.
            room_bytes: How much content `fill` can write even when the disk is full by then.

        Raises:
            OSError: If the directory is not writable, or the disk full.
        """
        self.path = directory / f"{prefix}{secrets.token_hex(8)}{suffix}"
        self._descriptor = os.open(self.path, _CREATE, PRIVATE_MODE)
        self._is_kept = False
        try:
            os.fchmod(self._descriptor, PRIVATE_MODE)  # a strange umask may have taken bits away
            if room_bytes:
                self._write(bytes(room_bytes))
                os.fsync(self._descriptor)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # What `fill` wrote is on the disk already.
            os.close(self._descriptor)
        if not self._is_kept:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def fill(
        self, data: bytes, *, mode: int = PRIVATE_MODE, written_ns: int | None = None
    ) -> os.stat_result:
        """Writes the content onto the disk, and returns what the system says of the file.

        Args:
            data: The content.
            mode: The permission bits.
            written_ns: The time that the file gets, in nanoseconds since 1970, where the file
                system lets us choose; by default, now.
        """
        self._write(data)
        os.ftruncate(self._descriptor, len(data))
        os.fchmod(self._descriptor, mode)
        if written_ns is not None:
            with suppress(OSError):
                os.utime(self._descriptor, ns=(written_ns, written_ns))
        os.fsync(self._descriptor)
        return os.fstat(self._descriptor)

    def keep(self) -> None:
        """From now on the file stays, whatever happens: it may become the only copy of a key."""
        self._is_kept = True

    def publish(self, target: Path) -> None:
        """Puts the file in its place, where it replaces what is there in one step."""
        self.path = self.path.replace(target)
        self._is_kept = True

    def _write(self, data: bytes) -> None:
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def replace_file(path: Path, data: bytes, *, mode: int = PRIVATE_MODE) -> os.stat_result:
    """Replaces a file in one step: a reader sees the old content or the new one, never a part.

    The new content survives a power cut. Temporary files that killed writers of the same file
    left behind are removed after `LEFTOVER_SECONDS`. Returns what the system says of the new file.

    Raises:
        OSError: If it could not be written; the old content is still there.
    """
    prefix = f".{path.name}."
    _remove_leftovers(path.parent, prefix)
    with ReservedFile(path.parent, prefix) as file:
        found = file.fill(data, mode=mode)
        file.publish(path)
    sync_directory(path.parent)
    return found


def _remove_leftovers(directory: Path, prefix: str) -> None:
    for path in directory.iterdir():
        if not path.name.startswith(prefix) or path.suffix != TEMPORARY_SUFFIX:
            continue
        with suppress(OSError):
            found = path.lstat()
            is_old = time.time() - found.st_mtime > LEFTOVER_SECONDS
            if stat.S_ISREG(found.st_mode) and is_old:
                path.unlink()


def is_mounted(path: Path) -> bool:
    """Says whether something is mounted over this one file, as containers do with `-v FILE:FILE`.

    Such a file can be written, but not replaced. A link shows it: there is none from one mount to
    another, even on one file system. On a file system without links the answer is False.
    """
    trial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    try:
        os.link(path, trial)
    except OSError as exc:
        return exc.errno == errno.EXDEV
    trial.unlink()
    return False


def sync_directory(path: Path) -> None:
    """Makes the names in a directory survive a power cut, where the file system can."""
    with suppress(OSError):  # some network file systems cannot; there is nothing better
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
