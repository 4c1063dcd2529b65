"""The service and the process around it: early signals, its socket file, a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.children import descendants
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import Process, free_port, wait_until_ready
from tests.integration.service.running import (
    RunningService,
    a_header,
    register,
    running_service,
    service_environment,
)


@pytest.fixture(scope="module")
def pylon() -> Iterator[RunningPylon]:
    """A development Pylon that knows alice."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        yield pylon


@contextlib.contextmanager
def starting_service(
    folder: Path, pylon: RunningPylon, log_file: Path | None = None, **settings: str
) -> Iterator[RunningService]:
    """Starts a service without waiting for anything."""
    port, admin_port = free_port(), free_port()
    environment = service_environment(
        pylon.url,
        NEXUS_AUTH_LISTEN_ADDR=f"127.0.0.1:{port}",
        NEXUS_AUTH_ADMIN_ADDR=f"127.0.0.1:{admin_port}",
        **settings,
    )
    with Process(
        [sys.executable, "-m", "nexus_auth", "run"],
        log_file=folder / "service.log" if log_file is None else log_file,
        environment=environment,
        directory=folder,
    ) as process:
        yield RunningService(process, port, admin_port)


def has_taken(pid: int, number: signal.Signals) -> bool:
    """Whether a process handles a signal, or keeps it waiting."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            name, _, mask = line.partition(":\t")
            if name in {"SigBlk", "SigCgt"} and int(mask, 16) >> (number - 1) & 1:
                return True
    return False


@pytest.mark.parametrize("workers", ["1", "2"])
def test_hangup_while_it_starts_is_survived_by_every_process(
    pylon: RunningPylon, tmp_path: Path, workers: str
) -> None:
    """From the first moment at which the program runs, in the supervisor and in its workers."""
    with starting_service(tmp_path, pylon, NEXUS_AUTH_WORKERS=workers) as service:
        process = service.process
        wait_until_ready(lambda: has_taken(process.pid, signal.SIGHUP), what="its first steps")
        while len(service.lines("listening")) < int(workers):
            assert process.is_running, process.output
            for pid in {process.pid, *descendants(process.pid)}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)
            time.sleep(0.005)
        assert service.lines("worker_died") == []
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_sigterm_while_it_starts_ends_it_in_good_order(pylon: RunningPylon, tmp_path: Path) -> None:
    """The signal waits until the service can drain, and is not lost."""
    with starting_service(tmp_path, pylon) as service:
        process = service.process
        wait_until_ready(lambda: has_taken(process.pid, signal.SIGTERM), what="its first steps")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert service.lines("stopped")


def can_make_namespaces() -> bool:
    """Whether this user may start a process as the first one of a container."""
    tried = ["unshare", "--pid", "--fork", "true"]
    return shutil.which("unshare") is not None and not subprocess.run(tried, check=False).returncode


@pytest.mark.skipif(not can_make_namespaces(), reason="needs the right to make a PID namespace")
@pytest.mark.parametrize(
    "arguments", [["run"], ["pylon", "--listen", "127.0.0.1:0", "--data", ":memory:"]]
)
def test_first_process_of_a_container_is_stopped_at_once(
    pylon: RunningPylon, tmp_path: Path, arguments: list[str]
) -> None:
    """The kernel drops a signal for process 1 that it does not handle: it handles it early."""
    environment = service_environment(
        pylon.url,
        NEXUS_AUTH_LISTEN_ADDR=f"127.0.0.1:{free_port()}",
        NEXUS_AUTH_ADMIN_ADDR="off",
    )
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", sys.executable, "-m", "nexus_auth", *arguments],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as unshare:
        first: set[int] = set()

        def has_begun() -> bool:
            first.update(descendants(unshare.pid))
            return any(has_taken(pid, signal.SIGTERM) for pid in first)

        try:
            wait_until_ready(has_begun, what="its first steps")
            for pid in first:
                os.kill(pid, signal.SIGTERM)
            # Another command than the service may not have come to its own handler yet.
            assert unshare.wait(20) in {0, 128 + signal.SIGTERM}
        finally:
            for pid in first:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def accepts_connections(path: Path) -> bool:
    """Whether a process listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("workers", ["1", "2"])
def test_stopping_service_leaves_its_successors_socket_alone(
    pylon: RunningPylon, tmp_path: Path, workers: str
) -> None:
    """It removes its socket's file when it stops listening, and no other file later."""
    path = tmp_path / "auth.sock"
    folders = tmp_path / "old", tmp_path / "new"
    for folder in folders:
        folder.mkdir()
    with (
        running_service(folders[0], pylon.url, socket_path=path, NEXUS_AUTH_WORKERS=workers) as old,
        old.connect() as unfinished,
    ):
        # An unfinished request keeps the old one draining while the new one starts.
        unfinished.sendall(b"GET / HTTP/1.1\r\n")
        wait_until_ready(lambda: old.ask(a_header()).status == 200, what="a read of both")
        old.process.send_signal(signal.SIGTERM)
        # It is gone, or refuses connections.
        wait_until_ready(lambda: not accepts_connections(path), what="the end of listening")
        with running_service(folders[1], pylon.url, socket_path=path) as new:
            inode = path.stat().st_ino
            unfinished.close()
            assert old.process.wait() == 0
            assert path.stat().st_ino == inode
            assert new.ask(a_header("alice")).status == 200
    assert not path.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_full_disk_under_the_log_is_no_failure(
    pylon: RunningPylon, tmp_path: Path, workers: str
) -> None:
    """Decisions go on, dead workers are replaced, and the exit code is that of a good end."""
    full = Path("/dev/full")
    with starting_service(tmp_path, pylon, full, NEXUS_AUTH_WORKERS=workers) as service:
        process = service.process
        wait_until_ready(service.is_ready, what="the service")
        assert service.ask(a_header("alice")).status == 200
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        wait_until_ready(service.is_ready, what="the service")
        assert service.ask(None).status == 403
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_connection_queue_that_is_full_belongs_to_a_running_process(tmp_path: Path) -> None:
    """A busy process is not taken for a dead one, and the start does not wait for it."""
    path = tmp_path / "auth.sock"
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(path))
        done = subprocess.run(
            [sys.executable, "-m", "nexus_auth", "run"],
            env=service_environment("http://127.0.0.1:9", NEXUS_AUTH_LISTEN_ADDR=f"unix:{path}"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert "in use by a busy process" in done.stderr
