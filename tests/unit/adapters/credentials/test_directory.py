from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import stat
import subprocess
import sys
import traceback
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nexus_auth.adapters.credentials.directory import (
    CredentialsDirectory,
    CredentialsNotPlaced,
    CredentialsUnusable,
    Reservation,
)
from nexus_auth.domain.errors import CredentialsError
from nexus_auth.domain.issuance import Holdings
from nexus_auth.domain.issuing import Credentials
from tests.builders import a_key
from tests.unit.adapters.credentials.pairs import a_pair, save

ROOT = Path(__file__).parents[4]
PENDING = ".client-pair.pending"


def names(path: Path) -> list[str]:
    """Every file there, hidden ones included."""
    return sorted(each.name for each in path.iterdir())


def mode(path: Path) -> int:
    """The permission bits."""
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], Holdings.NOTHING),
        (["client.key"], Holdings.KEY_ONLY),
        (["client.crt"], Holdings.CERTIFICATE_ONLY),
        (["client.key", "client.crt"], Holdings.BOTH),
    ],
)
def test_holdings_are_seen_and_untouched(
    tmp_path: Path, files: list[str], expected: Holdings
) -> None:
    """Whatever is in the files."""
    for name in files:
        (tmp_path / name).write_text("whatever")
    assert CredentialsDirectory(tmp_path).holdings() is expected
    assert names(tmp_path) == sorted(files)


def test_links_count_as_what_they_point_to(tmp_path: Path) -> None:
    """A pair that is mounted through links is present; a link to nothing is not."""
    (tmp_path / "data").write_text("x")
    (tmp_path / "client.key").symlink_to("data")
    (tmp_path / "client.crt").symlink_to("nowhere")
    assert CredentialsDirectory(tmp_path).holdings() is Holdings.KEY_ONLY


def test_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    """And is not made by looking."""
    directory = CredentialsDirectory(tmp_path / "certs")
    assert directory.holdings() is Holdings.NOTHING
    assert not directory.has_unfinished_work()
    assert names(tmp_path) == []


def test_pair_is_saved_and_read_back(tmp_path: Path) -> None:
    """In a directory that is made with its parents; nothing else stays there."""
    directory = save(tmp_path / "a" / "certs", a_pair("new"))
    assert names(directory.path) == ["client.crt", "client.key"]
    assert directory.load().certificate.fingerprint == a_pair("new").certificate.fingerprint
    assert directory.load_private_key() == a_key("new").private_bytes_raw()
    assert (mode(directory.key_path), mode(directory.certificate_path)) == (0o600, 0o644)
    assert not directory.keeps_old()


def test_directory_is_made_so_that_no_other_user_can_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask; another run may make it at the same moment, and its name is synced."""
    synced: list[int] = []
    fsync, mkdir = os.fsync, Path.mkdir

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def make_twice(path: Path, *args: Any, **kwargs: Any) -> None:
        mkdir(path, *args, **kwargs)
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "mkdir", make_twice)
    before = os.umask(0)
    try:
        with CredentialsDirectory(tmp_path / "certs").opened_for_writing():
            pass
    finally:
        os.umask(before)
    assert mode(tmp_path / "certs") == 0o755
    assert synced == [tmp_path.stat().st_ino]


def test_file_system_without_locks_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert names(save(tmp_path, a_pair("new")).path) == ["client.crt", "client.key"]


def test_old_pair_is_kept_beside_until_it_is_discarded(tmp_path: Path) -> None:
    """With a key that only its owner can read, even where the old one could be read by all."""
    save(tmp_path, a_pair("old"))
    (tmp_path / "client.key").chmod(0o644)
    directory = save(tmp_path, a_pair("new"))
    assert names(tmp_path) == ["client.crt", "client.crt.old", "client.key", "client.key.old"]
    assert (tmp_path / "client.key.old").read_bytes() == a_pair("old").key_pem
    assert (tmp_path / "client.crt.old").read_bytes() == a_pair("old").certificate_pem
    assert (mode(tmp_path / "client.key.old"), mode(tmp_path / "client.crt.old")) == (0o600, 0o644)
    assert mode(tmp_path / "client.key") == 0o600
    assert directory.keeps_old()
    directory.discard_old()
    assert names(tmp_path) == ["client.crt", "client.key"]


def test_notification_is_due_until_it_is_cleared(tmp_path: Path) -> None:
    """Where there is a command for it at all; a later change without one clears nothing."""
    without_command = save(tmp_path, a_pair("old"))
    directory = CredentialsDirectory(tmp_path, will_notify=True)
    assert not directory.is_notification_due()
    save(tmp_path, a_pair("new"), will_notify=True)
    save(tmp_path, a_pair("newer"))
    assert directory.is_notification_due()
    assert not without_command.is_notification_due()
    directory.clear_notification()
    directory.clear_notification()
    assert not directory.is_notification_due()
    assert ".client-pair-changed" not in names(tmp_path)


def kill_everywhere(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """Runs the program of that name: what was found after a kill at each moment."""
    # What these tests import comes first, and then the checkout, before whatever is installed.
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT), str(ROOT / "src")]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.unit.adapters.credentials.kill_everywhere", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    moments: list[dict[str, Any]] = json.loads(finished.stdout)
    assert moments[-1]["code"] == 0
    return moments


CHANGED = [
    *(".client-pair-changed", "client.crt", "client.crt.old", "client.key", "client.key.old"),
]


@pytest.mark.parametrize("journal", [PENDING, ".client-pair.1.requested.tmp"])
def test_kill_while_an_interrupted_run_is_finished_loses_nothing(
    tmp_path: Path, journal: str
) -> None:
    """The run after that puts the new pair in its place, and keeps the old one beside it."""
    moments = kill_everywhere(tmp_path, f"{journal}=new")
    assert len(moments) > 40
    for each in moments:
        assert (each["pair"], each["old"], each["requested"]) == ("new", "old", False), each
        assert each["key_mode"] == "0o600", each
        assert each["names"] == CHANGED, each


@pytest.mark.parametrize(
    ("older", "newer"), [(".client-pair.1.tmp", PENDING), (PENDING, ".client-pair.2.tmp")]
)
def test_kill_while_two_interrupted_runs_are_finished_loses_neither(
    tmp_path: Path, older: str, newer: str
) -> None:
    """The newest pair wins by time; none replaces the journal of another before that is placed."""
    moments = kill_everywhere(tmp_path, f"{older}=older", f"{newer}=new")
    assert len(moments) > 80
    for each in moments:
        assert (each["pair"], each["old"]) == ("new", "older"), each
        assert each["names"] == CHANGED, each


def test_kill_after_a_request_was_recorded_leaves_the_record_or_the_pair(tmp_path: Path) -> None:
    """From the moment it is recorded, there is the one or the other: never neither, never both."""
    moments = kill_everywhere(tmp_path, "request")
    turns = [each["requested"] for each in moments]
    first, last = turns.index(True), len(turns) - 1 - turns[::-1].index(True)
    assert first > 10
    assert last - first > 3
    for place, each in enumerate(moments):
        assert each["requested"] is (first <= place <= last), each
        assert each["pair"] == ("new" if place > last else "old"), each
        if place > last:
            assert (each["old"], each["names"]) == ("old", CHANGED), each


def test_kill_at_any_moment_leaves_the_old_pair_or_the_new_one(tmp_path: Path) -> None:
    """Never a mix, never a loss: from the moment the journal is written, the new one.

    And its notification is pending.
    """
    moments = kill_everywhere(tmp_path)
    assert len(moments) > 50
    pairs = [each["pair"] for each in moments]
    turn = pairs.index("new")
    assert turn > 10
    assert set(pairs[:turn]) == {"old"}
    assert set(pairs[turn:]) == {"new"}
    for each in moments[:turn]:
        assert each["names"] == ["client.crt", "client.key"], each
    for each in moments[turn:]:
        assert each["old"] == "old", each
        assert each["key_mode"] == "0o600", each
        assert each["names"] == CHANGED, each


CALLS = [
    *("open", "write", "fsync", "ftruncate", "fchmod", "replace", "rename", "unlink", "utime"),
    *("lseek", "link", "close"),
]


class Calls:
    """The system calls of a block in their order; one of them can be made to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, failing: int | None = None) -> None:
        self.made: list[tuple[str, str]] = []
        self.failing = failing
        self.paths: dict[int, str] = {}
        self.ours = True
        for name in CALLS:
            monkeypatch.setattr(os, name, self._noting(name, getattr(os, name)))

    def _noting(self, name: str, original: Any) -> Any:
        def called(target: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.ours:
                return original(target, *args, **kwargs)
            subject = args[0] if name in {"replace", "rename", "link"} else target
            path = self.paths.get(target, "") if isinstance(target, int) else str(subject)
            self.made.append((name, Path(path).name))
            if len(self.made) == self.failing:
                if name == "close":
                    original(target)  # Linux closes it all the same
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            result = original(target, *args, **kwargs)
            if name == "open":
                self.paths[result] = path
            return result

        return called


def kind_of(name: str) -> str:
    """A file's name without the random digits."""
    return re.sub(r"\.[0-9a-f]{16}\.", ".*.", name)


def test_order_of_the_system_calls_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content before name, name before the step that relies on it; the journal goes last.

    Each file is synced before it is renamed; the directory is synced after the journal has its
    name, after both files have theirs, and before and after the journal is removed.
    """
    save(tmp_path, a_pair("old"))
    directory = CredentialsDirectory(tmp_path, will_notify=True)
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        with directory.reserved() as reservation:
            reservation.note_request()
            reservation.save(a_pair("new"))
            made = [(n, kind_of(path)) for n, path in calls.made if n in MOVING or n == "fsync"]
    here = tmp_path.name
    assert made[made.index(("rename", ".client-pair.*.requested.tmp")) :] == [
        ("rename", ".client-pair.*.requested.tmp"),
        ("fsync", here),
        # Here the request is sent.
        ("fsync", ".client-pair.*.tmp"),
        ("replace", PENDING),
        ("fsync", here),
        ("fsync", ".client.key.*.tmp"),
        ("fsync", ".client.crt.*.tmp"),
        *(
            call
            for name in ("client.key.old", "client.crt.old")
            for call in (("fsync", f".{name}.*.tmp"), ("replace", name), ("fsync", here))
        ),
        ("replace", "client.key"),
        ("replace", "client.crt"),
        ("fsync", ".client-pair-changed.*.tmp"),
        ("replace", ".client-pair-changed"),
        ("fsync", here),
        ("unlink", PENDING),
        ("fsync", here),
    ]


MOVING = {"replace", "rename", "unlink"}


def test_any_system_call_may_fail_and_the_pair_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in turn: the caller still has the pair, or it is on disk for the next run.

    What fails before the answer fails before the request is sent.
    """
    outcome, outcomes, journal = "", dict[str, int](), b""
    for failing in range(1, 500):
        certs = tmp_path / str(failing)
        save(certs, a_pair("old"))
        directory = CredentialsDirectory(certs, will_notify=True)
        is_sent = False
        with monkeypatch.context() as patch:
            calls = Calls(patch, failing=failing)
            try:
                with directory.reserved() as reservation:
                    reservation.note_request()
                    is_sent = True
                    reservation.save(a_pair("new"))
                outcome = "saved"
            except CredentialsNotPlaced as exc:
                outcome, journal = "not placed", exc.path.read_bytes()
            except CredentialsUnusable:
                outcome = "not written" if is_sent else "not sent"
            calls.ours = False
        if outcome == "not placed":
            assert journal == a_pair("new").key_pem + a_pair("new").certificate_pem
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        with directory.opened_for_writing():
            finished = directory.finish_interrupted_work()
        expected = a_pair("old" if outcome == "not sent" else "new")
        if outcome == "not written":
            # The caller has it; its file says at least that there was a request.
            assert finished is not None or directory.requested_at() is not None, calls.made[-1]
            continue
        placed = directory.load().certificate.fingerprint
        assert placed == expected.certificate.fingerprint, (outcome, calls.made[failing - 1])
        if outcome != "not sent":
            assert (certs / "client.key.old").read_bytes() == a_pair("old").key_pem
        if len(calls.made) < failing:
            break
    assert outcome == "saved"
    assert set(outcomes) == {"saved", "not placed", "not written", "not sent"}, outcomes


def test_older_pair_of_another_user_does_not_replace_the_newer_one(tmp_path: Path) -> None:
    """Its run could not read the other's files; what is placed and what is pending both stay.

    A pair in place is as old as its journal, however late it was put there.
    """
    write_journal(tmp_path / ".client-pair.1.tmp", a_pair("old"), age=9)
    placed = CredentialsDirectory(tmp_path)
    placed.key_path.write_bytes(a_pair("new").key_pem)
    placed.certificate_path.write_bytes(a_pair("new").certificate_pem)
    os.utime(placed.key_path, (1_000_000 - 5, 1_000_000 - 5))
    finished = placed.finish_interrupted_work()
    assert finished is not None
    assert finished.key_pem == placed.load().key_pem == a_pair("new").key_pem
    assert (tmp_path / "client.key.old").read_bytes() == a_pair("old").key_pem
    assert (tmp_path / "client.crt.old").read_bytes() == a_pair("old").certificate_pem
    assert (mode(tmp_path / "client.key.old"), mode(tmp_path / "client.crt.old")) == (0o600, 0o644)
    assert names(tmp_path) == ["client.crt", "client.crt.old", "client.key", "client.key.old"]
    write_journal(tmp_path / PENDING, a_pair("newer"), age=1)
    assert placed.finish_interrupted_work() is not None
    assert placed.load().key_pem == a_pair("newer").key_pem
    assert placed.key_path.stat().st_mtime == 1_000_000 - 1


def test_journal_as_old_as_the_pair_in_place_wins(tmp_path: Path) -> None:
    """A file system may keep no parts of seconds; a run leaves a journal after what is in place."""
    directory = save(tmp_path, a_pair("old"))
    write_journal(tmp_path / PENDING, a_pair("new"), age=1)
    os.utime(directory.key_path, (1_000_000 - 1, 1_000_000 - 1))
    directory.finish_interrupted_work()
    assert directory.load().key_pem == a_pair("new").key_pem


def test_journal_of_the_pair_in_place_leaves_the_old_one_alone(tmp_path: Path) -> None:
    """It is finished again, however late the key file was touched."""
    save(tmp_path, a_pair("old"))
    directory = save(tmp_path, a_pair("new"))
    write_journal(tmp_path / PENDING, a_pair("new"), age=1)
    assert directory.finish_interrupted_work() is not None
    assert (tmp_path / "client.key.old").read_bytes() == a_pair("old").key_pem
    assert (tmp_path / "client.crt.old").read_bytes() == a_pair("old").certificate_pem


def fail(*_: object, **__: object) -> None:
    """What a disk that is broken does."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_newer_pair_wins_though_the_wall_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two runs: its key is on chain, wherever it was interrupted, and whoever was.

    A pair is newer than each that was there when it was requested, whatever the clock says.
    """
    directory = save(tmp_path, a_pair("older"))
    ahead = directory.key_path.stat().st_mtime_ns + 3600 * 10**9
    os.utime(directory.key_path, ns=(ahead, ahead))
    other = tmp_path / ".client-pair.1.tmp"
    other.write_bytes(a_pair("old").key_pem + a_pair("old").certificate_pem)
    os.utime(other, ns=(ahead + 5, ahead + 5))

    with monkeypatch.context() as patch, directory.reserved() as reservation:
        patch.setattr(Reservation, "_place", fail)
        with pytest.raises(CredentialsNotPlaced):
            reservation.save(a_pair("new"))
    directory.finish_interrupted_work()
    assert directory.load().key_pem == a_pair("new").key_pem
    assert (tmp_path / "client.key.old").read_bytes() == a_pair("old").key_pem


def test_journal_of_another_run_is_not_replaced_by_a_newer_one(tmp_path: Path) -> None:
    """Where locks do not work, or it is another user's: it may be the only copy of a key."""
    directory = CredentialsDirectory(tmp_path)
    with directory.reserved() as reservation:
        write_journal(tmp_path / PENDING, a_pair("old"), age=1)
        reservation.save(a_pair("new"))
    assert directory.load().key_pem == a_pair("new").key_pem
    assert directory.pending_path.read_bytes().startswith(a_pair("old").key_pem)
    assert names(tmp_path) == [PENDING, "client.crt", "client.key"]


def test_pair_that_cannot_be_placed_beside_the_journal_of_another_run_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its temporary name, which the error gives; also where no request was recorded."""
    directory = CredentialsDirectory(tmp_path)
    monkeypatch.setattr(Reservation, "_place", fail)
    with directory.reserved() as reservation:
        write_journal(tmp_path / PENDING, a_pair("old"), age=1)
        with pytest.raises(CredentialsNotPlaced) as caught:
            reservation.save(a_pair("new"))
    assert caught.value.path.read_bytes() == a_pair("new").key_pem + a_pair("new").certificate_pem


def test_request_is_recorded_until_its_answer_is_on_disk(tmp_path: Path) -> None:
    """Whatever goes wrong in between; only what is known to have changed nothing removes it."""
    directory = CredentialsDirectory(tmp_path)
    with directory.reserved() as reservation:
        reservation.note_request()  # and no answer comes
    assert directory.requested_at() is not None
    assert directory.finish_interrupted_work() is None
    [earlier] = directory.requests()
    with directory.reserved() as reservation:
        reservation.note_request()
        [now] = directory.requests()
        assert now != earlier
        assert now.stat().st_mode & 0o777 == 0o600
        reservation.withdraw_request()
        assert directory.requested_at() is None
    assert names(tmp_path) == []


def test_latest_request_counts(tmp_path: Path) -> None:
    """It may still take effect when an earlier one no longer can."""
    for name, seconds in (("1", 2), ("2", 3), ("3", 1)):
        request = tmp_path / f".client-pair.{name}.requested.tmp"
        request.write_bytes(a_pair("new").key_pem)
        os.utime(request, (seconds, seconds))
    directory = CredentialsDirectory(tmp_path)
    assert directory.requested_at() == datetime.fromtimestamp(3, UTC)
    assert [each.stat().st_mtime for each in directory.requests()] == [1, 2, 3]


def test_room_for_all_of_a_pair_is_on_the_disk_before_it_is_requested(tmp_path: Path) -> None:
    """For a pair of many times the usual length; a notification is empty."""
    directory = CredentialsDirectory(tmp_path, will_notify=True)
    with directory.reserved():
        sizes = {kind_of(each.name): each.stat().st_size for each in tmp_path.iterdir()}
    whole = len(a_pair("new").key_pem + a_pair("new").certificate_pem)
    for name in (".client-pair.*.tmp", ".client.key.*.tmp", ".client.crt.*.tmp"):
        assert sizes[name] > 10 * whole


def test_file_that_another_run_removes_at_the_same_moment_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks do not work, two runs may clean up at once."""
    directory = save(tmp_path, a_pair("old"))
    save(tmp_path, a_pair("new"))
    write_journal(tmp_path / PENDING, a_pair("new"), age=1)
    for name in (".client.key.1.tmp", ".client-pair.1.tmp", ".client-pair.2.requested.tmp"):
        (tmp_path / name).write_bytes(b"")
    unlink = Path.unlink

    def unlink_twice(path: Path, **kwargs: Any) -> None:
        unlink(path, **kwargs)
        if path.name == kind_of(path.name):  # No other run knows a name with random digits.
            unlink(path, **kwargs)

    monkeypatch.setattr(Path, "unlink", unlink_twice)
    directory.finish_interrupted_work()
    with directory.reserved() as reservation:
        reservation.note_request()
    directory.forget_requests()
    directory.discard_old()
    assert names(tmp_path) == ["client.crt", "client.key"]


def test_half_a_pair_hides_no_whole_one(tmp_path: Path) -> None:
    """However many there are, before and after it."""
    write_journal(tmp_path / PENDING, a_pair("new"), age=2)
    for number in (1, 3):
        half = tmp_path / f".client-pair.{number}.tmp"
        half.write_bytes(a_pair("old").key_pem)
        os.utime(half, (1_000_000 - number, 1_000_000 - number))
    directory = CredentialsDirectory(tmp_path)
    assert directory.finish_interrupted_work() is not None
    assert directory.load().key_pem == a_pair("new").key_pem


def test_whole_pair_in_a_record_is_no_request(tmp_path: Path) -> None:
    """It is the answer: it is put in its place, and never forgotten."""
    directory = CredentialsDirectory(tmp_path)
    write_journal(tmp_path / ".client-pair.1.requested.tmp", a_pair("new"), age=1)
    (tmp_path / ".client-pair.2.requested.tmp").write_bytes(a_pair("old").key_pem)
    assert [each.name for each in directory.requests()] == [".client-pair.2.requested.tmp"]
    directory.forget_requests()
    assert names(tmp_path) == [".client-pair.1.requested.tmp"]
    assert directory.finish_interrupted_work() is not None
    assert names(tmp_path) == ["client.crt", "client.key"]


def write_journal(path: Path, pair: Credentials, *, age: int) -> None:
    """A whole journal, written so many seconds before a moment."""
    path.write_bytes(pair.key_pem + pair.certificate_pem)
    os.utime(path, (1_000_000 - age, 1_000_000 - age))


def test_interrupted_work_is_finished_once(tmp_path: Path) -> None:
    """The journal's pair is put in its place, and reported."""
    pair = a_pair("new")
    (tmp_path / ".client-pair.pending").write_bytes(pair.key_pem + pair.certificate_pem)
    directory = CredentialsDirectory(tmp_path)
    assert directory.has_unfinished_work()
    with directory.opened_for_writing():
        finished = directory.finish_interrupted_work()
        assert directory.finish_interrupted_work() is None
    assert finished is not None
    assert finished.certificate.fingerprint == pair.certificate.fingerprint
    assert names(tmp_path) == ["client.crt", "client.key"]
    assert not directory.has_unfinished_work()


def test_room_behind_a_whole_pair_is_no_part_of_it(tmp_path: Path) -> None:
    """A run that was killed before it cut the room off wrote all the same."""
    pair = a_pair("new")
    journal = tmp_path / ".client-pair.1.requested.tmp"
    journal.write_bytes(pair.key_pem + pair.certificate_pem + bytes(16_000))
    directory = CredentialsDirectory(tmp_path)
    assert directory.finish_interrupted_work() is not None
    assert directory.key_path.read_bytes() == pair.key_pem
    assert directory.certificate_path.read_bytes() == pair.certificate_pem


def test_journal_that_cannot_be_read_is_no_unfinished_work_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, or one that another run has just finished."""
    write_journal(tmp_path / PENDING, a_pair("new"), age=1)
    monkeypatch.setattr(Path, "open", fail)
    assert not CredentialsDirectory(tmp_path).has_unfinished_work()


def test_latest_of_two_journals_wins(tmp_path: Path) -> None:
    """Its key is the one on chain; the other pair is kept as the old one."""
    for name, pair, age in ((".client-pair.1.tmp", a_pair("old"), 9), (PENDING, a_pair("new"), 1)):
        write_journal(tmp_path / name, pair, age=age)
    directory = CredentialsDirectory(tmp_path)
    with directory.opened_for_writing():
        directory.finish_interrupted_work()
    assert directory.load().certificate.fingerprint == a_pair("new").certificate.fingerprint
    assert names(tmp_path) == ["client.crt", "client.crt.old", "client.key", "client.key.old"]


def test_file_that_only_looks_like_a_journal_is_left_alone(tmp_path: Path) -> None:
    """Half a pair, a user's notes, a link: never taken for a pair, never removed."""
    pair = a_pair("new")
    other = a_pair("other")
    (tmp_path / "elsewhere").write_bytes(pair.key_pem + pair.certificate_pem)
    (tmp_path / ".client-pair.1.tmp").write_bytes(pair.key_pem)
    (tmp_path / ".client-pair.2.tmp").write_bytes(pair.key_pem + other.certificate_pem)
    (tmp_path / ".client-pair.3.tmp").write_bytes(b"x")
    (tmp_path / ".client-pair.4.tmp").symlink_to("elsewhere")
    (tmp_path / ".client-pair.5.tmp").write_bytes(bytes(100))
    (tmp_path / ".client.key.1.tmp").write_bytes(b"")
    directory = CredentialsDirectory(tmp_path)
    with directory.opened_for_writing():
        assert directory.finish_interrupted_work() is None
    assert names(tmp_path) == [*(f".client-pair.{n}.tmp" for n in (1, 2, 3, 4)), "elsewhere"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_journal_of_another_user_is_not_believed(tmp_path: Path) -> None:
    """In a directory like /tmp, any user could put one."""
    pair = a_pair("new")
    journal = tmp_path / ".client-pair.pending"
    journal.write_bytes(pair.key_pem + pair.certificate_pem)
    os.chown(journal, 65534, 65534)
    directory = CredentialsDirectory(tmp_path)
    assert not directory.has_unfinished_work()
    os.chown(tmp_path, 65534, 65534)
    assert directory.has_unfinished_work()


def a_link(path: Path) -> None:
    """A link to a real file."""
    (path.parent / "target").write_text("x")
    path.symlink_to("target")


def a_socket(path: Path) -> None:
    """Something that is no file at all."""
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(path.parent)  # the name of a socket must be short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(before)


@pytest.mark.parametrize("make", [a_link, a_socket, Path.mkdir])
@pytest.mark.parametrize("name", ["client.key", "client.crt"])
def test_what_is_no_regular_file_is_refused_before_anything_happens(
    tmp_path: Path, make: Any, name: str
) -> None:
    """A link's target would keep the old key; a directory cannot be replaced."""
    make(tmp_path / name)
    before = names(tmp_path)
    with pytest.raises(CredentialsUnusable, match=name):
        save(tmp_path, a_pair("new"))
    assert names(tmp_path) == before


@pytest.mark.parametrize(("number", "refused"), [(errno.EXDEV, True), (errno.EPERM, False)])
def test_file_that_is_mounted_by_itself_is_refused_before_anything_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, refused: bool
) -> None:
    """`docker run -v ./client.key:/app/certs/client.key`: the new key would go with the container.

    Linux links nothing across mounts; a file system without links is no reason to refuse.
    """
    (tmp_path / "client.key").write_text("mounted")

    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    directory = CredentialsDirectory(tmp_path)
    with ExitStack() as stack:
        if refused:
            stack.enter_context(pytest.raises(CredentialsUnusable, match="mount its directory"))
        stack.enter_context(directory.reserved())
    assert names(tmp_path) == ["client.key"]


@pytest.mark.parametrize("name", [".client-pair.pending", "client.key.old", "client.crt.old"])
def test_directory_under_a_name_that_is_needed_is_refused_before_anything_happens(
    tmp_path: Path, name: str
) -> None:
    """It would only be found out when Pylon has replaced the key on chain."""
    save(tmp_path, a_pair("old"))
    (tmp_path / name).mkdir()
    before = names(tmp_path)
    with pytest.raises(CredentialsUnusable, match=f"{name}': is a directory"):
        save(tmp_path, a_pair("new"))
    assert names(tmp_path) == before


@pytest.mark.parametrize("name", [".client-pair-changed", "client.key.old", "client.crt.old"])
def test_link_to_a_directory_under_a_name_that_is_needed_is_replaced(
    tmp_path: Path, name: str
) -> None:
    """The link alone: what it points to is not ours."""
    (tmp_path / "elsewhere").mkdir()
    save(tmp_path / "certs", a_pair("old"))
    (tmp_path / "certs" / name).symlink_to(tmp_path / "elsewhere")
    save(tmp_path / "certs", a_pair("new"), will_notify=True)
    assert (tmp_path / "certs" / name).is_file()
    assert names(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("name", [".client-pair.pending", ".client-pair.1.tmp"])
def test_pipe_that_looks_like_a_journal_is_not_read(tmp_path: Path, name: str) -> None:
    """Reading it would never end."""
    os.mkfifo(tmp_path / name)
    directory = CredentialsDirectory(tmp_path)
    assert not directory.has_unfinished_work()
    save(tmp_path, a_pair("new"))
    assert directory.load().certificate.fingerprint == a_pair("new").certificate.fingerprint


def test_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """With the path and the reason."""
    (tmp_path / "certs").write_text("x")
    with pytest.raises(CredentialsUnusable, match=r"certs': is not a directory"):
        save(tmp_path / "certs", a_pair("new"))
    with pytest.raises(CredentialsUnusable, match=r"certs/deeper': Not a directory"):
        save(tmp_path / "certs" / "deeper", a_pair("new"))


def test_who_is_denied_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more, where the folder is ours: its owner is not why."""
    monkeypatch.setattr(os, "access", lambda *_: False)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    directory = CredentialsDirectory(tmp_path)
    with (
        pytest.raises(CredentialsUnusable, match=f"denied to user {os.geteuid()}$"),
        directory.opened_for_writing(),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "refused", "is_open", "closed", "command"),
    [
        (errno.EACCES, "certs/.client.key.1.tmp", False, False, "chown 4321 '{0}/my certs'"),
        (errno.EACCES, "certs/client.key", False, False, "chown 4321 '{0}/my certs/client.key'"),
        (errno.EACCES, "new", False, False, "install -d -o 4321 '{0}/my new'"),
        (errno.EACCES, "new", False, True, "chown 4321 {0}"),
        (errno.EACCES, "certs/client.key", True, False, None),
        (errno.EACCES, "certs/.client.key.1.tmp", True, False, None),
        (errno.EPERM, "certs/client.key", False, False, None),
    ],
)
def test_folder_of_another_user_is_named_with_the_way_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    refused: str,
    *,
    is_open: bool,
    closed: bool,
    command: str | None,
) -> None:
    """Only where the owner is the cause; a missing folder is made, and its parent left alone."""
    save(tmp_path / "my certs", a_pair("old"))
    path = tmp_path / f"my {refused}"
    needed = os.R_OK if refused == "certs/client.key" else os.W_OK | os.X_OK
    permitted = {needed} if is_open else set() if closed else {os.X_OK}

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    monkeypatch.setattr(os, "access", lambda _, bits: bits in permitted)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    directory = CredentialsDirectory(path if refused == "new" else tmp_path / "my certs")
    with pytest.raises(CredentialsUnusable) as caught, directory.opened_for_writing():
        pass
    words = f"{os.strerror(number)} to user 4321"
    if command is None:
        assert str(caught.value).endswith(words)
        return
    found = path if path.exists() else path.parent
    owner = found.stat()
    assert str(caught.value).partition(words)[2] == (
        f": {str(found)!r} belongs to user {owner.st_uid}. Run: sudo {command.format(tmp_path)} "
        "(for a container: the folder that is mounted there), or run this as that user "
        f"(docker run --user {owner.st_uid}:{owner.st_gid})"
    )


def test_key_that_cannot_be_kept_is_refused_before_anything_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, which we may not read: the new pair could not be put in its place."""
    save(tmp_path, a_pair("old"))
    unpatched = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "client.key":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return unpatched(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with (
        pytest.raises(CredentialsUnusable, match=r"client.key': Permission denied"),
        CredentialsDirectory(tmp_path).reserved(),
    ):
        pass
    assert names(tmp_path) == ["client.crt", "client.key"]


@pytest.mark.parametrize("name", ["client.key", "client.crt", "client.key.old", "client.crt.old"])
@pytest.mark.parametrize(
    ("us", "bits", "is_refused"),
    [(4321, 0o1777, True), (4321, 0o777, False), (None, 0o1777, False)],
)
def test_file_of_another_user_in_a_sticky_folder_is_refused_before_anything_happens(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    us: int | None,
    bits: int,
    *,
    is_refused: bool,
) -> None:
    """As in /tmp, where only its owner can replace it, the folder's owner and root."""
    (tmp_path / name).touch()
    tmp_path.chmod(bits)
    if us is not None:
        monkeypatch.setattr(os, "geteuid", lambda: us)
    with ExitStack() as stack:
        if is_refused:
            stack.enter_context(pytest.raises(CredentialsUnusable, match=f"{name}': is another"))
        stack.enter_context(CredentialsDirectory(tmp_path).reserved())
    assert names(tmp_path) == [name]


def test_names_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    """No file has no names; one that cannot be read may have some."""
    directory = CredentialsDirectory(tmp_path / "certs")
    assert directory.load_names() == ()
    save(directory.path, a_pair("old"))
    assert directory.load_names() == ()
    directory.certificate_path.write_bytes(b"damaged")
    assert directory.load_names() is None
    refuse = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "is_file", _raising(refuse))
        assert directory.load_names() is None


def _raising(error: OSError) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    """The second would replace on chain what the first is about to write."""
    directory = CredentialsDirectory(tmp_path)
    with (
        directory.opened_for_writing(),
        pytest.raises(CredentialsUnusable, match=r"another nexus-auth"),
        CredentialsDirectory(tmp_path).opened_for_writing(),
    ):
        pass
    with directory.opened_for_writing():
        pass


def test_disk_that_fills_up_after_reserving_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that a first pair needs was set aside before."""
    directory = CredentialsDirectory(tmp_path)
    with directory.opened_for_writing(), directory.reserved() as reservation:
        original = os.open

        def full(path: Any, flags: int, *more: Any, **keywords: Any) -> int:
            if flags & os.O_CREAT:
                raise OSError(28, "No space left on device")
            return original(path, flags, *more, **keywords)

        monkeypatch.setattr(os, "open", full)
        reservation.save(a_pair("new"))
    assert names(tmp_path) == ["client.crt", "client.key"]


def test_pair_that_cannot_be_put_in_its_place_stays_in_the_journal(tmp_path: Path) -> None:
    """And the next run finishes the work."""
    directory = CredentialsDirectory(tmp_path)
    with directory.opened_for_writing(), directory.reserved() as reservation:
        directory.key_path.mkdir()  # another program interferes
        with pytest.raises(CredentialsNotPlaced, match=r"\.client-pair\.pending"):
            reservation.save(a_pair("new"))
    assert mode(directory.pending_path) == 0o600
    with directory.opened_for_writing():
        # What is in the way is named.
        with pytest.raises(CredentialsNotPlaced, match=r"client\.key'.*next run finishes"):
            directory.finish_interrupted_work()
        directory.key_path.rmdir()
        assert directory.finish_interrupted_work() is not None
    assert names(tmp_path) == ["client.crt", "client.key"]


def test_pair_that_cannot_be_written_at_all_is_the_callers_again(tmp_path: Path) -> None:
    """The error says so by its type, and shows nothing of the key."""
    certs = tmp_path / "certs"
    directory = CredentialsDirectory(certs)
    with directory.opened_for_writing(), directory.reserved() as reservation:
        certs.rename(tmp_path / "elsewhere")
        with pytest.raises(CredentialsUnusable) as caught:
            reservation.save(a_pair("new"))
    shown = "".join(
        traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    )
    assert a_pair("new").key_pem.splitlines()[1].decode() not in shown


@pytest.mark.parametrize(
    ("key", "certificate"),
    [
        (None, None),
        (b"", b""),
        (a_pair("old").key_pem, a_pair("new").certificate_pem),
        (b"x" * 100_000, b"x"),
    ],
)
def test_what_is_no_pair_cannot_be_loaded(
    tmp_path: Path, key: bytes | None, certificate: bytes | None
) -> None:
    """Missing, damaged, or halves of two pairs."""
    if key is not None and certificate is not None:
        (tmp_path / "client.key").write_bytes(key)
        (tmp_path / "client.crt").write_bytes(certificate)
    with pytest.raises(CredentialsError):
        CredentialsDirectory(tmp_path).load()


def test_key_alone_cannot_be_loaded_where_there_is_none(tmp_path: Path) -> None:
    """With the path in the message."""
    with pytest.raises(CredentialsUnusable, match=r"client\.key"):
        CredentialsDirectory(tmp_path).load_private_key()


def test_recovery_file_holds_both_halves_for_the_owner_alone(tmp_path: Path) -> None:
    """As near as possible to where they belong."""
    path = CredentialsDirectory(tmp_path).save_elsewhere(a_pair("new"))
    assert path is not None
    assert path.parent == tmp_path
    assert re.fullmatch(r"nexus-auth-recovered-[0-9a-f]{16}\.pem", path.name)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == a_pair("new").key_pem + a_pair("new").certificate_pem


def test_recovery_file_and_its_name_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut takes neither: the content is written through first, then the directory."""
    synced: list[bool] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    CredentialsDirectory(tmp_path).save_elsewhere(a_pair("new"))
    assert synced == [False, True]


def test_next_best_place_is_taken(tmp_path: Path) -> None:
    """The parent, where the directory itself is gone."""
    path = CredentialsDirectory(tmp_path / "gone").save_elsewhere(a_pair("new"))
    assert path is not None
    assert path.parent == tmp_path


def test_last_place_is_the_one_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better than nowhere."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.chdir("/proc")
    path = CredentialsDirectory(Path("/dev/null/a/b")).save_elsewhere(a_pair("new"))
    assert path is not None
    assert path.parent == tmp_path


def test_nowhere_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the caller still has the only copy."""
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.chdir("/proc")
    assert CredentialsDirectory(Path("/dev/null/a/b")).save_elsewhere(a_pair("new")) is None
