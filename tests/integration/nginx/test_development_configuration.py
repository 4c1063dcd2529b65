"""The nginx configuration that docker-compose.yml mounts, in a real nginx with mutual TLS.

The auth service is played by a small server that knows two certificates: what is tested
here is what nginx does with its answers.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.builders import a_certificate, a_hotkey, a_key, to_nginx_header, to_pem
from tests.integration.nginx.configurations import save_main_configuration
from tests.integration.real import (
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)

ROOT: Final = Path(__file__).resolve().parents[3]

FORGED: Final = {
    "X-Hotkey": "forged",
    "X_Hotkey": "forged",
    "X-Hotkey-Uid": "forged",
    "X-Hotkey-Validator": "forged",
    "X-Hotkey-Stake": "forged",
    "X-Nexus-Auth-Policy": "forged",
    "X-Client-Cert": "forged",
    "X-Client-Cert-Subject": "forged",
    "X-Client-Cert-Issuer": "forged",
    "Ssl-Client-Cert": "forged",
    "X-Forwarded-Client-Cert": "forged",
    "X-Forwarded-Tls-Client-Cert": "forged",
    "X-Amzn-Mtls-Clientcert": "forged",
    "Client-Cert": "forged",
    "X-Forwarded-For": "forged",
    "X-Real-IP": "forged",
    "Connection": "X-Hotkey",
}


@dataclass
class Recorder:
    """A small HTTP server that remembers the headers it was sent."""

    hotkeys: dict[str, str] = field(default_factory=dict)
    """As the auth service: the hotkey that goes with a certificate header."""
    answers_always: bool = False
    """As the application: 200 to everybody."""
    seen: list[dict[str, str]] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Listens until the block ends."""
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                recorder.seen.append({name.lower(): value for name, value in self.headers.items()})
                hotkey = recorder.hotkeys.get(self.headers.get("X-Client-Cert", ""))
                self.send_response(200 if hotkey or recorder.answers_always else 403)
                if hotkey:
                    self.send_header("X-Hotkey", hotkey)
                    self.send_header("X-Accel-Expires", "30")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET  # noqa: N815 - the name that http.server asks for.

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Says nothing; what matters is remembered."""

        server = ThreadingHTTPServer((self.host, self.port), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@dataclass
class House:
    """nginx with the auth service before it and the application behind it."""

    port: int
    folder: Path
    auth: Recorder
    application: Recorder

    def request(
        self,
        caller: str | None,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        target: str = "/some/path",
    ) -> int:
        """Makes one request over TLS as a caller, and gives the status."""
        context = ssl.create_default_context(cafile=self.folder / "nginx.crt")
        if caller is not None:
            context.load_cert_chain(self.folder / f"{caller}.pem")
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=context, timeout=10
        )
        try:
            connection.request(method, target, headers=headers or {})
            return connection.getresponse().status
        finally:
            connection.close()


def save_caller(folder: Path, name: str, *, key_name: str | None = None) -> str:
    """Writes certificate and key of a caller, and gives the header nginx makes of it."""
    private_key = a_key(key_name or name)
    now = datetime.now(tz=UTC).replace(microsecond=0)
    certificate = a_certificate(
        hotkey=a_hotkey(name),
        key=private_key,
        # nginx looks at the real clock.
        not_before=now - timedelta(hours=1),
        not_after=now + timedelta(hours=1),
    )
    key = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.pem").write_bytes(key + to_pem(certificate))
    return to_nginx_header(certificate).decode()


def save_configuration(
    folder: Path,
    *,
    port: int,
    auth: str,
    application: str,
    edit: Callable[[str], str],
) -> Path:
    """Writes the shipped configuration with this machine's addresses and folders in it."""
    text = (ROOT / "nginx/conf.d/default.conf").read_text(encoding="utf-8")
    for shipped, ours in (
        ("set $nexus_auth auth:8080;", f"set $nexus_auth {auth};"),
        ("server 127.0.0.1:8000 max_fails=0;", f"server {application} max_fails=0;"),
        ("listen 127.0.0.1:8000;", f"listen 127.0.0.1:{free_port()};"),
        ("listen 8443 ssl http2;", f"listen 127.0.0.1:{port} ssl http2;"),
        ("/etc/nginx/ssl/", f"{folder}/"),
        ("/var/cache/nginx/", f"{folder}/"),
        ("/dev/stdout", f"{folder}/access.log"),
    ):
        assert shipped in text
        text = text.replace(shipped, ours)
    (folder / "default.conf").write_text(edit(text), encoding="utf-8")
    return save_main_configuration(folder, f"include {folder}/default.conf;")


@contextmanager
def running_house(
    folder: Path,
    auth: Recorder,
    application: Recorder,
    *,
    edit: Callable[[str], str] = lambda text: text,
) -> Iterator[House]:
    """Starts nginx with the shipped configuration between two servers that run already.

    `edit` does to the configuration what its owner would do with an editor.
    """
    nginx = require_program("nginx", "apt-get install nginx")
    make_server_pair(folder)
    port = free_port()
    main = save_configuration(
        folder,
        port=port,
        auth=f"127.0.0.1:{auth.port}",
        application=f"127.0.0.1:{application.port}",
        edit=edit,
    )
    command: list[str | Path] = [nginx, "-c", main, "-e", folder / "error.log"]
    with Process(command, log_file=folder / "nginx.out") as process:
        wait_until_ready(lambda: accepts_connections(port), what="nginx", process=process)
        yield House(port, folder, auth, application)


def make_server_pair(folder: Path) -> None:
    """Writes nginx's own certificate and key, as the container does."""
    require_program("openssl", "apt-get install openssl")
    subprocess.run(
        ["sh", ROOT / "nginx/config_helpers/generate_cert.sh"],
        env={**os.environ, "SSL_DIR": str(folder)},
        capture_output=True,
        check=True,
        timeout=30,
    )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """The development set-up, running, with alice and bob registered and mallory not."""
    auth = Recorder(
        hotkeys={save_caller(tmp_path, name): a_hotkey(name).address for name in ("alice", "bob")}
    )
    save_caller(tmp_path, "mallory")
    application = Recorder(answers_always=True)
    with (
        auth.serving(),
        application.serving(),
        running_house(tmp_path, auth, application) as house,
    ):
        yield house


def test_auth_service_learns_of_the_request_from_nginx_alone(house: House) -> None:
    """Its log would otherwise hold a client's words as the proxy's."""
    names = ("X-Original-URI", "X-Original-Method", "X-Forwarded-Uri", "X-Forwarded-Method")
    forged = dict.fromkeys((*names, "X-Request-ID", "traceparent"), "/forged")
    assert house.request(None, headers=forged) == 403
    (seen,) = house.auth.seen
    assert "/forged" not in seen.values()
    assert (seen["x-original-uri"], seen["x-original-method"]) == ("/some/path", "GET")


def test_access_log_has_no_query(house: House) -> None:
    """Applications put tokens there."""
    log = house.folder / "access.log"
    assert house.request("alice", target="/some/path?token=s3cret") == 200
    wait_until_ready(lambda: "/some/path" in log.read_text("utf-8"), what="the line")
    assert '"GET /some/path HTTP/1.1" 200' in log.read_text("utf-8")
    assert "s3cret" not in log.read_text("utf-8")


def test_registered_caller_reaches_the_application_under_its_own_name(house: House) -> None:
    """Whatever a client writes into headers, the application sees only what was proven."""
    assert house.request("alice", headers=FORGED) == 200
    (seen,) = house.application.seen
    assert seen["x-hotkey"] == a_hotkey("alice").address
    assert seen["x-real-ip"] == seen["x-forwarded-for"] == "127.0.0.1"
    assert "forged" not in seen.values()


def test_auth_service_sees_nothing_that_the_client_wrote(house: House) -> None:
    """The certificate is the one of the TLS connection."""
    assert house.request("alice", method="POST", headers=FORGED) == 200
    (seen,) = house.auth.seen
    assert seen["x-client-cert"] in house.auth.hotkeys
    assert seen["x-original-uri"] == "/some/path"
    assert seen["x-original-method"] == "POST"
    assert "x-hotkey" not in seen
    assert "forged" not in seen.values()


@pytest.mark.parametrize("caller", [None, "mallory"])
def test_stranger_never_reaches_the_application(house: House, caller: str | None) -> None:
    """No certificate and an unknown one are refused, each time anew."""
    forged = {**FORGED, "X-Client-Cert": next(iter(house.auth.hotkeys))}
    assert house.request(caller, headers=forged) == 403
    assert house.request(caller, headers=forged) == 403
    assert house.application.seen == []
    assert len(house.auth.seen) == 2


def test_grant_is_reused_for_the_same_certificate_only(house: House) -> None:
    """The auth service is asked once for each certificate, and names never mix."""
    for caller in ("alice", "bob", "alice", "bob"):
        assert house.request(caller) == 200
    assert house.request("mallory") == 403
    alice, bob = a_hotkey("alice").address, a_hotkey("bob").address
    assert [seen["x-hotkey"] for seen in house.application.seen] == [alice, bob, alice, bob]
    assert len(house.auth.seen) == 3


def test_generated_server_key_is_private_and_kept(house: House) -> None:
    """Nobody else may read it, and a second start does not replace it."""
    key = house.folder / "nginx.key"
    before = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    make_server_pair(house.folder)
    assert key.read_bytes() == before


class NameServer:
    """A name server on loopback that gives every name one address, for a second."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            # RFC 1035, 4.1: the header, the question again, and one record of type A.
            question = query[12 : query.index(b"\0", 12) + 5]
            head = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
            record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(self.address)
            self._socket.sendto(head + question + record, client)


def test_names_are_looked_up_again(tmp_path: Path) -> None:
    """Auth service and application are found at their new address when they have moved."""
    alice = {save_caller(tmp_path, "alice"): a_hotkey("alice").address}
    auth, application = Recorder(hotkeys=alice), Recorder(answers_always=True)
    with ExitStack() as stack:
        names = stack.enter_context(NameServer("127.0.0.1"))
        for each in (auth, application):
            stack.enter_context(each.serving())
        moved = [
            Recorder(hotkeys=alice, port=auth.port, host="127.0.0.2"),
            Recorder(answers_always=True, port=application.port, host="127.0.0.2"),
        ]
        for each in moved:
            stack.enter_context(each.serving())

        def by_name(text: str) -> str:
            for shipped, ours in (
                ("resolver 127.0.0.11 valid=5s", f"resolver 127.0.0.1:{names.port} valid=1s"),
                (f"set $nexus_auth 127.0.0.1:{auth.port};", f"set $nexus_auth auth:{auth.port};"),
                ("default example;", f"default app:{application.port};"),
            ):
                assert shipped in text
                text = text.replace(shipped, ours)
            return text

        house = stack.enter_context(running_house(tmp_path, auth, application, edit=by_name))
        assert house.request("alice") == 200
        assert len(auth.seen) == len(application.seen) == 1
        names.address = "127.0.0.2"
        # A stranger, since alice's grant is in the cache.
        wait_until_ready(
            lambda: house.request(None) == 403 and bool(moved[0].seen), what="the moved service"
        )
        wait_until_ready(
            lambda: house.request("alice") == 200 and bool(moved[1].seen),
            what="the moved application",
        )


def test_reload_serves_a_renewed_pair(house: House) -> None:
    """As `docker compose exec nginx nginx -s reload` does; callers that pin the key need it."""
    for name in ("nginx.crt", "nginx.key"):
        (house.folder / name).unlink()
    make_server_pair(house.folder)

    def is_renewed() -> bool:
        # The client trusts the new pair alone.
        try:
            return house.request("alice") == 200
        except ssl.SSLCertVerificationError:
            return False

    assert not is_renewed()
    os.kill(int((house.folder / "nginx.pid").read_text("ascii")), signal.SIGHUP)
    wait_until_ready(is_renewed, what="the renewed pair")
