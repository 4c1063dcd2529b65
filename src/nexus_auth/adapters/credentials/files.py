"""Single files, written so that they are there completely or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

TEMPORARY_SUFFIX: Final = ".tmp"

PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644

ROOM_BYTES: Final = 16 * 1024
"""A key and a certificate have about 700 bytes together; one block more costs nothing."""

# O_EXCL already refuses a link; the other two where the system has them.
_CREATE: Final = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


class ReservedFile:
    """A new file with room set aside, to be filled and put in its place later.

    Nobody but the owner can read it from the first moment on, whatever the umask. Leaving the
    `with` block removes it where it was not published. A crash leaves `<stem>.<random>.tmp`.
    """

    def __init__(self, directory: Path, stem: str) -> None:
        """Creates the file and writes its room full of zeros, onto the disk.

        Raises:
            OSError: If the directory is not writable, or the disk full.
        """
        self.path = directory / f"{stem}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        self._descriptor = os.open(self.path, _CREATE, PRIVATE_MODE)
        self._is_open = True
        self._is_wanted = False
        try:
            os.fchmod(self._descriptor, PRIVATE_MODE)  # a strange umask may have taken bits away
            self._write(bytes(ROOM_BYTES))
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if not self._is_wanted:
            self.discard()

    def fill(self, data: bytes, *, mode: int = PRIVATE_MODE) -> None:
        """Writes the content into the room, onto the disk. Needs no further space."""
        self._write(data)
        os.ftruncate(self._descriptor, len(data))
        os.fchmod(self._descriptor, mode)
        os.fsync(self._descriptor)
        self._close()

    def keep(self) -> None:
        """From now on it stays, whatever happens: it may become the only copy of a key."""
        self._is_wanted = True

    def publish(self, target: Path) -> None:
        """Puts the file in its place, where it replaces what is there in one step."""
        self.path.replace(target)
        self._is_wanted = True

    def discard(self) -> None:
        """Removes the file."""
        self._close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._descriptor)


def is_mounted(path: Path) -> bool:
    """Says whether something is mounted over this one file, as containers do with `-v FILE:FILE`.

    Such a file can be written, but not replaced. It is found out by a link: from one mount to
    another there is none, even on one file system. Where there are no links at all, nobody knows.
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
    with suppress(OSError):  # some network file systems refuse; there is nothing better
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
