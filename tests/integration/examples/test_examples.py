"""The examples, as they are started by hand: uvicorn, a Pylon, real requests."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from nexus_auth.adapters.clock import utc_now
from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_nginx_header
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import Process, accepts_connections, free_port, wait_until_ready

ROOT = Path(__file__).parents[3]
ALICE = a_hotkey("alice")
NOW = utc_now()


def header_of(key: str) -> dict[str, str]:
    """What the proxy sends for a certificate that names alice around somebody's key."""
    certificate = a_certificate(
        hotkey=ALICE,
        key=a_key(key),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=1),
    )
    return {"X-Client-Cert": to_nginx_header(certificate).decode()}


@pytest.fixture(scope="module")
def pylon() -> Iterator[RunningPylon]:
    """A Pylon that knows alice."""
    with running_pylon() as running:
        running.store.set_certificate(ALICE, public_bytes(a_key("alice")))
        yield running


@contextmanager
def running(name: str, pylon: RunningPylon, tmp_path: Path) -> Iterator[httpx.Client]:
    """An example under uvicorn, as its own docstring says to start it."""
    port = free_port()
    process = Process(
        [
            *(sys.executable, "-m", "uvicorn", f"examples.{name}:app"),
            *("--port", str(port), "--no-proxy-headers"),
        ],
        log_file=tmp_path / f"{name}.log",
        directory=ROOT,
        environment={
            "NEXUS_PYLON_ENDPOINT": pylon.url,
            "NEXUS_PYLON_NETUID": str(pylon.netuid),
            "NEXUS_PYLON_OPEN_ACCESS_TOKEN": pylon.open_access_token,
        },
    )
    with process:
        wait_until_ready(lambda: accepts_connections(port), what=name, process=process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client


def test_starlette_example(pylon: RunningPylon, tmp_path: Path) -> None:
    """A registered caller is greeted by name, everybody else is refused."""
    with running("starlette_app", pylon, tmp_path) as client:
        granted = client.get("/", headers=header_of("alice"))
        assert (granted.status_code, granted.text) == (200, f"hello {ALICE}")
        for headers, reason in (
            ({}, "no-certificate"),
            ({"X-Hotkey": ALICE.address}, "no-certificate"),
            (header_of("bob"), "key-mismatch"),
        ):
            refused = client.get("/", headers=headers)
            assert refused.status_code == 403
            assert refused.headers["X-Nexus-Auth-Reason"] == reason


def test_certificate_behind_the_body_proves_nothing(pylon: RunningPylon, tmp_path: Path) -> None:
    """With httptools, uvicorn puts trailers among the headers; many proxies pass them on."""
    certificate = header_of("alice")["X-Client-Cert"]
    with (
        running("starlette_app", pylon, tmp_path) as client,
        socket.create_connection(("127.0.0.1", client.base_url.port or 0), 10) as connection,
        connection.makefile("rb") as answers,
    ):
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\nX-Client-Cert: " + certificate.encode() + b"\r\n\r\n"
        )
        assert answers.readline() == b"HTTP/1.1 403 Forbidden\r\n"


def test_fastapi_example(pylon: RunningPylon, tmp_path: Path) -> None:
    """The open route is open, the other one needs a hotkey."""
    with running("fastapi_app", pylon, tmp_path) as client:
        assert client.get("/health").json() == {"status": "well"}
        assert client.get("/work", headers=header_of("alice")).json() == {"caller": ALICE.address}
        for headers in ({}, {"X-Hotkey": ALICE.address}, header_of("bob")):
            assert client.get("/work", headers=headers).status_code == 403
