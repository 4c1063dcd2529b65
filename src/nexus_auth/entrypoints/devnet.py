"""Seeds a development Pylon and serves it: the use case behind `nexus-auth pylon`."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import Scope

from nexus_auth.adapters.addresses import MAX_PORT, CannotListen, TcpAddress, bind
from nexus_auth.adapters.devnet.app import build_devnet_app
from nexus_auth.adapters.devnet.records import DEFAULT_NETUID, Axon, IdentityRecord
from nexus_auth.adapters.devnet.store import (
    IN_MEMORY,
    PUBLIC_KEY_BYTES,
    DevnetStore,
    DevnetStoreUnusable,
)
from nexus_auth.adapters.files import load_bytes, replace_file
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.entrypoints.arguments import whole_number
from nexus_auth.entrypoints.process import Server
from nexus_auth.entrypoints.signals import STOPPING

_logger = structlog.get_logger(__name__)

TOKEN_VARIABLE: Final = "NEXUS_PYLON_DEV_TOKEN"  # noqa: S105 - the name of a variable
OPEN_ACCESS_VARIABLE: Final = "NEXUS_PYLON_DEV_OPEN_ACCESS_TOKEN"
DEFAULT_IDENTITY: Final = "dev"

_TOKEN_BYTES: Final = 32
_MAX_TOKEN_FILE_BYTES: Final = 16 * 1024
_GRACE_SECONDS: Final = 5
"""How long requests under way may take after SIGTERM."""

Connection = tuple[IdentityRecord, Path | str | None]
"""An identity, and the file or the variable that its token is in; None where that is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What the command line wants in the store, parsed and checked before anything is touched.

    Attributes:
        netuid: The subnet of what is named here; None leaves each identity where it is.
        identities: By name.
        neurons: Each hotkey with what is to be set.
        certificates: Public keys by hotkey.
        token_file: Where the token of the identities is; None gives each a file of its own,
            beside the data file.
    """

    netuid: int | None
    identities: Mapping[str, Hotkey]
    neurons: Sequence[tuple[Hotkey, Mapping[str, Any]]]
    certificates: Mapping[Hotkey, bytes]
    token_file: Path | None

    def apply(self, store: DevnetStore) -> list[Connection]:
        """Writes it, and returns how each identity is reached, the ones named here first.

        Raises:
            ConfigurationError: If the store does not take a value, or a token cannot be had.
        """
        known = {each.name: each for each in store.identities()}
        wanted = dict(self.identities)
        if not wanted and (not known or DEFAULT_IDENTITY in known):
            here = known.get(DEFAULT_IDENTITY)
            wanted[DEFAULT_IDENTITY] = here.hotkey if here else Hotkey(secrets.token_bytes(32))
        connections = [
            self._ensure(store, name, hotkey, known.get(name)) for name, hotkey in wanted.items()
        ]
        netuids = [self.netuid, *(each.netuid for each, _ in connections), *store.subnets()]
        netuid = next((each for each in netuids if each is not None), DEFAULT_NETUID)
        for hotkey, changes in self.neurons:
            with _naming("--neuron", f"{hotkey}: "):
                store.set_neuron(hotkey, netuid=netuid, **changes)
        for hotkey, key in self.certificates.items():
            store.set_certificate(hotkey, key, netuid=netuid)
        open_access = os.environ.get(OPEN_ACCESS_VARIABLE)
        if open_access:
            with _naming(OPEN_ACCESS_VARIABLE):
                store.set_open_access_token(open_access)
        others = [each for each in store.identities() if each.name not in wanted]
        return connections + [(each, None) for each in others]

    def _ensure(
        self, store: DevnetStore, name: str, hotkey: Hotkey, known: IdentityRecord | None
    ) -> Connection:
        netuid = self.netuid
        if netuid is None:
            netuid = known.netuid if known else DEFAULT_NETUID
        with _naming("--identity"):
            identity = IdentityRecord(name=name, netuid=netuid, hotkey=hotkey)
        token, place = self._token_of(name, store)
        if known != identity or not store.is_identity_token(name, token):
            with _naming(str(place)):
                # A hotkey that was deregistered on purpose stays so when Pylon starts again.
                registered = known != identity
                store.add_identity(
                    name, hotkey=hotkey, token=token, netuid=netuid, registered=registered
                )
        return identity, place

    def _token_of(self, name: str, store: DevnetStore) -> tuple[str, Path | str]:
        from_environment = os.environ.get(TOKEN_VARIABLE)
        if from_environment:
            return from_environment, TOKEN_VARIABLE
        if self.token_file is None and store.path == IN_MEMORY:
            problem = f"needed with --data {IN_MEMORY}, or {TOKEN_VARIABLE}"
            raise ConfigurationError(setting="--token-file", problem=problem)
        path = (self.token_file or Path(f"{store.path}.{name}.token")).absolute()
        try:
            return load_or_make_token(path), path
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not ASCII text"
            problem = f"{str(path)!r}: {reason}"
            raise ConfigurationError(setting="--token-file", problem=problem) from None


def load_or_make_token(path: Path) -> str:
    """Reads a token file, or makes one that only its owner can read: a random one of 256 bits.

    Raises:
        OSError: If it can neither be read nor made.
        UnicodeDecodeError: If it is not ASCII text.
    """
    with suppress(FileNotFoundError):
        return load_bytes(path, _MAX_TOKEN_FILE_BYTES).decode("ascii").strip()
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    replace_file(path, f"{token}\n".encode("ascii"))
    return token


@contextmanager
def _naming(setting: str, prefix: str = "") -> Iterator[None]:
    """Turns a value that the store does not take into an error that names where it came from."""
    try:
        yield
    except ValueError as exc:
        raise ConfigurationError(setting=setting, problem=f"{prefix}{exc}") from None


def parse_identity(text: str) -> tuple[str, Hotkey]:
    """Parses NAME=HOTKEY."""
    name, equals, address = text.partition("=")
    # The name becomes part of a path and of a file's name.
    plain = name.replace("-", "").replace("_", "")
    if not equals or not (plain.isascii() and plain.isalnum()):
        raise ValueError("expected NAME=HOTKEY, the name of letters, digits, - and _")
    return name, Hotkey.parse(address)


def parse_certificate(text: str) -> tuple[Hotkey, bytes]:
    """Parses HOTKEY=HEX, the hotkey's public key."""
    address, _, digits = text.partition("=")
    try:
        key = bytes.fromhex(digits.removeprefix("0x"))
    except ValueError:
        key = b""
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"expected HOTKEY=HEX, the key as {2 * PUBLIC_KEY_BYTES} hex digits")
    return Hotkey.parse(address), key


def parse_neuron(text: str) -> tuple[Hotkey, Mapping[str, Any]]:
    """Parses HOTKEY,PART=VALUE,...: a hotkey and the fields that are to be set."""
    address, *parts = text.split(",")
    changes: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in _NEURON_PARTS:
            raise ValueError(f"{name!r} is none of {', '.join(_NEURON_PARTS)}")
        field, parse = _NEURON_PARTS[name]
        changes[field] = parse(value)
    return Hotkey.parse(address), changes


def parse_amount(text: str) -> float:
    """Parses a number; its range is for the caller to check."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an amount") from None


def _parse_yes_or_no(text: str) -> bool:
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.lower() not in answers:
        raise ValueError(f"{text!r} is neither yes nor no")
    return answers[text.lower()]


def _parse_axon(text: str) -> Axon:
    host, _, port = text.rpartition(":")
    return Axon(ip=host.strip("[]"), port=whole_number(0, MAX_PORT)(port))


_NEURON_PARTS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "stake": ("total", parse_amount),
    "alpha": ("alpha", parse_amount),
    "tao": ("tao", parse_amount),
    "permit": ("validator_permit", _parse_yes_or_no),
    "active": ("active", _parse_yes_or_no),
    "uid": ("uid", whole_number(0, 65_535)),
    "coldkey": ("coldkey", Hotkey.parse),
    "axon": ("axon", _parse_axon),
}
"""What a part of NEURON is called, which field it sets, and how its value is parsed."""


def serve(
    seed: Seed,
    *,
    data: str,
    address: TcpAddress,
    publish_seconds: float,
    serving_rate_limit: int,
) -> None:
    """Seeds a data file and serves it until SIGINT or SIGTERM; prints the settings that reach it.

    Log lines go to stderr, since stdout is for the settings; values are escaped by repr.

    Raises:
        ConfigurationError: If the data file or the seed cannot be used.
        CannotListen: If the address is taken, or not ours; nothing was changed then.
    """
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(bind(address))
        except OSError as exc:
            raise CannotListen(address, "--listen", exc) from exc
        store = stack.enter_context(open_store(data, serving_rate_limit))
        connections = seed.apply(store)
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
            ],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
        config = uvicorn.Config(
            build_devnet_app(store, publish_seconds=publish_seconds, request_log=_log_request),
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = Server(config)
        # Before the settings are printed: a program that reads them may stop this one at once.
        for which in STOPPING:
            signal.signal(which, server.handle_exit)
        port = listener.getsockname()[1]
        _print_connections(address.host, port, connections)
        _logger.warning(
            "development_pylon_started",
            note="for development only: nothing is checked on any chain",
            store=repr(store),
            port=port,
        )
        server.run(sockets=[listener])
        _logger.info("development_pylon_stopped")


def open_store(data: str, serving_rate_limit: int = 0) -> DevnetStore:
    """Opens the data file.

    Raises:
        ConfigurationError: If it cannot be used.
    """
    try:
        return DevnetStore(data, serving_rate_limit=serving_rate_limit)
    except DevnetStoreUnusable as exc:
        raise ConfigurationError(setting="--data", problem=str(exc)) from exc


def _print_connections(host: str, port: int, connections: Sequence[Connection]) -> None:
    """Prints lines for a .env file: settings for the first identity, remarks for the others."""
    reachable = "127.0.0.1" if host in {"", "0.0.0.0", "::"} else host  # noqa: S104 - not bound
    lines = ["# Development Pylon. Nothing here is checked on any chain: never for production."]
    lines.append(f"NEXUS_PYLON_ENDPOINT=http://{TcpAddress(reachable, port)}")
    for position, (identity, place) in enumerate(connections):
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


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    """Logs a request without its token."""
    _logger.info(
        "pylon_request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        duration_ms=round(seconds * 1000, 1),
    )
