"""The service as a process: decisions, readiness, signals, start-up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.entrypoints.settings import Settings
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import free_port, wait_until_ready
from tests.integration.service.running import (
    RunningService,
    a_header,
    register,
    running_service,
    service_environment,
)

NOWHERE = "http://127.0.0.1:9"
FEW_FILES = 128


@pytest.fixture(scope="module")
def pylon() -> Iterator[RunningPylon]:
    """A development Pylon that knows alice and bob."""
    with running_pylon() as pylon:
        register(pylon, "alice", "bob")
        yield pylon


@pytest.fixture(scope="module")
def service(
    pylon: RunningPylon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """A ready service."""
    with running_service(tmp_path_factory.mktemp("service"), pylon.url) as service:
        yield service


def test_registered_caller_is_granted_the_second_time_too(service: RunningService) -> None:
    """The short way of a remembered caller gives the same answer, byte for byte."""
    certificate = a_header("alice")
    answers = [service.ask(certificate) for _ in range(3)]
    for answered in answers:
        assert answered.headers.pop("Date")
        assert answered.status == 200
        assert answered.body == b"Access granted"
        assert answered.headers == {
            "X-Hotkey": a_hotkey("alice").address,
            "X-Accel-Expires": "5",
            "Content-Length": "14",
            "Content-Type": "text/plain; charset=utf-8",
        }


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (None, "no-certificate"),
        (b"hello", "malformed-certificate"),
        (a_header("mallory"), "not-registered"),
        (a_header("alice", key_of="mallory"), "key-mismatch"),
    ],
)
def test_stranger_is_denied(
    service: RunningService, certificate: bytes | None, reason: str
) -> None:
    """Without a name, and not to be kept."""
    answered = service.ask(certificate)
    assert (answered.status, answered.reason) == (403, reason)
    assert answered.headers["Cache-Control"] == "no-store"
    assert "X-Hotkey" not in answered.headers
    assert "X-Accel-Expires" not in answered.headers


def test_health_and_readiness_are_told_elsewhere(service: RunningService) -> None:
    """No path of the auth listener answers 200 without a certificate."""
    assert service.admin("/healthz") == (200, {"status": "alive"})
    status, document = service.admin("/readyz")
    assert (status, document["status"]) == (200, "serving")
    assert document["registry"]["hotkeys"] >= 2


def test_decisions_are_logged_in_one_line_each(pylon: RunningPylon, tmp_path: Path) -> None:
    """The first grant and every denial with all facts; what repeats is counted to the end."""
    uri = "/x\u202e\x1b[31m?token=s3cret"
    # One and the same: another second would make another certificate.
    certificate = a_header("alice")
    with running_service(tmp_path, pylon.url) as service:
        for _ in range(5):
            service.ask(certificate, **{"X-Original-Method": "PUT"})
        sent = uri.encode().decode("latin-1")
        service.ask(None, **{"X-Original-URI": sent.replace("\x1b", "%1b")})
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait() == 0
        granted, denied = service.lines("decision")
        (repeated,) = service.lines("grants_repeated")
    assert granted["outcome"] == "granted"
    assert granted["hotkey"] == repeated["hotkey"] == a_hotkey("alice").address
    assert len(granted["certificate"]) == 64
    assert granted["method"] == "PUT"
    assert repeated["times"] == 4
    assert denied["code"] == "no-certificate"
    assert denied["uri"] == "/x\\xe2\\x80\\xae%1b[31m"
    assert RunningPylon.token not in service.process.output


def test_rotated_key_works_and_the_old_one_stops(tmp_path: Path) -> None:
    """Within seconds, without a restart."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(tmp_path, pylon.url) as service:
            old, new = a_header("alice"), a_header("alice", key_of="new")
            assert service.ask(old).status == 200
            pylon.store.set_certificate(a_hotkey("alice"), public_bytes(a_key("new")))
            wait_until_ready(lambda: service.ask(new).status == 200, what="the new key")
            assert service.ask(old).reason == "key-mismatch"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_replaced_token_is_read_from_its_file(tmp_path: Path, workers: str) -> None:
    """Whichever is replaced first, Pylon's or the file's: a running service goes on."""
    file = tmp_path / "token"
    file.write_text(RunningPylon.token)
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(
            tmp_path,
            pylon.url,
            NEXUS_PYLON_IDENTITY_TOKEN="",
            NEXUS_PYLON_IDENTITY_TOKEN_FILE=str(file),
            NEXUS_AUTH_REFRESH_SECONDS="1",
            NEXUS_AUTH_WORKERS=workers,
        ) as service:
            pylon.store.add_identity(pylon.identity_name, hotkey=pylon.hotkey, token="another")
            wait_until_ready(lambda: bool(service.lines("source_failed")), what="a refused token")
            file.write_text("another")
            wait_until_ready(lambda: bool(service.lines("source_recovered")), what="another token")
            assert service.lines("token_reloaded")[0]["setting"] == "NEXUS_PYLON_IDENTITY_TOKEN"
            register(pylon, "bob")
            wait_until_ready(lambda: service.ask(a_header("bob")).status == 200, what="bob's key")
            assert "another" not in service.process.output


def test_service_starts_and_stays_without_pylon(tmp_path: Path) -> None:
    """It denies, says that it is not ready and why, and ends in good order."""
    with running_service(tmp_path, NOWHERE, wait=False) as service:
        answered = service.ask(a_header("alice"))
        assert (answered.status, answered.reason) == (403, "registry-unavailable")
        status, document = service.admin("/readyz")
        assert (status, document["status"]) == (503, "starting")
        assert "127.0.0.1:9" in document["registry"]["last_error"]
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait() == 0


def test_service_becomes_ready_when_pylon_appears(tmp_path: Path) -> None:
    """Nobody has to restart anything."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        pylon.stop()
        with running_service(tmp_path, pylon.url, wait=False) as service:
            assert service.ask(a_header("alice")).status == 403
            pylon.start()
            wait_until_ready(service.is_ready, what="the service", process=service.process)
            assert service.ask(a_header("alice")).status == 200
            pylon.stop()
            assert service.ask(a_header("alice")).status == 200


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_request_under_way_is_answered_before_the_end(
    tmp_path: Path, which: signal.Signals
) -> None:
    """A decision that waits for Pylon is still given; idle connections are closed; exit 0."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(
            tmp_path, pylon.url, NEXUS_AUTH_CACHE_DURATION_MINS="0", wait=False
        ) as service:
            pylon.answer_after(0.6)
            idle, waiting = service.connect(), service.connect()
            with idle, waiting:
                waiting.sendall(
                    b"GET / HTTP/1.1\r\nHost: a\r\nX-Client-Cert: %s\r\n\r\n" % a_header("alice")
                )
                time.sleep(0.2)
                service.process.send_signal(which)
                assert idle.recv(100) == b""
                answer = waiting.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert b"\r\nConnection: close\r\n" in answer
            assert service.process.wait() == 0
            with pytest.raises(OSError, match="refused"):
                service.connect()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_second_signal_waits_for_nothing_and_is_no_failure(tmp_path: Path, workers: str) -> None:
    """A request under way is left; everything is closed in good order all the same; exit 0."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(
            tmp_path,
            pylon.url,
            NEXUS_AUTH_CACHE_DURATION_MINS="0",
            NEXUS_AUTH_WORKERS=workers,
            wait=False,
        ) as service:
            wait_until_ready(lambda: len(service.lines("listening")) == int(workers), what="all")
            pylon.answer_after(30)
            with service.connect() as waiting:
                waiting.sendall(
                    b"GET / HTTP/1.1\r\nHost: a\r\nX-Client-Cert: %s\r\n\r\n" % a_header("alice")
                )
                time.sleep(0.2)
                service.process.send_signal(signal.SIGTERM)
                wait_until_ready(
                    lambda: len(service.lines("stopping")) == int(workers), what="the first"
                )
                service.process.send_signal(signal.SIGTERM)
                assert service.process.wait(8) == 0
            assert len(service.lines("stopped")) == int(workers)
            assert service.lines("library_message") == []


def test_unix_socket_is_for_the_owner_and_its_group(pylon: RunningPylon, tmp_path: Path) -> None:
    """A stale one is replaced, and the file is gone at the end."""
    path = tmp_path / "auth.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with running_service(tmp_path, pylon.url, socket_path=path) as service:
        assert path.stat().st_mode & 0o777 == 0o660
        assert service.ask(a_header("alice")).status == 200
        assert service.ask(None).reason == "no-certificate"
    assert not path.exists()


def run_to_the_end(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Starts a service that cannot start."""
    return subprocess.run(
        [sys.executable, "-m", "nexus_auth", "run"],
        env=service_environment(NOWHERE, **settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_bad_setting_ends_the_start_with_one_line(tmp_path: Path) -> None:
    """It names the setting and where the value came from; exit code 2."""
    done = run_to_the_end(tmp_path, NEXUS_AUTH_REUSE_SECONDS="soon")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "NEXUS_AUTH_REUSE_SECONDS" in done.stderr
    assert "environment" in done.stderr


def test_taken_port_ends_the_start_with_one_line(tmp_path: Path) -> None:
    """It names the address; exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_to_the_end(tmp_path, NEXUS_AUTH_LISTEN_ADDR=address)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert address in line
    assert "in use" in line


def test_admin_address_that_nobody_named_may_be_taken(pylon: RunningPylon, tmp_path: Path) -> None:
    """A second service on the machine, or the auth listener there, starts as the original does."""
    default = Settings.load(environ={}).admin_addr
    assert isinstance(default, TcpAddress)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else has it: just as well
            stack.enter_context(socket.create_server((default.host, default.port)))
        service = stack.enter_context(
            running_service(tmp_path, pylon.url, wait=False, NEXUS_AUTH_ADMIN_ADDR="")
        )
        wait_until_ready(
            lambda: service.ask(a_header("alice")).status == 200, what="a service that knows alice"
        )
        (line,) = service.lines("no_admin_listener")
        assert str(default) in line["problem"]
        assert "NEXUS_AUTH_ADMIN_ADDR" in line["problem"]
        assert [each["admin"] for each in service.lines("listening")] == ["off"]
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait() == 0


def test_admin_address_that_was_named_must_be_free(tmp_path: Path) -> None:
    """Whoever names it relies on it; exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_to_the_end(
            tmp_path, NEXUS_AUTH_LISTEN_ADDR="127.0.0.1:0", NEXUS_AUTH_ADMIN_ADDR=address
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert address in line


def test_more_connections_than_the_usual_limit_are_served(
    pylon: RunningPylon, tmp_path: Path
) -> None:
    """The soft limit of open files is raised, as the original does."""
    # By a shell: these tests themselves may have more files open.
    launcher = ("sh", "-c", f'ulimit -Sn {FEW_FILES}; exec "$0" "$@"')
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(running_service(tmp_path, pylon.url, launcher=launcher))
        for _ in range(FEW_FILES):
            stack.enter_context(service.connect())
        assert service.ask(a_header("alice")).status == 200


def test_several_workers_share_the_work_and_are_replaced(
    pylon: RunningPylon, tmp_path: Path
) -> None:
    """One that dies is missed by nobody, also where it told of readiness; all end together."""
    with running_service(tmp_path, pylon.url, NEXUS_AUTH_WORKERS="2") as service:
        wait_until_ready(lambda: len(service.lines("listening")) == 2, what="both workers")
        pids = [line["pid"] for line in service.lines("listening")]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until_ready(lambda: len(service.lines("listening")) == 4, what="new workers")
        wait_until_ready(service.is_ready, what="the service")
        wait_until_ready(
            lambda: service.ask(a_header("alice")).status == 200, what="a worker that knows alice"
        )
        assert len(service.lines("worker_died")) == 2
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait() == 0
        assert len(service.lines("stopped")) == 2


def test_workers_end_when_nobody_supervises_them(pylon: RunningPylon, tmp_path: Path) -> None:
    """A killed supervisor leaves nothing behind on the port."""
    port = free_port()
    with running_service(
        tmp_path,
        pylon.url,
        NEXUS_AUTH_WORKERS="2",
        NEXUS_AUTH_LISTEN_ADDR=f"127.0.0.1:{port}",
    ) as service:
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        wait_until_ready(lambda: len(service.lines("stopped")) == 2, what="the end")


def is_locked(folder: Path) -> bool:
    """Whether some process has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_what_a_killed_supervisor_left_goes_with_the_next_start(
    pylon: RunningPylon, tmp_path: Path
) -> None:
    """The folder that its workers shared, once none of them is there any more."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def start(name: str) -> AbstractContextManager[RunningService]:
        folder = tmp_path / name
        folder.mkdir()
        return running_service(folder, pylon.url, NEXUS_AUTH_WORKERS="2", TMPDIR=str(temporary))

    with start("one") as one:
        (left,) = temporary.iterdir()
        wait_until_ready(lambda: len(one.lines("listening")) == 2, what="both workers")
        workers = [line["pid"] for line in one.lines("listening")]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        one.process.send_signal(signal.SIGKILL)
        one.process.wait()
        with start("two"):
            assert len(list(temporary.iterdir())) == 2
        assert list(temporary.iterdir()) == [left]
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        wait_until_ready(lambda: not is_locked(left), what="the end of the workers")
    with start("three"):
        assert left not in temporary.iterdir()
    assert list(temporary.iterdir()) == []
