"""The directory that holds `client.key` and `client.crt`, changed so that no crash can hurt.

Two files cannot be replaced in one step. So a new pair is first written whole into one file, the
journal `.client-pair.pending`; that is the moment from which on it cannot be lost. Then the old
files are kept beside as `.old`, and the new ones put in their places. Whatever is interrupted is
finished by the next run, from the journal:

    killed while                        what the next run finds         and does
    the journal is being written        zeros, or half a pair           removes it
      (or whole, but without its name)  a whole pair in a `.tmp`        takes it for the journal
    the files are being replaced        the journal, and one new file   replaces both again
    the journal is being removed        the journal, and both files     replaces both again

Where somebody is to be told of the change, an empty file, `.client-pair-changed`, says so from
before the journal is removed until he was told.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path
from typing import Final, Self

from nexus_auth.adapters.credentials.errors import CredentialsNotPlaced, CredentialsUnusable
from nexus_auth.adapters.credentials.files import (
    PRIVATE_MODE,
    PUBLIC_MODE,
    TEMPORARY_SUFFIX,
    ReservedFile,
    is_mounted,
    sync_directory,
)
from nexus_auth.domain.errors import CredentialsError
from nexus_auth.domain.issuing import Credentials, parse_private_key

if sys.platform != "win32":
    import fcntl

KEY_NAME: Final = "client.key"
CERTIFICATE_NAME: Final = "client.crt"
OLD_SUFFIX: Final = ".old"
PENDING_NAME: Final = ".client-pair.pending"
UNTOLD_NAME: Final = ".client-pair-changed"

_JOURNAL_STEM: Final = ".client-pair"
_KEY_STEM: Final = f".{KEY_NAME}"
_CERTIFICATE_STEM: Final = f".{CERTIFICATE_NAME}"
_CERTIFICATE_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_DIRECTORY_MODE: Final = 0o755
# What we write has about 700 bytes; nobody's own pair comes near this.
_MAX_FILE_BYTES: Final = 64 * 1024


@unique
class Holdings(Enum):
    """Which of the two files are there."""

    NOTHING = "neither"
    KEY_ONLY = KEY_NAME
    CERTIFICATE_ONLY = CERTIFICATE_NAME
    BOTH = "both"


class CredentialsDirectory:
    """Reads and replaces the pair in one directory. Blocks while the disk works."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key_path = path / KEY_NAME
        self.certificate_path = path / CERTIFICATE_NAME
        self.pending_path = path / PENDING_NAME
        self.untold_path = path / UNTOLD_NAME

    def holdings(self) -> Holdings:
        """Says which files are there; a link to a file counts. Touches nothing.

        Raises:
            CredentialsUnusable: If that cannot be found out.
        """
        with _explained(self.path):
            key, certificate = self.key_path.is_file(), self.certificate_path.is_file()
        match key, certificate:
            case True, True:
                return Holdings.BOTH
            case True, _:
                return Holdings.KEY_ONLY
            case _, True:
                return Holdings.CERTIFICATE_ONLY
            case _:
                return Holdings.NOTHING

    def has_unfinished_work(self) -> bool:
        """Says whether an earlier run was interrupted after it got a new pair."""
        return any(_parse_journal(each) is not None for each in self._journals())

    def load(self) -> Credentials:
        """Reads the pair.

        Raises:
            CredentialsError: If there is none, or its halves do not belong together.
        """
        with _explained(self.path):
            key_pem, certificate_pem = _read(self.key_path), _read(self.certificate_path)
        return Credentials.from_pem(key_pem=key_pem, certificate_pem=certificate_pem)

    def load_private_key(self) -> bytes:
        """Reads the 32-byte seed out of the key file alone.

        Raises:
            CredentialsError: If there is none.
        """
        with _explained(self.key_path):
            pem = _read(self.key_path)
        return parse_private_key(pem).private_bytes_raw()

    @contextmanager
    def opened_for_writing(self) -> Iterator[Self]:
        """Creates the directory where needed and keeps other runs out until the block ends.

        Raises:
            CredentialsUnusable: If it cannot be, or somebody else is at work in it.
        """
        with _explained(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise CredentialsUnusable(path=self.path, problem="is not a directory")
            if not self.path.exists():
                self.path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
                sync_directory(self.path.parent)
            descriptor = os.open(self.path, os.O_RDONLY)
        try:
            self._lock(descriptor)
            yield self
        finally:
            os.close(descriptor)

    def finish_interrupted_work(self, *, will_tell: bool = False) -> Credentials | None:
        """Puts a pair in its place that an interrupted run left, and removes the run's remains.

        Args:
            will_tell: Whether somebody is to be told of the change; see `is_change_untold`.

        Returns:
            The pair, or None where there was nothing to finish.

        Raises:
            CredentialsNotPlaced: If that failed; the pair stays where it is.
        """
        finished = None
        for path in self._journals():
            credentials = _parse_journal(path)
            if credentials is None:
                continue
            try:
                if path != self.pending_path:
                    path.replace(self.pending_path)
                    path = self.pending_path  # noqa: PLW2901 - it has a new name now
                    sync_directory(self.path)
                self._refuse_what_is_no_file()
                with ExitStack() as stack:
                    _place(self, credentials, self._reserve_places(stack, will_tell=will_tell))
            except (OSError, CredentialsUnusable) as exc:
                raise CredentialsNotPlaced(path=path, problem=_words(exc)) from None
            finished = credentials
        with _explained(self.path):
            self._remove_remains()
        return finished

    @contextmanager
    def reserved(self, *, will_tell: bool = False) -> Iterator[Reservation]:
        """Sets everything aside that a new pair needs: permission, names and room on the disk.

        What can fail, fails here, before the key on chain is replaced.

        Args:
            will_tell: Whether somebody is to be told of the change; see `is_change_untold`.

        Raises:
            CredentialsUnusable: If a pair could not be written.
        """
        self._refuse_what_is_no_file()
        with ExitStack() as stack:
            with _explained(self.path):
                journal = stack.enter_context(ReservedFile(self.path, _JOURNAL_STEM))
                places = self._reserve_places(stack, will_tell=will_tell)
                # The renaming is tried as well: some file systems can create but not rename.
                journal.path = journal.path.rename(
                    journal.path.with_suffix(f".1{TEMPORARY_SUFFIX}")
                )
                sync_directory(self.path)
            yield Reservation(self, journal, places)

    def discard_old(self) -> None:
        """Removes the old pair that was kept beside the new one."""
        with _explained(self.path):
            for path in (self.key_path, self.certificate_path):
                _old(path).unlink(missing_ok=True)
            sync_directory(self.path)

    def keeps_old(self) -> bool:
        """Says whether an old key or certificate is kept beside the new one."""
        return any(_old(each).is_file() for each in (self.key_path, self.certificate_path))

    def is_change_untold(self) -> bool:
        """Says whether the pair has changed since somebody who wants to know of it was told."""
        return self.untold_path.is_file()

    def note_told(self) -> None:
        """Takes note that whoever wants to know of a change was told."""
        with _explained(self.untold_path):
            self.untold_path.unlink(missing_ok=True)
            sync_directory(self.path)

    def _reserve_places(self, stack: ExitStack, *, will_tell: bool) -> _Places:
        def reserve(stem: str) -> ReservedFile:
            return stack.enter_context(ReservedFile(self.path, stem))

        return _Places(
            key=reserve(_KEY_STEM),
            certificate=reserve(_CERTIFICATE_STEM),
            untold=reserve(UNTOLD_NAME) if will_tell else None,
        )

    def _journals(self) -> list[Path]:
        """The journal, and what could become one; the oldest first."""
        with _explained(self.path):
            found = [
                *self.path.glob(f"{_JOURNAL_STEM}.*{TEMPORARY_SUFFIX}"),
                *self.path.glob(PENDING_NAME),
            ]
            # In a directory that many may write to, nobody else's file is a journal.
            owners = {os.geteuid(), self.path.stat().st_uid} if found else set()
            entries = [(each, each.lstat()) for each in found]
            # A pipe would never end; and what a link points to is not ours.
            journals = [
                (each, entry.st_mtime_ns)
                for each, entry in entries
                if entry.st_uid in owners and stat.S_ISREG(entry.st_mode)
            ]
            return [each for each, _ in sorted(journals, key=lambda pair: pair[1])]

    def _refuse_what_is_no_file(self) -> None:
        for path in (self.key_path, self.certificate_path):
            with _explained(path):
                if path.is_symlink():
                    problem = "is a symbolic link; remove it, or name the directory it points to"
                elif path.exists() and not path.is_file():
                    problem = "is no regular file; move it away first"
                elif path.exists() and is_mounted(path):
                    problem = "is mounted by itself, and cannot be replaced; mount its directory"
                else:
                    continue
            raise CredentialsUnusable(path=path, problem=problem)
        # Nothing but a directory resists being replaced under these names.
        for path in (
            self.pending_path,
            self.untold_path,
            _old(self.key_path),
            _old(self.certificate_path),
        ):
            with _explained(path):
                is_directory = path.is_dir() and not path.is_symlink()
            if is_directory:
                raise CredentialsUnusable(path=path, problem="is a directory; move it away first")

    def _remove_remains(self) -> None:
        """Removes the temporary files of runs that ended early."""
        for stem in (_KEY_STEM, _CERTIFICATE_STEM, UNTOLD_NAME):
            # What they hold is in the journal too, which was read before.
            for path in self.path.glob(f"{stem}.*{TEMPORARY_SUFFIX}"):
                path.unlink(missing_ok=True)
        for path in self._journals():
            if not _read(path).strip(b"\0"):
                path.unlink(missing_ok=True)

    def _lock(self, descriptor: int) -> None:
        if sys.platform == "win32":
            return  # two runs at once are the user's business there
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError:
            return  # a file system without locks
        else:
            return
        problem = "another nexus-auth is at work in this directory; wait until it is done"
        raise CredentialsUnusable(path=self.path, problem=problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Room for everything but the journal."""

    key: ReservedFile
    certificate: ReservedFile
    untold: ReservedFile | None


class Reservation:
    """Room for one new pair. Made by `CredentialsDirectory.reserved`."""

    def __init__(
        self, directory: CredentialsDirectory, journal: ReservedFile, places: _Places
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._places = places

    def save(self, credentials: Credentials) -> None:
        """Writes a new pair; the old one, where there is one, is kept beside it as `.old`.

        Raises:
            CredentialsUnusable: If it could not be written; the caller has the only copy.
            CredentialsNotPlaced: If it is on disk, but not in its two files.
        """
        directory = self._directory
        with _explained(directory.path):
            self._journal.keep()
            self._journal.fill(credentials.key_pem + credentials.certificate_pem)
            self._journal.publish(directory.pending_path)
            sync_directory(directory.path)
        problem: str
        try:
            _place(directory, credentials, self._places)
        except OSError as exc:
            problem = _words(exc)
        else:
            return
        raise CredentialsNotPlaced(path=directory.pending_path, problem=problem)


def _place(directory: CredentialsDirectory, credentials: Credentials, places: _Places) -> None:
    """Replaces both files by what the journal holds, and removes the journal."""
    places.key.fill(credentials.key_pem)
    places.certificate.fill(credentials.certificate_pem, mode=PUBLIC_MODE)
    _keep_old(directory.key_path, credentials.key_pem, mode=PRIVATE_MODE)
    _keep_old(directory.certificate_path, credentials.certificate_pem, mode=PUBLIC_MODE)
    places.key.publish(directory.key_path)
    places.certificate.publish(directory.certificate_path)
    if places.untold is not None:
        places.untold.fill(b"")
        places.untold.publish(directory.untold_path)
    sync_directory(directory.path)
    directory.pending_path.unlink(missing_ok=True)
    sync_directory(directory.path)


def _keep_old(path: Path, new: bytes, *, mode: int) -> None:
    """Keeps what is about to be replaced under another name; what is not, is no old file."""
    if not path.is_file() or _read(path) == new:
        return
    with ReservedFile(path.parent, f".{path.name}") as copy:
        copy.fill(_read(path), mode=mode)
        copy.publish(_old(path))


def _old(path: Path) -> Path:
    return path.with_name(path.name + OLD_SUFFIX)


def _parse_journal(path: Path) -> Credentials | None:
    """Reads a journal; None where it is not whole."""
    try:
        content = _read(path)
    except OSError:
        return None
    # Room that was set aside is still there when the run was killed before it cut it off.
    key_pem, begin, rest = content.rstrip(b"\0").partition(_CERTIFICATE_BEGIN)
    with suppress(CredentialsError):
        return Credentials.from_pem(key_pem=key_pem, certificate_pem=begin + rest)
    return None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES)


def _words(error: OSError | CredentialsUnusable) -> str:
    if isinstance(error, CredentialsUnusable):
        return str(error)
    words = error.strerror or type(error).__name__
    # In a container that is often nobody whom the owner of the folder knows.
    is_ours = isinstance(error, PermissionError) and sys.platform != "win32"
    return f"{words} to user {os.geteuid()}" if is_ours else words


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what the system says into our own error."""
    try:
        yield
    except OSError as exc:
        # The frames below could hold a key.
        raise CredentialsUnusable(path=path, problem=_words(exc)) from None
