"""`nexus-auth pylon`: a development Pylon on its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nexus_auth.entrypoints import exit_codes

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable, Generator, Mapping

    from nexus_auth.adapters.addresses import TcpAddress
    from nexus_auth.adapters.devnet import DevnetStore, IdentityRecord, RequestRecord
    from nexus_auth.domain.hotkey import Hotkey

T = TypeVar("T")

TOKEN_VARIABLE: Final = "NEXUS_PYLON_DEV_TOKEN"  # noqa: S105 - the name of a variable
OPEN_ACCESS_VARIABLE: Final = "NEXUS_PYLON_DEV_OPEN_ACCESS_TOKEN"
DEFAULT_IDENTITY: Final = "dev"
_IN_MEMORY: Final = ":memory:"
_MAX_TOKEN_FILE_BYTES: Final = 16 * 1024
_GRACE_SECONDS: Final = 5
"""How long requests under way may take after SIGTERM."""

_DESCRIPTION: Final = """\
Runs a development Pylon: the same HTTP API, with a file in the place of the
chain. FOR DEVELOPMENT ONLY: nothing is checked on any chain, and whoever has a
token may publish keys.

Without any identity it makes one, "dev", with a hotkey of its own that is
registered on the subnet. Its connection settings are printed as lines for a
.env file; tokens are in files that only you can read.
"""
_EPILOG: Final = f"""\
A token never comes from the command line, where every user of the machine could
read it:
  {TOKEN_VARIABLE}              for the identities named here
  {OPEN_ACCESS_VARIABLE}  for the open-access API; once set it stays
Where there is neither a variable nor --token-file, a token is made and kept in
FILE.NAME.token.

NEURON is a hotkey, followed by what is to be set: stake=N alpha=N tao=N (stake
is the total), permit=yes|no active=yes|no uid=N coldkey=ADDRESS axon=IP:PORT.

examples:
  nexus-auth pylon --data pylon.sqlite > .env
  nexus-auth pylon --data pylon.sqlite --identity validator=5F... --netuid 12
  nexus-auth pylon --data pylon.sqlite --seed-only --neuron 5C...,permit=yes
      (changes a neuron while another process serves the same file)

exit codes: 0 stopped by a signal, or seeded · 1 the address is taken ·
            2 wrong usage or unusable data file
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = parser.add_argument
    add(
        "-data",
        "--data",
        required=True,
        metavar="FILE",
        help="data file, made if missing; :memory: forgets all",
    )
    add(
        "-listen",
        "--listen",
        default="127.0.0.1:8000",
        metavar="ADDR",
        help="host:port to listen on; port 0 takes a free one (default: %(default)s)",
    )
    add(
        "-insecure-listen-publicly",
        "--insecure-listen-publicly",
        action="store_true",
        help="allow an address that other machines can reach (for container networks)",
    )
    add("-netuid", "--netuid", metavar="N", help="subnet of what is named here (default: 1)")
    add(
        "-identity",
        "--identity",
        action="append",
        default=[],
        metavar="NAME=HOTKEY",
        help="add or replace an identity and register its hotkey; may be repeated",
    )
    add(
        "-token-file",
        "--token-file",
        metavar="FILE",
        help="token of the identities named here; made if missing",
    )
    add(
        "-neuron",
        "--neuron",
        action="append",
        default=[],
        metavar="NEURON",
        help="register or change a neuron, such as 5C...,stake=1500,permit=yes; may be repeated",
    )
    add(
        "-certificate",
        "--certificate",
        action="append",
        default=[],
        metavar="HOTKEY=HEX",
        help="publish an Ed25519 public key for a hotkey; may be repeated",
    )
    add(
        "-publish-seconds",
        "--publish-seconds",
        default="0",
        metavar="SECONDS",
        help="how long making a key pair takes, as a chain would (default: %(default)s)",
    )
    add(
        "-seed-only",
        "--seed-only",
        action="store_true",
        help="write what is named here into the data file and exit",
    )
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Seeds the data file and serves it until a signal comes."""
    seed = _parse_seed(args)
    address = _parse_address(args)
    publish_seconds = _parse_publish_seconds(args.publish_seconds)
    with contextlib.ExitStack() as stack:
        listener = None
        if not args.seed_only:
            # First of all: a start that cannot listen changes nothing.
            listener = stack.enter_context(contextlib.closing(_listen(address)))
        store = stack.enter_context(_open(args.data))
        connections = seed.apply(store)
        if listener is None:
            return exit_codes.DONE
        port = listener.getsockname()[1]
        endpoint = f"http://{_called_host(address)}:{port}"
        _serve(
            store,
            listener,
            publish_seconds=publish_seconds,
            announce=lambda: _print_connections(endpoint, connections),
        )
    return exit_codes.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connection:
    """One identity, and where its token is; None where nobody told this process."""

    identity: IdentityRecord
    token_place: Path | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seed:
    """What the command line wants in the store, parsed and checked before anything is touched."""

    data: str
    netuid: int | None
    identities: Mapping[str, Hotkey]
    neurons: tuple[tuple[Hotkey, dict[str, Any]], ...]
    certificates: Mapping[Hotkey, bytes]
    token_file: Path | None

    def apply(self, store: DevnetStore) -> list[_Connection]:
        """Writes it, and says how each identity is reached, the ones named here first."""
        from nexus_auth.adapters.devnet import DEFAULT_NETUID
        from nexus_auth.domain.hotkey import Hotkey

        known = {each.name: each for each in store.identities()}
        wanted = dict(self.identities)
        if not wanted and (not known or DEFAULT_IDENTITY in known):
            here = known.get(DEFAULT_IDENTITY)
            wanted[DEFAULT_IDENTITY] = here.hotkey if here else Hotkey(secrets.token_bytes(32))
        connections = [
            self._ensure(store, name, hotkey, known.get(name)) for name, hotkey in wanted.items()
        ]
        netuid = self.netuid
        if netuid is None:
            own = [each.identity.netuid for each in connections] or list(store.subnets())
            netuid = own[0] if own else DEFAULT_NETUID
        for hotkey, changes in self.neurons:
            try:
                store.set_neuron(hotkey, netuid=netuid, **changes)
            except ValueError as exc:
                raise _wrong("--neuron", f"{hotkey}: {exc}") from None
        if self.certificates:
            store.set_certificates(self.certificates, netuid=netuid)
        open_access = os.environ.get(OPEN_ACCESS_VARIABLE)
        if open_access:
            try:
                store.set_open_access_token(open_access)
            except ValueError as exc:
                raise _wrong(OPEN_ACCESS_VARIABLE, str(exc)) from None
        others = [each for each in store.identities() if each.name not in wanted]
        return connections + [_Connection(identity=each, token_place=None) for each in others]

    def _ensure(
        self, store: DevnetStore, name: str, hotkey: Hotkey, known: IdentityRecord | None
    ) -> _Connection:
        from nexus_auth.adapters.devnet import DEFAULT_NETUID, IdentityRecord

        netuid = self.netuid
        if netuid is None:
            netuid = known.netuid if known else DEFAULT_NETUID
        identity = IdentityRecord(name=name, netuid=netuid, hotkey=hotkey)
        token, place = self._token_of(name)
        if known != identity or not store.is_identity_token(name, token):
            try:
                # A hotkey that was deregistered on purpose stays so when Pylon starts again.
                registered = known != identity
                store.add_identity(
                    name, hotkey=hotkey, token=token, netuid=netuid, registered=registered
                )
            except ValueError as exc:
                raise _wrong(str(place), str(exc)) from None
        return _Connection(identity=identity, token_place=place)

    def _token_of(self, name: str) -> tuple[str, Path | str]:
        from_environment = os.environ.get(TOKEN_VARIABLE)
        if from_environment:
            return from_environment, TOKEN_VARIABLE
        if self.token_file is not None:
            path = self.token_file
        elif self.data == _IN_MEMORY:
            raise _wrong("--token-file", f"needed with --data {_IN_MEMORY}, or {TOKEN_VARIABLE}")
        else:
            path = Path(f"{self.data}.{name}.token")
        path = path.absolute()
        try:
            return _load_or_make_token(path), path
        except (OSError, UnicodeDecodeError) as exc:
            problem = exc.strerror if isinstance(exc, OSError) else "not ASCII text"
            raise _wrong("--token-file", f"{str(path)!r}: {problem}") from None


def _wrong(setting: str, problem: str) -> Exception:
    from nexus_auth.domain.errors import ConfigurationError

    return ConfigurationError(setting=setting, problem=problem)


def _parse_seed(args: argparse.Namespace) -> _Seed:
    from nexus_auth.adapters.devnet.records import MAX_NETUID

    netuid = None
    if args.netuid is not None:
        netuid = _checked("--netuid", args.netuid, _whole_number)
        if netuid > MAX_NETUID:
            raise _wrong("--netuid", f"expected a whole number from 0 to {MAX_NETUID}")
    identities = [_checked("--identity", text, _parse_identity) for text in args.identity]
    neurons = [_checked("--neuron", text, _parse_neuron) for text in args.neuron]
    certificates = [
        _checked("--certificate", text, _parse_certificate) for text in args.certificate
    ]
    return _Seed(
        data=args.data,
        netuid=netuid,
        identities=dict(identities),
        neurons=tuple(neurons),
        certificates=dict(certificates),
        token_file=Path(args.token_file) if args.token_file else None,
    )


def _checked(flag: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as exc:
        raise _wrong(flag, f"{text!r}: {exc}") from None


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("expected a whole number")
    return int(text)


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an amount") from None


def _yes_or_no(text: str) -> bool:
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.lower() not in answers:
        raise ValueError(f"{text!r} is neither yes nor no")
    return answers[text.lower()]


def _axon(text: str) -> object:
    from nexus_auth.adapters.devnet import Axon

    host, _, port = text.rpartition(":")
    return Axon(ip=host.strip("[]"), port=_whole_number(port))


def _hotkey(text: str) -> Hotkey:
    from nexus_auth.domain.hotkey import Hotkey

    return Hotkey.parse(text)


def _parse_identity(text: str) -> tuple[str, Hotkey]:
    name, equals, address = text.partition("=")
    # The name becomes part of a path and of a file's name.
    plain = name.replace("-", "").replace("_", "")
    if not equals or not (plain.isascii() and plain.isalnum()):
        raise ValueError("expected NAME=HOTKEY, the name of letters, digits, - and _")
    return name, _hotkey(address)


def _parse_certificate(text: str) -> tuple[Hotkey, bytes]:
    from nexus_auth.adapters.devnet.store import PUBLIC_KEY_BYTES

    address, _, digits = text.partition("=")
    try:
        key = bytes.fromhex(digits.removeprefix("0x"))
    except ValueError:
        key = b""
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"expected HOTKEY=HEX, the key as {2 * PUBLIC_KEY_BYTES} hex digits")
    return _hotkey(address), key


def _parse_neuron(text: str) -> tuple[Hotkey, dict[str, Any]]:
    parsers: dict[str, tuple[str, Callable[[str], object]]] = {
        "stake": ("total", _amount),
        "alpha": ("alpha", _amount),
        "tao": ("tao", _amount),
        "permit": ("validator_permit", _yes_or_no),
        "active": ("active", _yes_or_no),
        "uid": ("uid", _whole_number),
        "coldkey": ("coldkey", _hotkey),
        "axon": ("axon", _axon),
    }
    address, *parts = text.split(",")
    changes: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in parsers:
            raise ValueError(f"{name!r} is none of {', '.join(parsers)}")
        attribute, parse = parsers[name]
        changes[attribute] = parse(value)
    return _hotkey(address), changes


def _parse_publish_seconds(text: str) -> float:
    seconds = _checked("--publish-seconds", text, _amount)
    if not 0 <= seconds < float("inf"):
        raise _wrong("--publish-seconds", "expected seconds, not below 0")
    return seconds


def _parse_address(args: argparse.Namespace) -> TcpAddress:
    from nexus_auth.adapters.addresses import TcpAddress
    from nexus_auth.entrypoints.addresses import parse_listen_address

    address = _checked("--listen", args.listen, parse_listen_address)
    if not isinstance(address, TcpAddress):
        raise _wrong("--listen", "the development Pylon needs host:port")
    if not address.is_loopback and not args.insecure_listen_publicly:
        problem = (
            f"{args.listen!r} can be reached from other machines, which a development Pylon must "
            "not be; use 127.0.0.1, or --insecure-listen-publicly inside a container network"
        )
        raise _wrong("--listen", problem)
    return address


def _listen(address: TcpAddress) -> socket.socket:
    from nexus_auth.entrypoints.addresses import CannotListen, bind

    try:
        return bind(address)
    except OSError as exc:
        raise CannotListen(address, "--listen", exc) from exc


def _open(path: str) -> DevnetStore:
    from nexus_auth.adapters.devnet import DevnetStore, DevnetStoreUnusable

    try:
        return DevnetStore.open(path)
    except DevnetStoreUnusable as exc:
        raise _wrong("--data", str(exc)) from exc


def _load_or_make_token(path: Path) -> str:
    """Reads a token file, or makes one that only its owner can read: whole or not at all."""
    from nexus_auth.adapters.devnet.tokens import new_token

    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        return file.read(_MAX_TOKEN_FILE_BYTES).decode("ascii").strip()
    token = new_token()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return token


def _called_host(address: TcpAddress) -> str:
    if not address.host or address.host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{address.host}]" if ":" in address.host else address.host


def _print_connections(endpoint: str, connections: list[_Connection]) -> None:
    """Prints lines for a .env file: settings for the first identity, remarks for the others."""
    lines = ["# Development Pylon. Nothing here is checked on any chain: never for production."]
    lines.append(f"NEXUS_PYLON_ENDPOINT={endpoint}")
    for position, connection in enumerate(connections):
        identity, place = connection.identity, connection.token_place
        settings = [
            f"NEXUS_PYLON_NETUID={identity.netuid}",
            f"NEXUS_PYLON_IDENTITY_NAME={shlex.quote(identity.name)}",
        ]
        if isinstance(place, Path):
            settings.append(f"NEXUS_PYLON_IDENTITY_TOKEN_FILE={shlex.quote(str(place))}")
        elif place is not None:
            settings.append(f"# its token is the value of {place}")
        else:
            settings.append("# its token is the one that it was given before")
        lines += settings if position == 0 else [f"# {line}" for line in settings]
        lines.append(f"# hotkey of {identity.name}: {identity.hotkey}")
    print("\n".join(lines), flush=True)


def _serve(
    store: DevnetStore,
    listener: socket.socket,
    *,
    publish_seconds: float,
    announce: Callable[[], None],
) -> None:
    import signal

    import structlog
    import uvicorn

    from nexus_auth.adapters.devnet import build_devnet_app

    _configure_logs()
    logger = structlog.get_logger(__name__)

    def log_request(record: RequestRecord) -> None:
        logger.info(
            "pylon_request",
            method=record.method,
            path=record.path,
            status=record.status,
            duration_ms=round(record.seconds * 1000, 1),
        )

    class Server(uvicorn.Server):
        """Leaves the signals to us: uvicorn would die of one after a good end."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    app = build_devnet_app(store, publish_seconds=publish_seconds, request_log=log_request)
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = Server(config)
    # Before anybody is told that it runs: whoever knows may stop it at once.
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, server.handle_exit)
    announce()
    logger.warning(
        "development_pylon_started",
        note="for development only: nothing is checked on any chain",
        store=repr(store),
        port=listener.getsockname()[1],
    )
    server.run(sockets=[listener])
    logger.info("development_pylon_stopped")


def _configure_logs() -> None:
    """Log lines go to stderr, since stdout is for the settings; values are escaped by repr."""
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
