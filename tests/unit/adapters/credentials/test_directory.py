from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nexus_auth.adapters.credentials.directory import (
    CredentialsDirectory,
    CredentialsNotPlaced,
    CredentialsUnusable,
)
from nexus_auth.domain.errors import CredentialsError
from nexus_auth.domain.issuance import Holdings
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


def test_old_pair_is_kept_beside_until_it_is_discarded(tmp_path: Path) -> None:
    """With a key that only its owner can read, even where the old one could be read by all."""
    save(tmp_path, a_pair("old"))
    (tmp_path / "client.key").chmod(0o644)
    directory = save(tmp_path, a_pair("new"))
    assert names(tmp_path) == ["client.crt", "client.crt.old", "client.key", "client.key.old"]
    assert (tmp_path / "client.key.old").read_bytes() == a_pair("old").key_pem
    assert (tmp_path / "client.crt.old").read_bytes() == a_pair("old").certificate_pem
    assert mode(tmp_path / "client.key.old") == 0o600
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
    # The checkout under test comes before whatever is installed.
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
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


@pytest.mark.parametrize("journal", [PENDING, ".client-pair.1.tmp"])
def test_kill_while_an_interrupted_run_is_finished_loses_nothing(
    tmp_path: Path, journal: str
) -> None:
    """The run after that puts the new pair in its place, and leaves nothing behind."""
    moments = kill_everywhere(tmp_path, journal)
    assert len(moments) > 50
    for each in moments:
        assert (each["pair"], each["old"]) == ("new", [True, True]), each
        assert each["key_mode"] == "0o600", each
        assert each["names"] == CHANGED, each


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
        assert each["old"] == [True, True], each
        assert each["key_mode"] == "0o600", each
        assert each["names"] == CHANGED, each


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


def test_latest_of_two_journals_wins(tmp_path: Path) -> None:
    """Its key is the one on chain; the other pair is kept as the old one."""
    for name, pair, age in ((".client-pair.1.tmp", a_pair("old"), 9), (PENDING, a_pair("new"), 1)):
        (tmp_path / name).write_bytes(pair.key_pem + pair.certificate_pem)
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
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
    (tmp_path / ".client-pair.3.tmp").write_bytes(b"notes")
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
    """Docker makes a missing folder for root, and the image runs as user 1000."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    directory = CredentialsDirectory(tmp_path)
    with (
        pytest.raises(CredentialsUnusable, match=f"denied to user {os.geteuid()}$"),
        directory.opened_for_writing(),
    ):
        pass


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
        with pytest.raises(CredentialsNotPlaced, match=r"next run finishes"):
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
