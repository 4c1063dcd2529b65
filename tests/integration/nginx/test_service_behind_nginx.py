"""The service behind a real nginx with real mutual TLS, configured in two ways.

`simple` does what the Go original's configuration does: a new HTTP/1.0 connection for each
subrequest, the client's own headers passed on, nothing kept. `shipped` is the configuration of
this repository, which keeps connections and grants.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.nginx.configurations import save_main_configuration
from tests.integration.nginx.test_development_configuration import (
    FORGED,
    House,
    Recorder,
    make_server_pair,
    running_house,
    save_caller,
)
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import (
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)
from tests.integration.service.running import RunningService, register, running_service

ALICE = a_hotkey("alice")


def save_simple_configuration(folder: Path, *, port: int, auth: int, application: int) -> Path:
    """Writes a configuration without anything that is not needed."""
    return save_main_configuration(
        folder,
        f"""
        access_log off;
        server {{
            listen 127.0.0.1:{port} ssl;
            ssl_certificate {folder}/nginx.crt;
            ssl_certificate_key {folder}/nginx.key;
            ssl_verify_client optional_no_ca;
            location / {{
                auth_request /auth;
                auth_request_set $hotkey $upstream_http_x_hotkey;
                proxy_pass http://127.0.0.1:{application};
                proxy_set_header X-Hotkey $hotkey;
            }}
            location = /auth {{
                internal;
                proxy_pass http://127.0.0.1:{auth};
                proxy_pass_request_body off;
                proxy_set_header Content-Length "";
                proxy_set_header X-Original-URI $request_uri;
                proxy_set_header X-Original-Method $request_method;
                proxy_set_header X-Client-Cert $ssl_client_escaped_cert;
            }}
        }}
        """,
    )


@pytest.fixture
def pylon() -> Iterator[RunningPylon]:
    """A development Pylon that knows alice and bob."""
    with running_pylon() as pylon:
        register(pylon, "alice", "bob")
        yield pylon


@pytest.fixture
def service(pylon: RunningPylon, tmp_path: Path) -> Iterator[RunningService]:
    """A service whose grants are worth a second."""
    folder = tmp_path / "service"
    folder.mkdir()
    with running_service(folder, pylon.url, NEXUS_AUTH_REUSE_SECONDS="1") as service:
        yield service


@pytest.fixture(params=["simple", "shipped"])
def house(
    request: pytest.FixtureRequest, service: RunningService, tmp_path: Path
) -> Iterator[House]:
    """Nginx in front of the service and of an application."""
    for name in ("alice", "bob", "mallory"):
        save_caller(tmp_path, name)
    auth, application = Recorder(port=service.port), Recorder(answers_always=True)
    with application.serving():
        if request.param == "shipped":
            with running_house(tmp_path, auth, application) as house:
                yield house
            return
        nginx, port = require_program("nginx", "apt-get install nginx"), free_port()
        make_server_pair(tmp_path)
        main = save_simple_configuration(
            tmp_path, port=port, auth=service.port, application=application.port
        )
        command: list[str | Path] = [nginx, "-c", main, "-e", tmp_path / "error.log"]
        with Process(command, log_file=tmp_path / "nginx.out") as process:
            wait_until_ready(lambda: accepts_connections(port), what="nginx", process=process)
            yield House(port, tmp_path, auth, application)


def test_registered_callers_reach_the_application_under_their_names(house: House) -> None:
    """Again and again, and never under another's."""
    callers = ["alice", "bob", "alice", "alice", "bob"]
    for caller in callers:
        assert house.request(caller) == 200
    seen = [request["x-hotkey"] for request in house.application.seen]
    assert seen == [a_hotkey(caller).address for caller in callers]


def test_strangers_do_not(house: House, service: RunningService) -> None:
    """No certificate, an unknown hotkey; whatever they write into their headers."""
    forged = {name: value for name, value in FORGED.items() if name != "Connection"}
    for caller in (None, "mallory"):
        assert house.request(caller) == 403
        assert house.request(caller, headers=forged) == 403
    assert house.application.seen == []
    assert {line["code"] for line in service.lines("decision")} == {
        "no-certificate",
        "not-registered",
    }
    assert {line["uri"] for line in service.lines("decision")} == {"/some/path"}


def test_rotated_key_is_refused_everywhere_soon(house: House, pylon: RunningPylon) -> None:
    """The old certificate stops within the reuse and one refresh after somebody shows the new."""
    assert house.request("alice") == 200
    pylon.store.set_certificate(ALICE, public_bytes(a_key("new")))
    save_caller(house.folder, "alice", key_name="new")
    wait_until_ready(lambda: house.request("alice") == 200, what="the new key")
    save_caller(house.folder, "alice")
    wait_until_ready(lambda: house.request("alice") == 403, what="the end of the old key")


def test_methods_and_bodies_of_clients_play_no_part(house: House) -> None:
    """The subrequest is a GET without a body."""
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        assert house.request("mallory", method=method) == 403
    assert house.request("alice", method="POST", headers={"Content-Length": "0"}) == 200
