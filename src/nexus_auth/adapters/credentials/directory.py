"""The directory that holds `client.key` and `client.crt`, changed so that no crash can hurt.

Two files cannot be replaced in one step. So a new pair is first written whole into one file, the
journal `.client-pair.pending`; from that moment on it cannot be lost. Then the old files are kept
beside as `.old`, and the new ones put in their places. Whatever is interrupted is finished by the
next run, from the journal:

    killed while                        what the next run finds         and does
    room is set aside                   zeros in a `.tmp`               removes it
    a request for a pair is under way   zeros in a `.requested.tmp`     looks at the chain
    the journal is being written        the same, or half a pair        looks at the chain
      (or whole, but without its name)  a whole pair in a `.tmp`        takes it for the journal
    the files are being replaced        the journal, and one new file   replaces both again
    the journal is being removed        the journal, and both files     replaces both again

The journal's file is there before the request, under a name that says so: it becomes the journal in
the one step in which the answer is saved, and until then it is the record of the request.

The newest pair wins. The time of a pair is that of its journal's content, which its key file keeps;
it is later than those of all pairs that were there before, even where the wall clock was set back.
No pair is put in the place of a newer one, and no journal is removed before its pair is in place.

Where the user wants a command to be run after a change, an empty file, `.client-pair-changed`,
is there from before the journal is removed until the command has succeeded: it marks a pending
notification.

A key pair that is made on this machine is on disk before its public half is published, whole, in
`client.key.pending`. It stays there until the pair is in its place, and goes before the journal.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from nexus_auth.adapters.files import (
    PRIVATE_MODE,
    PUBLIC_MODE,
    TEMPORARY_SUFFIX,
    ReservedFile,
    is_mounted,
    replace_file,
    sync_directory,
)
from nexus_auth.domain.errors import CredentialsError
from nexus_auth.domain.issuance import Holdings, PendingKey
from nexus_auth.domain.issuing import BACKDATING, Credentials, parse_private_key
from nexus_auth.domain.server_name import names_of

KEY_NAME: Final = "client.key"
CERTIFICATE_NAME: Final = "client.crt"
OLD_SUFFIX: Final = ".old"
PENDING_NAME: Final = ".client-pair.pending"
PENDING_KEY_NAME: Final = f"{KEY_NAME}.pending"
NOTIFICATION_NAME: Final = ".client-pair-changed"

# How temporary names begin.
_JOURNAL_PREFIX: Final = ".client-pair."
_REQUESTED_SUFFIX: Final = f".requested{TEMPORARY_SUFFIX}"
_KEY_PREFIX: Final = f".{KEY_NAME}."
_CERTIFICATE_PREFIX: Final = f".{CERTIFICATE_NAME}."
_NOTIFICATION_PREFIX: Final = f"{NOTIFICATION_NAME}."
_RECOVERY_PREFIX: Final = "nexus-auth-recovered-"

_CERTIFICATE_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_DIRECTORY_MODE: Final = 0o755
_ROOM_BYTES: Final = 16 * 1024
"""A key and a certificate have about 700 bytes together; one block more costs nothing."""
_MAX_FILE_BYTES: Final = 64 * 1024
"""What we write has about 700 bytes; a pair from elsewhere comes nowhere near this."""


class CredentialsUnusable(CredentialsError):
    """The file or directory at `path` cannot be read or written as it should.

    The text says why, and what to do, and has nothing of its content.
    """

    def __init__(self, *, path: Path, problem: str) -> None:
        super().__init__(f"{str(path)!r}: {problem}")
        self.path = path


class CredentialsNotPlaced(CredentialsError):
    """A new pair is safe in the journal at `path`, but its two files could not be replaced."""

    def __init__(self, *, path: Path, problem: str) -> None:
        super().__init__(
            f"the new pair could not be put in its place ({problem}); it is safe in "
            f"{str(path)!r}, and the next run finishes the work"
        )
        self.path = path


class CredentialsDirectory:
    """Reads and replaces the pair in one directory. Blocks while the disk works.

    Attributes:
        will_notify: Whether this run has a command to be run after a change of the pair.
    """

    def __init__(self, path: Path, *, will_notify: bool = False) -> None:
        self.path = path
        self.will_notify = will_notify
        self.key_path = path / KEY_NAME
        self.certificate_path = path / CERTIFICATE_NAME
        self.pending_path = path / PENDING_NAME
        self.notification_path = path / NOTIFICATION_NAME
        self.pending_key_path = path / PENDING_KEY_NAME

    def holdings(self) -> Holdings:
        """Says which files are there; a link to a file counts. Touches nothing.

        Raises:
            CredentialsUnusable: If that cannot be found out.
        """
        with _explained(self.path):
            return Holdings((self.key_path.is_file(), self.certificate_path.is_file()))

    def has_unfinished_work(self) -> bool:
        """Says whether an earlier run was interrupted after it got a new pair."""
        return any(_parse_journal(each) is not None for each in self._journals())

    def requests(self) -> list[Path]:
        """The records of requests for a pair, the oldest first.

        One that holds a whole pair has become the journal, and is none.
        """
        return [
            each
            for each in self._journals()
            if each.name.endswith(_REQUESTED_SUFFIX) and _parse_journal(each) is None
        ]

    def requested_at(self) -> datetime | None:
        """Says when the latest request for a pair was sent whose answer is not on disk.

        Returns:
            The wall clock's time then (aware, UTC), or None where there is no such request.

        Raises:
            CredentialsUnusable: If that cannot be found out.
        """
        with _explained(self.path):
            times = [each.lstat().st_mtime for each in self.requests()]
        return datetime.fromtimestamp(max(times), UTC) if times else None

    def forget_requests(self) -> None:
        """Removes the records of requests: they took no effect, or a newer pair is in place."""
        with _explained(self.path):
            for path in self.requests():
                _remove(path)

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

    def pending_key(self) -> PendingKey | None:
        """Says which key pair was made on this machine, and is not in its place yet.

        Raises:
            CredentialsUnusable: If that cannot be found out.
        """
        credentials = self.load_pending()
        if credentials is None:
            return None
        certificate = credentials.certificate
        return PendingKey(
            hotkey=certificate.hotkey,
            public_key=certificate.public_key,
            made_at=certificate.not_before + BACKDATING,
        )

    def load_pending(self) -> Credentials | None:
        """Reads that pair; its certificate only says for which hotkey it was made, and when.

        Raises:
            CredentialsUnusable: If it cannot be read, or is not a file of ours.
        """
        path = self.pending_key_path
        with _explained(path):
            try:
                # Neither a link is followed, nor a pipe waited for.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(path, flags)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as exc:
                if exc.errno != errno.ELOOP:
                    raise
                problem = "is a symbolic link; move it away first"
                raise CredentialsUnusable(path=path, problem=problem) from None
            try:
                entry = os.fstat(descriptor)
                if not stat.S_ISREG(entry.st_mode) or entry.st_uid not in self._owners():
                    problem = f"is no regular file, or that of user {entry.st_uid}; move it away"
                    raise CredentialsUnusable(path=path, problem=problem)
                content = os.read(descriptor, _MAX_FILE_BYTES)
            finally:
                os.close(descriptor)
        credentials = _parse_pair(content)
        if credentials is None:
            # It may be the only copy of a key that is on chain: nothing is written over it.
            problem = "is not a key and its certificate; move it away first"
            raise CredentialsUnusable(path=path, problem=problem)
        return credentials

    def save_pending(self, credentials: Credentials) -> None:
        """Writes a pair down whose public half is about to be published.

        Raises:
            CredentialsUnusable: If that failed.
        """
        with _explained(self.pending_key_path):
            content = credentials.key_pem + credentials.certificate_pem
            replace_file(self.pending_key_path, content, mode=PRIVATE_MODE)

    def load_names(self) -> tuple[x509.GeneralName, ...] | None:
        """Reads the names in the certificate file alone.

        Returns:
            The names, none where there is no file; None where it cannot be read.
        """
        try:
            exists = self.certificate_path.is_file()
            return names_of(_read(self.certificate_path)) if exists else ()
        except OSError:
            return None

    @contextmanager
    def opened_for_writing(self) -> Iterator[Self]:
        """Creates the directory where needed and keeps other runs out until the block ends.

        Raises:
            CredentialsUnusable: If it cannot be, or another run is at work in it.
        """
        with _explained(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise CredentialsUnusable(path=self.path, problem="is not a directory")
            if not self.path.exists():
                self.path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
                sync_directory(self.path.parent)
            descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                problem = "another nexus-auth is at work in this directory; wait until it is done"
                raise CredentialsUnusable(path=self.path, problem=problem) from None
            except OSError:
                pass  # a file system without locks
            yield self
        finally:
            os.close(descriptor)

    def finish_interrupted_work(self) -> Credentials | None:
        """Puts a pair in its place that an interrupted run left, and removes the run's remains.

        Returns:
            The newest pair, which is in place now, or None where there was nothing to finish.

        Raises:
            CredentialsNotPlaced: If that failed; the pair stays where it is.
        """
        finished = None
        for path in self._journals():
            credentials = _parse_journal(path)
            if credentials is None:
                continue
            try:
                with self.reserved() as reservation:
                    finished = reservation.finish(path, credentials)
            except (OSError, CredentialsUnusable) as exc:
                raise CredentialsNotPlaced(path=path, problem=_words(exc, path)) from None
        with _explained(self.path):
            # What the temporary files of ended runs hold is in the journal too, which was read.
            for prefix in (_KEY_PREFIX, _CERTIFICATE_PREFIX, _NOTIFICATION_PREFIX):
                for path in self.path.glob(f"{prefix}*{TEMPORARY_SUFFIX}"):
                    path.unlink(missing_ok=True)
            for path in set(self._journals()).difference(self.requests()):
                if _is_empty(path):
                    path.unlink(missing_ok=True)
        return finished

    @contextmanager
    def reserved(self) -> Iterator[Reservation]:
        """Sets everything aside that a new pair needs: permission, names and room on the disk.

        What can fail, fails here, before the key on chain is replaced.

        Raises:
            CredentialsUnusable: If a pair could not be written.
        """
        self._check_places()
        with ExitStack() as stack:
            with _explained(self.path):
                reservation = Reservation(self, stack)
            yield reservation

    def discard_old(self) -> None:
        """Removes the old pair that is kept beside the new one, where there is one."""
        with _explained(self.path):
            if not self.keeps_old():
                return
            for path in (self.key_path, self.certificate_path):
                _old(path).unlink(missing_ok=True)
            sync_directory(self.path)

    def keeps_old(self) -> bool:
        """Says whether an old key or certificate is kept beside the new one."""
        return any(_old(each).is_file() for each in (self.key_path, self.certificate_path))

    def is_notification_due(self) -> bool:
        """Says whether this run has a command for a change that none has succeeded for yet."""
        return self.will_notify and self.notification_path.is_file()

    def clear_notification(self) -> None:
        """Takes note that the change was notified."""
        with _explained(self.notification_path):
            self.notification_path.unlink(missing_ok=True)
            sync_directory(self.path)

    def save_elsewhere(self, credentials: Credentials) -> Path | None:
        """Writes key and certificate into one file, wherever that is possible, for the owner alone.

        Returns:
            The file, or None where nothing was writable.
        """
        # The place that survives longest first.
        places: tuple[Callable[[], Path], ...] = (
            lambda: self.path,
            lambda: self.path.absolute().parent,
            Path.home,
            Path.cwd,
            lambda: Path(tempfile.gettempdir()),
        )
        for place in places:
            # A place may not exist: a user without a home, a working directory that was removed.
            with suppress(OSError, RuntimeError):
                return _save_recovery_file(credentials, place())
        return None

    def _journals(self) -> list[Path]:
        """The journal, and what could become one; the oldest first."""
        with _explained(self.path):
            found = [
                *self.path.glob(f"{_JOURNAL_PREFIX}*{TEMPORARY_SUFFIX}"),
                *self.path.glob(PENDING_NAME),
            ]
            # In a directory that many users may write to, not every file is a journal.
            owners = self._owners() if found else set()
            entries = {each: each.lstat() for each in found}
            # A pipe would never end; and what a link points to is not ours.
            journals = [
                each
                for each, entry in entries.items()
                if entry.st_uid in owners and stat.S_ISREG(entry.st_mode)
            ]
            return sorted(journals, key=lambda each: entries[each].st_mtime_ns)

    def _owners(self) -> set[int]:
        """Whose files count: ours, the directory's owner's, and what `sudo nexus-auth` left."""
        return {0, os.geteuid(), self.path.stat().st_uid}

    def _check_places(self) -> None:
        """Raises where a name that a new pair needs is taken by what cannot be replaced."""
        for path in (self.key_path, self.certificate_path):
            with _explained(path):
                if path.is_symlink():
                    problem = "is a symbolic link; remove it, or name the directory it points to"
                elif path.exists() and not path.is_file():
                    problem = "is no regular file; move it away first"
                elif path.exists() and is_mounted(path):
                    problem = "is mounted by itself, and cannot be replaced; mount its directory"
                else:
                    if path.exists():
                        _read(path)  # It is kept as `.old`.
                    continue
            raise CredentialsUnusable(path=path, problem=problem)
        # What resists being replaced under these names: a directory, and, where the folder is
        # sticky as /tmp is, what belongs to another user.
        with _explained(self.path):
            us, folder = os.geteuid(), self.path.stat()
        is_guarded = bool(folder.st_mode & stat.S_ISVTX) and us not in {0, folder.st_uid}
        for path in (
            self.key_path,
            self.certificate_path,
            self.pending_path,
            self.notification_path,
            _old(self.key_path),
            _old(self.certificate_path),
        ):
            with _explained(path):
                if path.is_dir() and not path.is_symlink():
                    problem = "is a directory; move it away first"
                elif is_guarded and os.path.lexists(path) and path.lstat().st_uid != us:
                    problem = "is another user's, and cannot be replaced; name another folder"
                else:
                    continue
            raise CredentialsUnusable(path=path, problem=problem)


class Reservation:
    """Room for one new pair. Made by `CredentialsDirectory.reserved`."""

    def __init__(self, directory: CredentialsDirectory, stack: ExitStack) -> None:
        def reserve(prefix: str) -> ReservedFile:
            file = ReservedFile(directory.path, prefix, room_bytes=_ROOM_BYTES)
            return stack.enter_context(file)

        self._directory = directory
        earlier = (directory.key_path, *directory.path.glob(f"{_JOURNAL_PREFIX}*"))
        self._latest_ns = max((e.lstat().st_mtime_ns for e in earlier if e.exists()), default=0)
        self._journal = reserve(_JOURNAL_PREFIX)
        self._key = reserve(_KEY_PREFIX)
        self._certificate = reserve(_CERTIFICATE_PREFIX)
        self._notification = reserve(_NOTIFICATION_PREFIX) if directory.will_notify else None
        sync_directory(directory.path)

    def note_request(self) -> None:
        """Records, on the disk, that a request for a pair is about to be sent.

        The record stays, whatever happens, until the pair is saved, or `withdraw_request` or
        `CredentialsDirectory.forget_requests` is called.

        Raises:
            CredentialsUnusable: If that failed. (Some file systems can create but not rename.)
        """
        journal, directory = self._journal, self._directory
        with _explained(directory.path):
            earlier = [each for each in directory.requests() if _is_empty(each)]
            journal.path = journal.path.rename(journal.path.with_suffix(_REQUESTED_SUFFIX))
            journal.keep()
            sync_directory(directory.path)
            for path in earlier:  # This one stands for all.
                path.unlink(missing_ok=True)

    def withdraw_request(self) -> None:
        """Removes the record: the request was not sent, or surely changed nothing."""
        with suppress(OSError):  # Then the next run looks at the chain.
            self._journal.path.unlink()
            sync_directory(self._directory.path)

    def save(self, credentials: Credentials) -> None:
        """Writes a new pair; the old one, where there is one, is kept beside it as `.old`.

        Raises:
            CredentialsUnusable: If it could not be written; the caller has the only copy.
            CredentialsNotPlaced: If it is on disk, but not in its two files.
        """
        directory = self._directory
        with _explained(directory.path):
            self._journal.keep()
            written_ns = max(time.time_ns(), self._latest_ns + 1)
            self._journal.fill(
                credentials.key_pem + credentials.certificate_pem, written_ns=written_ns
            )
            # The journal of another run is not replaced: it may be the only copy of its key.
            if not os.path.lexists(directory.pending_path):
                self._journal.publish(directory.pending_path)
            sync_directory(directory.path)
        try:
            self._place(self._journal.path, credentials)
        except OSError as exc:
            problem = _words(exc, directory.path)
            raise CredentialsNotPlaced(path=self._journal.path, problem=problem) from None

    def finish(self, journal: Path, credentials: Credentials) -> Credentials:
        """Puts the pair of a journal in its place, or beside it where a newer pair is there.

        A newer one is there when another user's run, whose files were not ours to read, ended in
        between. Then the pair of the journal is kept as the old one.

        Returns:
            The pair that is in place now.

        Raises:
            OSError: If that failed; the journal is still there.
        """
        directory = self._directory
        with suppress(CredentialsError):
            placed = directory.load()
            is_another = placed.key_pem != credentials.key_pem
            placed_ns = directory.key_path.stat().st_mtime_ns
            if is_another and placed_ns > journal.stat().st_mtime_ns:
                replace_file(_old(directory.key_path), credentials.key_pem, mode=PRIVATE_MODE)
                old = _old(directory.certificate_path)
                replace_file(old, credentials.certificate_pem, mode=PUBLIC_MODE)
                _remove(journal)
                return placed
        self._place(journal, credentials)
        return credentials

    def _place(self, journal: Path, credentials: Credentials) -> None:
        """Replaces both files by what a journal holds, and removes the journal."""
        directory = self._directory
        self._key.fill(credentials.key_pem, written_ns=journal.stat().st_mtime_ns)
        self._certificate.fill(credentials.certificate_pem, mode=PUBLIC_MODE)
        _keep_old(directory.key_path, credentials.key_pem, mode=PRIVATE_MODE)
        _keep_old(directory.certificate_path, credentials.certificate_pem, mode=PUBLIC_MODE)
        self._key.publish(directory.key_path)
        self._certificate.publish(directory.certificate_path)
        if self._notification is not None:
            self._notification.fill(b"")
            self._notification.publish(directory.notification_path)
        sync_directory(directory.path)
        with suppress(CredentialsUnusable):  # Then it stays, and the next run says so.
            pending = directory.pending_key()
            if pending is not None and pending.public_key == credentials.certificate.public_key:
                _remove(directory.pending_key_path)
        _remove(journal)


def _remove(journal: Path) -> None:
    journal.unlink(missing_ok=True)
    sync_directory(journal.parent)


def _save_recovery_file(credentials: Credentials, directory: Path) -> Path:
    with ReservedFile(directory, _RECOVERY_PREFIX, suffix=".pem") as file:
        file.fill(credentials.key_pem + credentials.certificate_pem)
        file.keep()
    # Its name too has to survive a power cut: this is the only copy of the key.
    sync_directory(directory)
    return file.path


def _keep_old(path: Path, new: bytes, *, mode: int) -> None:
    """Keeps what is about to be replaced under another name; what stays the same is not old."""
    if path.is_file() and (old := _read(path)) != new:
        replace_file(_old(path), old, mode=mode)


def _old(path: Path) -> Path:
    return path.with_name(path.name + OLD_SUFFIX)


def _parse_journal(path: Path) -> Credentials | None:
    """Reads a journal; None where it is not whole."""
    try:
        content = _read(path)
    except OSError:
        return None
    return _parse_pair(content)


def _parse_pair(content: bytes) -> Credentials | None:
    # Room that was set aside is still there when the run was killed before it cut it off.
    key_pem, begin, rest = content.rstrip(b"\0").partition(_CERTIFICATE_BEGIN)
    with suppress(CredentialsError):
        return Credentials.from_pem(key_pem=key_pem, certificate_pem=begin + rest)
    return None


def _is_empty(journal: Path) -> bool:
    """Whether there is nothing in it but the room that was set aside."""
    return not _read(journal).strip(b"\0")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES)


def _words(error: OSError | CredentialsUnusable, path: Path) -> str:
    if isinstance(error, CredentialsUnusable):
        return str(error)
    words = error.strerror or type(error).__name__
    if not isinstance(error, PermissionError):
        return words
    remedy = _remedy(Path(error.filename or path), path) if error.errno == errno.EACCES else ""
    return f"{words} to user {os.geteuid()}{remedy}"


def _remedy(refused: Path, path: Path) -> str:
    """Says whose that is which was refused, and how it becomes ours; empty if that is not why.

    Docker makes a missing folder for root, and our image runs as another user. From inside, the
    path of that folder outside is not known.
    """
    # What stands in a folder that is closed to us is not found either.
    found = next(filter(os.path.lexists, (refused, *refused.parents)), None)
    if found is None:
        return ""
    us, entry = os.geteuid(), found.lstat()
    needed = os.W_OK | os.X_OK if stat.S_ISDIR(entry.st_mode) else os.R_OK
    if us == entry.st_uid or os.access(found, needed):
        return ""
    is_missing = not os.path.lexists(path) and os.access(found, os.X_OK)
    command = f"install -d -o {us}" if is_missing else f"chown {us}"
    return (
        f": {str(found)!r} belongs to user {entry.st_uid}. Run: sudo {command} "
        f"{shlex.quote(str(path if is_missing else found))} (for a container: the folder that is "
        f"mounted there), or run this as that user (docker run --user {entry.st_uid}:"
        f"{entry.st_gid})"
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what the system says into our own error."""
    try:
        yield
    except OSError as exc:
        # The frames below could hold a key.
        raise CredentialsUnusable(path=path, problem=_words(exc, path)) from None
