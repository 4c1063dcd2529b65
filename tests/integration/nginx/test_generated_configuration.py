"""What `nexus-auth proxy-config nginx` prints, in places of its own: renewal, limits, includes."""

from __future__ import annotations

import os
import re
import shlex
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.cli import main
from tests.builders import a_hotkey
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import Identity, ask, connect, http1_request, tls_context
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    started_proxy,
)
from tests.integration.proxies.surroundings import PatientServer
from tests.integration.real import (
    REQUIRE_REAL,
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)

STOCK: Final = Path("/etc/nginx/nginx.conf")
"""The main configuration of Debian's package."""


@pytest.fixture
def auth() -> Iterator[AuthService]:
    """An auth service that knows alice."""
    with AuthService("nginx", 0, reuse_seconds=60, knows=("alice",)) as service:
        yield service


def served(port: int) -> bytes:
    """The certificate that a listener shows; a refused connection is an error."""
    with connect(port, tls_context(Identity())) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_the_command_in_the_head_has_nginx_serve_a_renewed_pair(auth: AuthService) -> None:
    """Run as it stands there, and no connection is refused meanwhile."""
    require_program("pkill", "apt-get install procps")
    with open_folder() as folder, Application() as application:
        pair = make_server_certificate(folder)
        with started_proxy(
            "nginx",
            folder,
            app=application.address,
            auth=f"127.0.0.1:{auth.port}",
            certificate=pair,
        ) as nginx:
            text = (nginx.directory / "nginx.conf").read_text()
            found = re.search(r'-after-change "([^"\n]+)"', text)
            assert found is not None
            before = served(nginx.port)
            make_server_certificate(folder)
            assert served(nginx.port) == before
            subprocess.run(shlex.split(found[1]), check=True, timeout=30)
            renewed = ssl.PEM_cert_to_DER_cert(pair[0].read_text())
            wait_until_ready(lambda: served(nginx.port) == renewed, what="the renewed pair")
            assert ask(nginx.port, make_people(folder)["alice"]).status == 200


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden"])
def test_what_is_not_in_the_cache_is_asked_over_one_connection(status: str) -> None:
    """A flood of denials, or grants that may not be reused, costs no connection for each."""
    hotkey = f"X-Hotkey: {a_hotkey('alice').address}"
    with (
        open_folder() as folder,
        PatientServer(hotkey, status=status) as service,
        Application() as application,
        started_proxy(
            "nginx",
            folder,
            app=application.address,
            auth=service.address,
            certificate=make_server_certificate(folder),
            edit=lambda text: text.replace("worker_processes auto;", "worker_processes 1;"),
        ) as nginx,
    ):
        alice = make_people(folder)["alice"]
        assert [ask(nginx.port, alice).status for _ in range(5)] == [int(status[:3])] * 5
        assert service.connections() == 1


def test_the_service_learns_of_long_and_odd_requests_from_nginx_alone(auth: AuthService) -> None:
    """Whatever a client puts into a URI, the question stays one question."""
    with open_folder() as folder, Application() as application:
        people = make_people(folder)
        with started_proxy(
            "nginx",
            folder,
            app=application.address,
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
        ) as nginx:
            for target in (
                "/a?token=s3cret",
                "/" + "a" * 30_000,
                "/%0d%0aX-Client-Cert:%20x",
                "/\xff\xe9",
            ):
                request = http1_request(method="PUT", target=target)
                assert ask(nginx.port, people["carol"], request).status == 403
                asked = auth.listener.facts[-1]
                assert (asked["method"], asked["code"]) == ("PUT", "not-registered")
                assert str(asked["uri"])[:2] == target[:2].replace("/\xff", "/\\")
                assert "s3cret" not in str(asked)


def test_a_stranger_uses_up_no_allowance_but_its_own(auth: AuthService) -> None:
    """Certificates are counted apart, and those without one are not counted at all."""
    with open_folder() as folder, Application() as application:
        people = make_people(folder)
        with started_proxy(
            "nginx",
            folder,
            app=application.address,
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
            arguments=("-rate", "2/m"),
        ) as nginx:

            def statuses(who: str) -> list[int]:
                return [ask(nginx.port, people[who]).status for _ in range(4)]

            # The same hotkey, another key: another certificate.
            assert statuses("mallory as alice") == [403, 403, 429, 429]
            assert statuses("carol") == [403, 403, 429, 429]
            assert statuses("nobody") == [403] * 4
            assert statuses("alice") == [200, 200, 429, 429]


def stock_configuration(folder: Path) -> str:
    """Debian's own main configuration, with its folders in another place."""
    text = STOCK.read_text("utf-8") if STOCK.is_file() else ""
    if "include /etc/nginx/sites-enabled/*;" not in text:
        problem = f"{STOCK} is not that of Debian's package: apt-get install nginx-common"
        if REQUIRE_REAL:
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)
    for name in ("conf.d", "sites-enabled", "log"):
        (folder / name).mkdir()
    text = re.sub(r"/etc/nginx/(conf\.d|sites-enabled)", rf"{folder}/\1", text)
    text = text.replace("/var/log/nginx", f"{folder}/log").replace(
        "/run/nginx.pid", f"{folder}/pid"
    )
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {", f"http {{ {temporary}", 1)
    return text if os.geteuid() == 0 else text.replace("user www-data;", "")


def test_a_stock_nginx_includes_what_is_printed_for_one(
    auth: AuthService, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own check passes, a caller gets through, and the access log says who it was."""
    nginx = require_program("nginx", PROGRAMS["nginx"])
    with open_folder() as folder, Application() as application:
        people, (certificate, key) = make_people(folder), make_server_certificate(folder)
        main_file, port = folder / "nginx.conf", free_port()
        main_file.write_text(stock_configuration(folder))
        state = folder / "state"
        state.mkdir()
        site = ["proxy-config", "nginx", "-site", "-app", application.address]
        site += ["-auth", f"127.0.0.1:{auth.port}", "-state-dir", str(state), "-rate", "100/s"]
        assert main([*site, "-check", "-output", str(folder / "conf.d")]) == exit_codes.DONE
        assert "check passed" in capsys.readouterr().err
        server = folder / "conf.d" / "nexus-auth-server.inc"
        log = state / "nexus-auth.log"
        (folder / "public").mkdir()
        (folder / "public" / "file").write_text("a file")
        (folder / "sites-enabled" / "miner").write_text(
            f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificate};\n"
            f"ssl_certificate_key {key}; include {server};\n"
            f"root {folder}/public; location = /file {{ }} }}\n"
        )
        command: list[str | Path] = [nginx, "-e", "stderr", "-c", main_file]
        subprocess.run([*command, "-t"], check=True, timeout=30)
        with Process([*command, "-g", "daemon off;"], log_file=folder / "out") as process:
            wait_until_ready(lambda: accepts_connections(port), what="nginx", process=process)
            secret = http1_request(target="/a?token=s3cret")
            assert ask(port, people["alice"], secret).status == 200
            for request in (http1_request(), http1_request(target="/file")):
                assert ask(port, people["nobody"], request).status == 403
            # What the block has besides asks too.
            file = ask(port, people["alice"], http1_request(target="/file"))
            assert (file.status, file.body) == (200, b"a file")
            wait_until_ready(lambda: log.read_text().count("\n") == 4, what="the access log")
        lines = log.read_text().splitlines()
        hotkey, request_id = a_hotkey("alice").address, auth.listener.facts[0]["request_id"]
        assert re.search(rf'"GET /a HTTP/1\.1" 200 \d+ {hotkey} {request_id}$', lines[0])
        assert re.search(r'"GET / HTTP/1\.1" 403 \d+ - [0-9a-f]{32}$', lines[1])
        assert "s3cret" not in log.read_text()
        assert application.records[0].hotkeys == [hotkey]
