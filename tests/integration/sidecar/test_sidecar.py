from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest

from nexus_auth.entrypoints.demo.certificates import save_self_made
from tests.builders import a_hotkey
from tests.integration.children import command_line, running
from tests.integration.proxies.application import Application
from tests.integration.proxies.client import ask, connect, exchange, http1_request, tls_context
from tests.integration.proxies.scenarios import LET_IN, REFUSED, SCENARIOS, Scenario, judge
from tests.integration.proxies.stack import PROGRAMS, Stack
from tests.integration.real import (
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)
from tests.integration.service.running import service_environment
from tests.integration.sidecar.running import command, generate, running_sidecar

pytestmark = pytest.mark.timeout(120)

OWN = [each for each in SCENARIOS if not each.group.endswith("the auth service")]
"""All but those for which the auth service is replaced by one that errs."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: that of a unix socket has 107 characters."""
    with TemporaryDirectory(prefix="nexus-auth-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def shared() -> Iterator[Stack]:
    """One sidecar for all scenarios."""
    with (
        TemporaryDirectory(prefix="nexus-auth-") as path,
        Application() as application,
        running_sidecar(Path(path), application.address) as sidecar,
    ):
        yield Stack(
            proxy="envoy",
            port=sidecar.port,
            moody_port=0,
            orphan_port=0,
            people=sidecar.people,
            application=application,
            auth=None,  # type: ignore[arg-type] # the sidecar has its own
            moody=None,  # type: ignore[arg-type] # as above
        )


@pytest.mark.parametrize("scenario", OWN, ids=[each.name for each in OWN])
def test_the_application_gets_the_callers_own_hotkey_alone(
    shared: Stack, scenario: Scenario
) -> None:
    """All that is tried with every proxy holds through the sidecar."""
    outcome = judge(scenario, shared)
    if scenario.expected == "refused":
        assert outcome in {REFUSED, "403"}
    if scenario.expected == "let in":
        assert outcome == LET_IN


def test_it_is_ready_when_callers_are_served(folder: Path) -> None:
    """The line names both ends; `/readyz` is that of the auth service; its folder is private."""
    with Application() as application, running_sidecar(folder, application.address) as sidecar:
        assert f"mutual TLS on 127.0.0.1:{sidecar.port}" in sidecar.process.output
        assert application.address in sidecar.process.output
        admin = http.client.HTTPConnection("127.0.0.1", sidecar.admin_port, timeout=10)
        admin.request("GET", "/readyz")
        assert admin.getresponse().status == 200
        admin.close()
        [private] = sidecar.temporary
        assert private.stat().st_mode & 0o077 == 0
        assert not any(command_line(pid).count("token-of") for pid in sidecar.children)
        assert sidecar.status("carol") == 403
        listening = _tcp_ports_of(sidecar.children | {sidecar.process.pid})
        assert listening == {sidecar.port, sidecar.admin_port}
    assert sidecar.temporary == []


def test_sigterm_finishes_what_is_under_way_and_takes_nothing_new(folder: Path) -> None:
    """A request that is being answered gets its answer; the port is closed meanwhile."""
    with (
        SlowApplication() as slow,
        running_sidecar(folder, slow.address, until_granted=False) as sidecar,
    ):
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(sidecar.status()))
        asking.start()
        assert slow.asked.wait(20)
        children = sidecar.children
        sidecar.process.send_signal(signal.SIGTERM)
        wait_until_ready(lambda: not accepts_connections(sidecar.port), what="a closed port")
        slow.may_answer.set()
        asking.join(20)
        assert answers == [200]
        assert sidecar.process.wait(30) == 0
        assert running(children) == set()
        assert sidecar.temporary == []


def test_a_second_signal_ends_it_at_once(folder: Path) -> None:
    """What is under way is cut; the exit code is that of an orderly end."""
    with (
        SlowApplication() as slow,
        running_sidecar(folder, slow.address, until_granted=False) as sidecar,
    ):
        asking = threading.Thread(target=sidecar.status)
        asking.start()
        assert slow.asked.wait(20)
        children = sidecar.children
        sidecar.process.send_signal(signal.SIGINT)
        wait_until_ready(lambda: not accepts_connections(sidecar.port), what="a closed port")
        sidecar.process.send_signal(signal.SIGINT)
        asking.join(9)  # less than the drain would take
        assert not asking.is_alive()
        assert sidecar.process.wait(30) == 0
        assert running(children) == set()


@pytest.mark.parametrize("part", ["envoy", "nexus_auth"])
def test_the_death_of_a_part_ends_all_with_exit_code_1(folder: Path, part: str) -> None:
    """A supervisor sees it and starts all again; no caller meets half of it."""
    with Application() as application, running_sidecar(folder, application.address) as sidecar:
        children = sidecar.children
        [victim] = [pid for pid in children if (part == "envoy") == _is_envoy(pid)]
        os.kill(victim, signal.SIGKILL)
        assert sidecar.process.wait(30) == 1
        assert "ended before its time (signal 9)" in sidecar.process.output
        assert running(children) == set()
        assert not accepts_connections(sidecar.port)
        assert sidecar.temporary == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_child_survives_its_parent(folder: Path, workers: str) -> None:
    """SIGKILL leaves no process and no port; the folder that is left goes with the next start."""
    with Application() as application:
        with running_sidecar(folder, application.address, NEXUS_AUTH_WORKERS=workers) as sidecar:
            children = sidecar.children
            assert len(children) == {"1": 2, "2": 4}[workers]
            sidecar.process.send_signal(signal.SIGKILL)
            wait_until_ready(lambda: not running(children), what="the end of all children")
            assert not accepts_connections(sidecar.port)
            assert sidecar.temporary != []
        with running_sidecar(folder, application.address) as second:
            assert len(second.temporary) == 1


@pytest.mark.parametrize("arguments", [("-force-recreate",), ("-reuse-key",)])
def test_a_new_pair_is_served_and_no_connection_is_lost(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    """New connections get the new certificate; one that was open goes on with the old one."""
    path = folder / "certs" / "client.crt"
    with (
        Application() as application,
        running_sidecar(folder, application.address) as sidecar,
        connect(sidecar.port, tls_context(sidecar.people["alice"])) as before,
    ):
        assert exchange(before, http1_request()).status == 200
        generate(sidecar, "-force-recreate")
        wait_until_ready(lambda: sidecar.served_der() == _der(path), what="the new pair")
        generate(sidecar, *arguments)
        wait_until_ready(lambda: sidecar.served_der() == _der(path), what="the newer pair")
        assert sidecar.status() == 200
        assert exchange(before, http1_request()).status == 200


def test_sighup_reads_a_pair_that_was_overwritten_in_place(folder: Path) -> None:
    """Envoy does not notice by itself what no file was renamed for; every SIGHUP counts."""
    with Application() as application, running_sidecar(folder, application.address) as sidecar:
        path = folder / "certs" / "client.crt"
        for name in ("second", "third", "fourth"):
            made = save_self_made(folder / name, hotkey=a_hotkey("miner"))
            for new in (made.key_path, made.certificate_path):
                (folder / "certs" / new.name).write_bytes(new.read_bytes())
            sidecar.process.send_signal(signal.SIGHUP)
            wait_until_ready(lambda: sidecar.served_der() == _der(path), what=name)
        assert sidecar.status() == 200


def test_sighup_reads_the_policy_again(folder: Path) -> None:
    """As with `run`."""
    policy = folder / "policy.toml"
    policy.write_text("[policies.mine]\n")
    with (
        Application() as application,
        running_sidecar(folder, application.address, "-policy-file", str(policy)) as sidecar,
    ):
        policy.write_text(f'[policies.mine]\ndeny = ["{a_hotkey("alice").address}"]\n')
        sidecar.process.send_signal(signal.SIGHUP)
        wait_until_ready(lambda: sidecar.status() == 403, what="a denial")
        assert sidecar.status("bob") == 200


def test_an_application_on_a_unix_socket_is_reached(folder: Path) -> None:
    """`-app unix:/path` needs no port that other users of the machine can reach."""
    path = folder / "app.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with SlowApplication(listener) as slow:
            slow.may_answer.set()
            with running_sidecar(folder, f"unix:{path}") as sidecar:
                assert sidecar.status("carol") == 403


def test_a_port_alone_means_ipv4_and_ipv6(folder: Path) -> None:
    """As with `run`: `:8443` is every address of the machine."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    port = free_port()
    with (
        Application() as application,
        running_sidecar(
            folder, application.address, "-listen", f":{port}", until_granted=False
        ) as sidecar,
    ):
        context = tls_context(sidecar.people["carol"])
        for host in ("127.0.0.1", "::1"):
            plain = socket.create_connection((host, port), 20)
            with context.wrap_socket(plain, server_hostname="localhost") as connection:
                assert exchange(connection, http1_request()).status == 403


def test_an_application_that_is_not_there_is_503(folder: Path) -> None:
    """The callers hear it; the sidecar goes on, and the application may come back."""
    port = free_port()
    with running_sidecar(folder, f"127.0.0.1:{port}", until_granted=False) as sidecar:
        wait_until_ready(lambda: sidecar.status() == 503, what="503", process=sidecar.process)
        assert sidecar.status("carol") == 403
        call = http1_request(method="POST", headers=[("Content-Type", "application/grpc")])
        assert ask(sidecar.port, sidecar.people["alice"], call).header("grpc-status") == "14"
        with Application(port=port):
            wait_until_ready(lambda: sidecar.status() == 200, what="a grant")


def test_settings_that_it_makes_itself_are_named_and_passed_over(folder: Path) -> None:
    """A variable of `run` cannot have the service believe another header or peer."""
    with (
        Application() as application,
        running_sidecar(
            folder,
            application.address,
            NEXUS_AUTH_PROXY="nginx",
            NEXUS_AUTH_CERT_HEADER="X-Mine",
            NEXUS_AUTH_LISTEN_ADDR=f"127.0.0.1:{free_port()}",
        ) as sidecar,
    ):
        assert sidecar.status("carol") == 403
        for name in ("NEXUS_AUTH_PROXY", "NEXUS_AUTH_CERT_HEADER", "NEXUS_AUTH_LISTEN_ADDR"):
            assert f"{name} has no effect on sidecar" in sidecar.process.output


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=service_environment("http://127.0.0.1:1", NEXUS_AUTH_ADMIN_ADDR="off", **environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-output-dir", "nowhere"), "nexus-auth generate -ss58-address"),
        (("-listen", "unix:/tmp/a.sock"), "callers connect over TCP"),
        (("-listen", "here"), "-listen"),
        (("--app", "not an address"), "-app"),
        (("-app-keepalive", "soon"), "-app-keepalive"),
        (("-listen-addr", ":1"), "unrecognized arguments"),
        (("-policy-file", "/does/not/exist.toml"), "NEXUS_AUTH_POLICY_FILE"),
    ],
)
def test_wrong_usage_is_exit_code_2(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    """With what is wrong, and the remedy; whether this process or its child finds it."""
    require_program("envoy", PROGRAMS["envoy"])
    save_self_made(folder / "certs", hotkey=a_hotkey("miner"))
    done = _run(folder, "-listen", f"127.0.0.1:{free_port()}", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named(folder: Path) -> None:
    """Exit code 1, before anything is started: Envoy would share the port with another Envoy."""
    require_program("envoy", PROGRAMS["envoy"])
    save_self_made(folder / "certs", hotkey=a_hotkey("miner"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = _run(folder, "-listen", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_a_pair_that_does_not_belong_together_is_refused(folder: Path) -> None:
    """Said by name, before anything is started."""
    require_program("envoy", PROGRAMS["envoy"])
    save_self_made(folder / "certs", hotkey=a_hotkey("miner"))
    other = save_self_made(folder / "other", hotkey=a_hotkey("miner"))
    (folder / "certs" / "client.key").write_bytes(other.key_path.read_bytes())
    done = _run(folder, "-listen", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "ready" not in done.stderr


class SlowApplication:
    """Answers when it may."""

    def __init__(self, listener: socket.socket | None = None) -> None:
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            self.asked.set()
            self.may_answer.wait(60)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _is_envoy(pid: int) -> bool:
    return "--config-yaml" in command_line(pid)


def _der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def _tcp_ports_of(pids: set[int]) -> set[int]:
    """The ports on which some processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = link.readlink() if link.is_symlink() else Path()
            if str(target).startswith("socket:["):
                inodes.add(str(target)[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
