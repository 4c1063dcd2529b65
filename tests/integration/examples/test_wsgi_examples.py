"""The WSGI examples, as they are started by hand: gunicorn, behind nginx, with a Pylon.

The proxy is configured as docs/library.md says.
"""

from __future__ import annotations

import ast
import http.client
import re
import shlex
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.nginx.configurations import save_main_configuration
from tests.integration.nginx.test_development_configuration import make_server_pair, save_caller
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import (
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)

ROOT = Path(__file__).parents[3]
ALICE, BOB = a_hotkey("alice"), a_hotkey("bob")


@dataclass(frozen=True, slots=True)
class Site:
    """An example behind nginx; also reachable past it, as from its own machine."""

    port: int
    direct_port: int
    folder: Path

    def get(
        self, path: str, caller: str | None, headers: dict[str, str] | None = None
    ) -> tuple[int, str, str | None]:
        """The status, the body and the denial's code of one request over TLS."""
        context = ssl.create_default_context(cafile=self.folder / "nginx.crt")
        if caller is not None:
            context.load_cert_chain(self.folder / f"{caller}.pem")
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=context, timeout=10
        )
        try:
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            body = answer.read().decode()
            return answer.status, body, answer.headers.get("X-Nexus-Auth-Reason")
        finally:
            connection.close()


@pytest.fixture
def pylon() -> Iterator[RunningPylon]:
    """A Pylon that knows alice and bob."""
    with running_pylon() as running:
        for name in ("alice", "bob"):
            running.store.set_certificate(a_hotkey(name), public_bytes(a_key(name)))
        yield running


@contextmanager
def running(name: str, pylon: RunningPylon, folder: Path) -> Iterator[Site]:
    """An example, started by the command of its own docstring, behind the page's nginx."""
    nginx = require_program("nginx", "apt-get install nginx")
    port, direct_port = free_port(), free_port()
    source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    (command,) = re.findall(
        r"^gunicorn .*$", ast.get_docstring(ast.parse(source)) or "", re.MULTILINE
    )
    application = Process(
        [sys.executable, "-m", *shlex.split(command.replace(":8000", f":{direct_port}"))],
        log_file=folder / f"{name}.log",
        directory=ROOT,
        environment={
            "NEXUS_PYLON_ENDPOINT": pylon.url,
            "NEXUS_PYLON_NETUID": str(pylon.netuid),
            "NEXUS_PYLON_OPEN_ACCESS_TOKEN": pylon.open_access_token,
            "DJANGO_SECRET_KEY": "of-a-test",
        },
    )
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    (server,) = re.findall(r"```nginx\n(server \{.*?\n\})\n```", page, re.DOTALL)
    for written, meant in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/nginx/server.", f"{folder}/nginx."),
        ("127.0.0.1:8000", f"127.0.0.1:{direct_port}"),
    ):
        assert written in server
        server = server.replace(written, meant)
    make_server_pair(folder)
    for caller in ("alice", "bob", "mallory"):
        save_caller(folder, caller)
    main = save_main_configuration(folder, f"access_log off;\n{server}")
    proxy: list[str | Path] = [nginx, "-c", main, "-e", folder / "error.log"]
    with application, Process(proxy, log_file=folder / "nginx.out") as process:
        wait_until_ready(lambda: accepts_connections(port), what="nginx", process=process)
        wait_until_ready(lambda: accepts_connections(direct_port), what=name, process=application)
        yield Site(port, direct_port, folder)


def forgeries(folder: Path) -> list[dict[str, str]]:
    """What a client may send to be taken for bob."""
    certificate = save_caller(folder, "bob")
    return [
        {"X-Client-Cert": certificate},
        {"X_Client_Cert": certificate},
        {"X_Client-Cert": certificate, "x-client_cert": certificate},
        {"X-Hotkey": BOB.address, "X_Hotkey": BOB.address, "Remote-User": BOB.address},
        {"X-Forwarded-For": "127.0.0.1", "X-Client-Cert": certificate},
    ]


def test_flask_example(pylon: RunningPylon, tmp_path: Path) -> None:
    """A registered caller is greeted by name, everyone else is refused, whatever they send."""
    with running("flask_app", pylon, tmp_path) as site:
        assert site.get("/", "alice") == (200, f"hello {ALICE}", None)
        assert site.get("/", None)[::2] == (403, "no-certificate")
        assert site.get("/", "mallory")[::2] == (403, "not-registered")
        for headers in forgeries(tmp_path):
            assert site.get("/", "alice", headers)[1] == f"hello {ALICE}"
            assert site.get("/", "mallory", headers)[0] == 403
            assert site.get("/", None, headers)[::2] == (403, "no-certificate")
        pylon.store.set_certificate(ALICE, public_bytes(a_key("new")))
        save_caller(tmp_path, "alice", key_name="new")
        wait_until_ready(lambda: site.get("/", "alice")[0] == 200, what="the new key")
        save_caller(tmp_path, "alice")
        assert site.get("/", "alice")[::2] == (403, "key-mismatch")


def test_django_example(pylon: RunningPylon, tmp_path: Path) -> None:
    """The open view is open, the other one needs a hotkey, whatever is sent."""
    with running("django_app", pylon, tmp_path) as site:
        for caller in ("alice", "mallory", None):
            assert site.get("/health", caller)[:2] == (200, "well")
        assert site.get("/work", "alice")[:2] == (200, f"hello {ALICE}")
        for headers in ({}, *forgeries(tmp_path)):
            assert site.get("/work", "alice", headers)[1] == f"hello {ALICE}"
            for caller in ("mallory", None):
                assert site.get("/work", caller, headers)[:2] == (403, "who are you?")
