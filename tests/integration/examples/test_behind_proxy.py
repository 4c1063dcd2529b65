"""The examples behind a real nginx, which asks a real service, which asks a development Pylon."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from tests.builders import a_hotkey
from tests.integration.proxies.client import Answer, Identity, ask, http1_request
from tests.integration.proxies.stack import open_folder
from tests.integration.real import Process, accepts_connections, free_port, wait_until_ready
from tests.integration.tls.miner import Miner, running_miner

ROOT = Path(__file__).parents[3]
EXAMPLES = ("behind_proxy_fastapi", "behind_proxy_starlette", "behind_proxy_litestar")
NO_PROXY_HEADERS = "--no-proxy-headers"
FORGED = a_hotkey("dora").address


@contextmanager
def running(name: str, folder: Path, *options: str) -> Iterator[tuple[int, Process]]:
    """An example under uvicorn, with the options that its docstring gives or with others."""
    port = free_port()
    process = Process(
        [
            *(sys.executable, "-m", "uvicorn", f"examples.{name}:app"),
            *("--port", str(port), *options),
        ],
        log_file=folder / f"{name}.log",
        directory=ROOT,
    )
    with process:
        wait_until_ready(lambda: accepts_connections(port), what=name, process=process)
        yield port, process


@dataclass(frozen=True, slots=True)
class Running:
    """One example, and the miner that it is the application of."""

    name: str
    port: int
    miner: Miner

    def ask(self, request: bytes | None = None, *, identity: Identity | None = None) -> Answer:
        """One request through the proxy, of the validator unless another is named."""
        pair = CredentialsDirectory(self.miner.directory / "validator")
        own = Identity(pair.certificate_path, pair.key_path)
        return ask(self.miner.port, identity or own, request)


@pytest.fixture(scope="module", params=EXAMPLES)
def app(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Each example behind nginx, started as its docstring says."""
    with ExitStack() as opened:
        folder = opened.enter_context(open_folder())
        logs = tmp_path_factory.mktemp("logs")
        port, _ = opened.enter_context(running(request.param, logs, NO_PROXY_HEADERS))
        miner = opened.enter_context(running_miner(folder, app=f"127.0.0.1:{port}"))
        yield Running(request.param, port, miner)


def direct(
    port: int, *headers: tuple[str, str], source: str = "127.0.0.1", path: str = "/"
) -> tuple[int, str | None, bytes]:
    """One request past the proxy: status, reason and body."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=20, source_address=(source, 0)
    )
    try:
        connection.putrequest("GET", path)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.getheader("X-Nexus-Auth-Reason"), answer.read()
    finally:
        connection.close()


def test_caller_that_the_proxy_let_in_is_greeted(app: Running) -> None:
    """The hotkey is that of the certificate."""
    answer = app.ask()
    assert answer.status == 200
    assert json.loads(answer.body) == {"hello": app.miner.hotkey("validator").address}


@pytest.mark.parametrize("name", ["X-Hotkey", "x-hotkey", "X_Hotkey"])
def test_forged_hotkey_does_not_arrive(app: Running, name: str) -> None:
    """Neither beside a certificate nor without one."""
    request = http1_request(headers=[(name, FORGED)])
    answer = app.ask(request)
    assert json.loads(answer.body) == {"hello": app.miner.hotkey("validator").address}
    assert app.ask(request, identity=Identity()).status == 403


def test_trailer_names_no_caller(app: Running) -> None:
    """Through nginx it is dropped; past it, a chunked request is refused."""
    request = http1_request(body=b"a", chunks=True, trailers=[("X-Hotkey", FORGED)])
    through = app.ask(request)
    assert json.loads(through.body) == {"hello": app.miner.hotkey("validator").address}
    with socket.create_connection(("127.0.0.1", app.port), 20) as connection:
        connection.sendall(request)
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 Forbidden\r\n")


def test_peer_that_is_not_the_proxy_is_refused(app: Running) -> None:
    """With the right header from the wrong address."""
    status, reason, _ = direct(app.port, ("X-Hotkey", FORGED), source="127.0.0.2")
    assert (status, reason) == (403, "untrusted-peer")


def test_request_without_exactly_one_hotkey_is_refused(app: Running) -> None:
    """As a location that does not ask the service would send it."""
    assert direct(app.port)[:2] == (403, "no-certificate")
    assert direct(app.port, ("X-Hotkey", FORGED), ("X-Hotkey", FORGED))[0] == 403
    assert direct(app.port, ("X-Hotkey", "self"))[:2] == (403, "invalid-hotkey")


def test_any_program_at_the_address_of_the_proxy_is_believed(app: Running) -> None:
    """The pitfall itself: who may connect from there must be the proxy alone."""
    status, _, body = direct(app.port, ("X-Hotkey", FORGED))
    assert (status, json.loads(body)) == (200, {"hello": FORGED})


def test_openapi_document_names_the_scheme(app: Running) -> None:
    """FastAPI and Litestar serve one; Starlette has none."""
    paths = {
        "behind_proxy_fastapi": "/openapi.json",
        "behind_proxy_litestar": "/schema/openapi.json",
    }
    if app.name in paths:
        status, _, body = direct(app.port, path=paths[app.name])
        assert status == 200
        assert "nexus-auth" in json.loads(body)["components"]["securitySchemes"]


def test_server_that_takes_the_peer_from_a_header_is_refused_everything(tmp_path: Path) -> None:
    """The default of uvicorn, where nginx sends X-Forwarded-For; the log says what to change."""
    with running("behind_proxy_fastapi", tmp_path) as (port, process):
        as_nginx_sends = (("X-Hotkey", FORGED), ("X-Forwarded-For", "127.0.0.1"))
        assert direct(port, *as_nginx_sends)[:2] == (403, "untrusted-peer")
        assert NO_PROXY_HEADERS in process.output
