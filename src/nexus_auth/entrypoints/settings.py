"""Every setting of the service and the commands: one table, and where each value came from.

Precedence: flag, environment, env file (`.env` of the working directory, or `NEXUS_AUTH_ENV_FILE`),
default. A secret may be given by file as well: `NAME_FILE` holds the path.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast
from urllib.parse import urlsplit

from nexus_auth.adapters.addresses import Address, parse_listen_address
from nexus_auth.adapters.chain.endpoints import node_name, parse_endpoints, parse_genesis
from nexus_auth.adapters.headers import names
from nexus_auth.adapters.proxies.table import DEFAULT_PROXY, PROXIES
from nexus_auth.adapters.pylon.api import parse_endpoint
from nexus_auth.adapters.starlette.trusted_peers import TrustedPeers
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.arguments import (
    add_value,
    one_of,
    seconds,
    token,
    true_or_false,
    whole_number,
)
from nexus_auth.entrypoints.defaults import LEEWAY, MAX_AGE, REFRESH_EVERY
from nexus_auth.entrypoints.sources import ENV_FILE_VARIABLE, Sources

if TYPE_CHECKING:
    from nexus_auth.adapters.policy.parsing import HotkeyList, StakeMinimums

T = TypeVar("T")

SOURCE_FLAGS: Final = (
    *("source", "pylon_endpoint", "netuid", "identity_name", "identity_token", "chain_endpoint"),
)
"""The settings that each command which reads from the source has flags for."""

DEFAULT_ORIGIN: Final = "default"
"""The origin of a value that was not given."""

_MIN_SECRET_CHARACTERS: Final = 16
"""Ours: 64 random bits even in hexadecimal. Records with a seal can be tried against guesses."""

_MAX_METAVAR: Final = 24
"""Longer ones, twice in a line, would not fit into 80 columns."""


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table.

    Attributes:
        name: The environment variable.
        attribute: The attribute of `Settings` that holds the value; `all_settings` fills it in.
        flag: The command-line flag without its dashes; None where there is none.
        default: The default as a user would write it; None means unset.
        parse: Turns text into the value; raises ValueError saying what is expected.
        help: One sentence for help texts and documentation.
        secret: Whether the value must never be shown.
        choices: The accepted values, where they are few.
        write: Writes a value as a user would: what comes out can be put in again.
        sent_to: The attribute that says where this credential is sent to.
    """

    name: str
    attribute: str = ""
    flag: str | None = None
    default: str | None = None
    parse: Callable[[str], Any]
    help: str
    secret: bool = False
    choices: tuple[str, ...] = ()
    write: Callable[[Any], str] = _plain
    sent_to: str | None = None


def _setting(
    declared: str, parse: Callable[[str], T], text: str, *, secret: bool = False, **options: Any
) -> T:
    """Declares a row: its NAME, or NAME=DEFAULT, its help, and other attributes of `Setting`."""
    name, _, default = declared.partition("=")
    options |= {"default": default or None, "secret": secret}
    row = Setting(name=name, parse=parse, help=text, **options)
    return cast("T", field(repr=not secret, metadata={"setting": row}))


def _flagged(declared: str, parse: Callable[[str], T], text: str, **options: Any) -> T:
    """Declares a row with a flag: NEXUS_AUTH_LISTEN_ADDR has -listen-addr."""
    name = declared.partition("=")[0].removeprefix("NEXUS_AUTH_").removeprefix("NEXUS_")
    return _setting(declared, parse, text, **{"flag": name.lower().replace("_", "-"), **options})


def _choice(declared: str, choices: tuple[str, ...], text: str) -> str:
    """Declares a row with a flag that takes one of a few words."""
    return _flagged(declared, one_of(*choices), text, choices=choices)


def _file_mode(text: str) -> int:
    if re.fullmatch(r"0?[0-7]{3}", text) is None:
        raise ValueError("expected three octal digits, such as 660")
    return int(text, 8)


def _hotkeys(text: str) -> HotkeyList:
    from nexus_auth.adapters.policy.parsing import HotkeyList  # only where one is given

    return HotkeyList.parse(text)


def _stake(text: str) -> StakeMinimums:
    from nexus_auth.adapters.policy.parsing import StakeMinimums  # only where it is given

    return StakeMinimums.parse(text)


def _identity_name(text: str) -> str:
    if text != text.strip() or not text.isprintable():
        raise ValueError("expected a name, without white space around it")
    return text


def _own_secret(text: str) -> str:
    """A secret that is ours to choose, and so to judge."""
    if len(text.strip()) < _MIN_SECRET_CHARACTERS:
        raise ValueError(
            f"expected at least {_MIN_SECRET_CHARACTERS} characters; make one: openssl rand -hex 32"
        )
    return text


def _header_name(text: str) -> str:
    # RFC 9110 §5.1, without the characters that some servers merge with others: an underscore
    # would name a header that a client may be able to forge.
    if re.fullmatch(r"[A-Za-z0-9-]{1,64}", text) is None:
        raise ValueError(
            f"expected a header name: letters, digits and hyphens, such as {names.X_CLIENT_CERT}"
        )
    return text


def _snapshot_store(text: str) -> str | None:
    if text == "none":
        return None
    # The path is absolute, since a service may be started from anywhere.
    if text.startswith("file:/") and not text.endswith("/"):
        return text
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        is_redis = parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and parts.port != 0
        # The package takes a path that is no number for database 0.
        if is_redis and re.fullmatch("/?|/[0-9]{1,5}", parts.path) is not None:
            return text
    raise ValueError("expected none, file:/path, redis://host:port/0 or rediss://host:port/0")


def _address_or_off(text: str) -> Address | None:
    return None if text == "off" else parse_listen_address(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings.

    `origins` says for each attribute where its value came from; `unknown` has a line for each
    variable that looks like a setting and is none, and for each setting that has no effect beside
    the others. `reread` takes the name of a secret, and reads
    it from its file again; it gives None where the file, or what it says, is of no use.
    """

    listen_addr: Address = _flagged(
        "NEXUS_AUTH_LISTEN_ADDR=:8080",
        parse_listen_address,
        "Where the auth service listens: :8080, host:port, [::1]:8080 or unix:/path.sock.",
    )
    socket_mode: int = _setting(
        "NEXUS_AUTH_SOCKET_MODE=660",
        _file_mode,
        "Who may connect to a unix socket: its mode, in octal digits.",
        write="{:03o}".format,
    )
    admin_addr: Address | None = _flagged(
        "NEXUS_AUTH_ADMIN_ADDR=127.0.0.1:8081",
        _address_or_off,
        "Where health, metrics and the status page are served; off disables it.",
        write=lambda value: "off" if value is None else str(value),
    )
    admin_token: str | None = _setting(
        "NEXUS_AUTH_ADMIN_TOKEN",
        lambda text: _own_secret(token(text)),
        f"Bearer token of the admin listener, {_MIN_SECRET_CHARACTERS} characters or more; needed "
        "when it listens beyond loopback. The health paths answer without it.",
        secret=True,
    )
    source: str = _choice(
        "NEXUS_AUTH_SOURCE=pylon",
        ("pylon", "chain"),
        "Where keys come from: Pylon, or the nodes of the chain themselves.",
    )
    pylon_endpoint: str = _flagged(
        "NEXUS_PYLON_ENDPOINT=http://pylon:8000", parse_endpoint, "Base URL of Pylon."
    )
    netuid: int | None = _flagged(
        "NEXUS_PYLON_NETUID", whole_number(0, 65535), "The subnet's number.", flag="net-uid"
    )
    identity_name: str | None = _flagged(
        "NEXUS_PYLON_IDENTITY_NAME",
        _identity_name,
        "Name of the Pylon identity; with its token the identity API is used.",
        flag="identity-name",
    )
    identity_token: str | None = _flagged(
        "NEXUS_PYLON_IDENTITY_TOKEN",
        token,
        "Bearer token of the Pylon identity (a flag shows in the process list; prefer the "
        "environment or NEXUS_PYLON_IDENTITY_TOKEN_FILE).",
        flag="identity-token",
        secret=True,
        sent_to="pylon_endpoint",
    )
    open_access_token: str | None = _setting(
        "NEXUS_PYLON_OPEN_ACCESS_TOKEN",
        token,
        "Bearer token of Pylon's open-access API.",
        secret=True,
        sent_to="pylon_endpoint",
    )
    chain_endpoint: tuple[str, ...] | None = _flagged(
        "NEXUS_CHAIN_ENDPOINT",
        parse_endpoints,
        "The nodes of the chain, http(s):// or ws(s)://, separated by commas, the preferred one "
        "first. Needed with the source chain.",
        # The path of a node that is rented often holds the key of an account.
        secret=True,
    )
    chain_genesis: str | None = _setting(
        "NEXUS_CHAIN_GENESIS",
        parse_genesis,
        "The hash of the chain's block 0: nodes of any other chain are refused. Unset: the first "
        "node that answers says which chain is meant.",
    )
    pylon_connect_timeout_seconds: float = _setting(
        "NEXUS_PYLON_CONNECT_TIMEOUT_SECONDS=2",
        seconds(0.1, 60),
        "How long a connection to Pylon, or to a node of the chain, may take to open.",
    )
    pylon_read_timeout_seconds: float = _setting(
        "NEXUS_PYLON_READ_TIMEOUT_SECONDS=10",
        seconds(0.1, 300),
        "How long a whole answer of Pylon, or of a node of the chain, may take.",
    )
    cache_duration_mins: int = _flagged(
        f"NEXUS_AUTH_CACHE_DURATION_MINS={MAX_AGE // timedelta(minutes=1)}",
        whole_number(0, 525_600),
        "Minutes for which keys may be used without news from the source; 0 asks every time.",
    )
    refresh_seconds: float = _flagged(
        f"NEXUS_AUTH_REFRESH_SECONDS={REFRESH_EVERY.total_seconds():g}",
        seconds(1, 86_400),
        "How often the snapshot of registered keys is renewed.",
    )
    reuse_seconds: int = _flagged(
        "NEXUS_AUTH_REUSE_SECONDS=5",
        whole_number(0, 3600),
        "How long a proxy may reuse a grant; 0 turns it off.",
    )
    leeway_seconds: int = _setting(
        f"NEXUS_AUTH_LEEWAY_SECONDS={LEEWAY.total_seconds():g}",
        whole_number(0, 86_400),
        "How much later than now a certificate's validity may begin; its end has no leeway.",
    )
    registry: str = _choice(
        "NEXUS_AUTH_REGISTRY=snapshot",
        ("snapshot", "lookup"),
        "How keys are learned: all of the subnet at once, or each hotkey on its own.",
    )
    snapshot_store: str | None = _setting(
        "NEXUS_AUTH_SNAPSHOT_STORE=none",
        _snapshot_store,
        "Where registered keys are kept beyond this process: none, file:/path, redis://host:port/0 "
        "or rediss://host:port/0. Lets restarts and other replicas serve while the source is away.",
        # A Redis URL may hold a password.
        secret=True,
    )
    snapshot_store_secret: str | None = _setting(
        "NEXUS_AUTH_SNAPSHOT_STORE_SECRET",
        _own_secret,
        "Seals what is kept in the store, so that no other program can change it; the same for "
        f"all replicas, {_MIN_SECRET_CHARACTERS} characters or more. Where it is not set, the "
        "Pylon token serves, if keys come from Pylon.",
        secret=True,
    )
    unsafe_unsealed_store: bool = _setting(
        "NEXUS_AUTH_UNSAFE_UNSEALED_STORE=false",
        true_or_false,
        "Whether Redis may be used without such a secret: then any client that can write to it "
        "decides who is granted.",
        choices=("true", "false"),
    )
    log_format: str = _choice(
        "NEXUS_AUTH_LOG_FORMAT=auto",
        ("auto", "json", "console"),
        "Form of the log lines; auto is console on a terminal and JSON elsewhere.",
    )
    log_level: str = _choice(
        "NEXUS_AUTH_LOG_LEVEL=info",
        ("debug", "info", "warning", "error"),
        "The least severe level that is logged.",
    )
    log_grants: str = _choice(
        "NEXUS_AUTH_LOG_GRANTS=sampled",
        ("all", "sampled", "none"),
        "Which grants are logged; sampled is the first of each certificate, then a count every "
        "minute. Denials always are.",
    )
    log_query: bool = _setting(
        "NEXUS_AUTH_LOG_QUERY=false",
        true_or_false,
        "Whether logs and traces have the query of a client's URI, which may hold tokens.",
        choices=("true", "false"),
    )
    traces: str = _choice(
        "NEXUS_AUTH_TRACES=off",
        ("off", "otlp"),
        "Whether a span of each decision goes to an OpenTelemetry collector; otlp needs the extra "
        "otel, and OTEL_EXPORTER_OTLP_ENDPOINT says where to.",
    )
    proxy: str = _choice(
        f"NEXUS_AUTH_PROXY={DEFAULT_PROXY}",
        tuple(PROXIES),
        "The reverse proxy in front: presets the certificate header and its format.",
    )
    cert_header: str | None = _flagged(
        "NEXUS_AUTH_CERT_HEADER",
        _header_name,
        "The one header that carries the certificate, where it is not the preset's.",
    )
    cert_format: str | None = _choice(
        "NEXUS_AUTH_CERT_FORMAT",
        tuple(each.value for each in names.CertificateFormat),
        "The format of that header, where it is not the preset's.",
    )
    trusted_proxies: TrustedPeers | None = _flagged(
        "NEXUS_AUTH_TRUSTED_PROXIES",
        TrustedPeers.parse,
        "Addresses and networks of the proxies that may ask, separated by commas; any other "
        "peer is denied. A unix socket is trusted. Unset: any client that reaches the port may "
        "ask.",
    )
    policy_file: Path | None = _flagged(
        "NEXUS_AUTH_POLICY_FILE",
        Path,
        "TOML file of access policies: who among the registered may enter. Read again when it "
        "changes. Unset, and none of the four below either: every registered hotkey.",
    )
    allow_hotkeys: HotkeyList | None = _setting(
        "NEXUS_AUTH_ALLOW_HOTKEYS",
        _hotkeys,
        "Hotkeys that may enter, separated by commas; no others may. Not beside a policy file.",
    )
    deny_hotkeys: HotkeyList | None = _setting(
        "NEXUS_AUTH_DENY_HOTKEYS",
        _hotkeys,
        "Hotkeys that may not enter, whatever else is said. Not beside a policy file.",
    )
    require_validator_permit: bool = _setting(
        "NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT=false",
        true_or_false,
        "Whether only validators with a permit may enter. Not beside a policy file.",
        choices=("true", "false"),
    )
    min_stake: StakeMinimums | None = _setting(
        "NEXUS_AUTH_MIN_STAKE",
        _stake,
        "The least stake, in whole tokens: 1000 (total), or total=1000,alpha=5. Not beside a "
        "policy file.",
    )
    grant_headers: names.GrantHeaders | None = _setting(
        "NEXUS_AUTH_GRANT_HEADERS",
        names.GrantHeaders.parse,
        f"What a grant tells the application beside {names.HOTKEY_HEADER}: some of "
        f"{', '.join(names.GrantHeader)}.",
    )
    workers: int = _flagged(
        "NEXUS_AUTH_WORKERS=1", whole_number(1, 64), "How many processes serve the auth listener."
    )

    origins: Mapping[str, str] = field(repr=False)
    unknown: tuple[str, ...] = field(repr=False)
    reread: Callable[[str], str | None] = field(
        default=lambda _name: None, repr=False, compare=False
    )

    @classmethod
    def load(
        cls,
        *,
        flags: Mapping[str, str | None] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Reads every setting from its best source.

        Args:
            flags: Values given on the command line, by attribute name; None means not given.
                Other names are passed over.
            environ: The environment; the process's own by default. An empty value means unset.

        Raises:
            ConfigurationError: For the first value that is wrong, naming it and its source.
        """
        rows = list(all_settings())
        sources = Sources.load(
            os.environ if environ is None else environ, {row.name: row.secret for row in rows}
        )
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        implicit = set()
        for setting in rows:
            text, origin = (flags or {}).get(setting.attribute), f"flag -{setting.flag}"
            if not text:
                found = sources.find(setting.name, is_secret=setting.secret)
                text, origin = setting.default, DEFAULT_ORIGIN
                if found is not None:
                    text, origin = found.text, found.origin
                    implicit |= {setting.attribute} if found.is_implicit else set()
            origins[setting.attribute] = origin
            try:
                values[setting.attribute] = None if text is None else setting.parse(text)
            except ValueError as exc:
                # The text of a secret is not repeated, and neither is a parser's own message of it.
                # Before an @ in a URL may stand a password.
                shown = "" if setting.secret or "@" in str(text) else f"{text!r}: "
                raise ConfigurationError(
                    setting=setting.name, source=origin, problem=f"{shown}{exc}"
                ) from None
        settings = cls(
            **values,
            origins=MappingProxyType(origins),
            unknown=tuple(sources.unknown_names()),
            reread=partial(_reread, sources, origins, implicit),
        )
        settings._check_destinations(implicit)
        settings._check_together()
        return replace(settings, unknown=(*settings.unknown, *settings._unused()))

    @property
    def source_address(self) -> str:
        """Where the source is, to be shown; the path of a node may hold the key of an account."""
        if self.source == "chain":
            return ", ".join(map(node_name, self.chain_endpoint or ()))
        return self.pylon_endpoint

    @property
    def neurons_problem(self) -> str | None:
        """Why neurons cannot be had; None where they can."""
        if self.registry != "snapshot" or self.cache_duration_mins <= 0:
            return (
                "which come with the snapshot of all keys; that needs "
                "NEXUS_AUTH_REGISTRY=snapshot and NEXUS_AUTH_CACHE_DURATION_MINS above 0"
            )
        if self.source == "chain":
            from nexus_auth.adapters.chain.neurons import NEEDS_EXTRA, find_library

            return NEEDS_EXTRA if find_library() is None else None
        return None

    @property
    def sealing_secrets(self) -> tuple[str | None, ...]:
        """What may seal the records of a store: the first that is given does.

        A token of Pylon does so only where its keys are believed: Pylon's operator knows it too.
        """
        tokens = (self.identity_token, self.open_access_token)
        return (self.snapshot_store_secret, *(tokens if self.source == "pylon" else ()))

    @property
    def has_unsealed_network_store(self) -> bool:
        """Whether a change that others make to the store would not be noticed."""
        is_local = self.snapshot_store is None or self.snapshot_store.startswith("file:")
        return not is_local and not any(self.sealing_secrets)

    @property
    def certificate_header(self) -> names.HeaderPreset:
        """The header that carries the certificate: the proxy's, where no setting differs."""
        preset = PROXIES[self.proxy].header
        return names.HeaderPreset(
            self.cert_header or preset.name, self.cert_format or preset.format
        )

    def _check_destinations(self, implicit: set[str]) -> None:
        """Rejects a credential whose destination comes from a weaker source than itself.

        A `.env` may have come with the folder, as in a checkout. It may not choose who is shown a
        token that the user gave by other means.

        Args:
            implicit: The attributes for which only the `.env` of the working directory speaks.

        Raises:
            ConfigurationError: For the first that is found; it names both sources.
        """
        for row in all_settings():
            is_given = getattr(self, row.attribute) is not None
            if row.sent_to in implicit and is_given and row.attribute not in implicit:
                name = _name_of(row.sent_to)
                raise self._wrong(
                    row.attribute,
                    f"is not sent to an address that only {self.origins[row.sent_to]} in the "
                    f"working directory names. Set {name} where you set this, or "
                    f"{ENV_FILE_VARIABLE}={self.origins[row.sent_to]} if you trust that file",
                )

    def _check_together(self) -> None:
        """Rejects combinations that have no meaning, or a dangerous one.

        Raises:
            ConfigurationError: For the first that is found.
        """
        admin = self.admin_addr
        if admin is not None and not admin.is_loopback and self.admin_token is None:
            raise self._wrong(
                "admin_addr",
                f"{admin} can be reached from other machines, and needs "
                "NEXUS_AUTH_ADMIN_TOKEN; or listen on 127.0.0.1",
            )
        if (self.identity_name is None) != (self.identity_token is None):
            missing = "identity_token" if self.identity_token is None else "identity_name"
            given = "identity_name" if missing == "identity_token" else "identity_token"
            raise self._needed(missing, given, "")
        if self.identity_name is not None and self.netuid is None:
            raise self._needed("netuid", "identity_name", "; set it or use -net-uid")
        if self.source == "chain":
            if self.chain_endpoint is None:
                raise self._needed("chain_endpoint", "source", "; set it or use -chain-endpoint")
            if self.netuid is None:
                raise self._needed("netuid", "source", "; set it or use -net-uid")
        self._check_policy()

    def _unused(self) -> Iterator[str]:
        """A line for each setting that was given, and says how to reach the other source."""
        of_pylon = ("pylon_endpoint", "identity_name", "identity_token", "open_access_token")
        uses_chain = self.source == "chain"
        for attribute in of_pylon if uses_chain else ("chain_endpoint", "chain_genesis"):
            if self.origins[attribute] != DEFAULT_ORIGIN:
                yield (
                    f"{_name_of(attribute)} has no effect{' but on generate' * uses_chain}: "
                    f"NEXUS_AUTH_SOURCE is {self.source}"
                )

    def _check_policy(self) -> None:
        simple = ("allow_hotkeys", "deny_hotkeys", "require_validator_permit", "min_stake")
        for attribute in simple if self.policy_file is not None else ():
            if getattr(self, attribute):
                raise self._wrong(
                    attribute,
                    "a policy file is set as well (NEXUS_AUTH_POLICY_FILE, from "
                    f"{self.origins['policy_file']}); write it into the file",
                )
        for attribute in ("require_validator_permit", "min_stake", "grant_headers"):
            if getattr(self, attribute) and (problem := self.neurons_problem) is not None:
                raise self._wrong(attribute, f"looks at neurons, {problem}")

    def _wrong(self, attribute: str, problem: str) -> ConfigurationError:
        return ConfigurationError(
            setting=_name_of(attribute), source=self.origins[attribute], problem=problem
        )

    def _needed(self, missing: str, given: str, hint: str) -> ConfigurationError:
        return ConfigurationError(
            setting=_name_of(missing),
            problem=f"needed together with {_name_of(given)}, which is set "
            f"(from {self.origins[given]}){hint}",
        )


def _reread(
    sources: Sources, origins: Mapping[str, str], implicit: set[str], name: str
) -> str | None:
    row = next(row for row in all_settings() if row.name == name)
    with contextlib.suppress(ConfigurationError, ValueError):
        found = sources.find(name, is_secret=True)
        # From the same source, a flag included, and the same kind of place as at the start: the
        # destinations were checked for those.
        if found is not None and found.origin == origins[row.attribute]:
            is_same_place = found.is_implicit == (row.attribute in implicit)
            return row.parse(found.text) if is_same_place else None
    return None


def all_settings() -> Iterator[Setting]:
    """Walks the table in its order."""
    for each in fields(Settings):
        if "setting" in each.metadata:
            yield replace(each.metadata["setting"], attribute=each.name)


def _name_of(attribute: str) -> str:
    return next(row.name for row in all_settings() if row.attribute == attribute)


def add_flags(parser: argparse.ArgumentParser, attributes: Iterable[str]) -> None:
    """Gives a command the flags of the named settings."""
    wanted = set(attributes)
    group = parser.add_argument_group("settings (each also from the environment)")
    for setting in all_settings():
        if setting.attribute in wanted and setting.flag is not None:
            default = f" Default: {setting.default}." if setting.default else ""
            metavar, choices = "|".join(setting.choices) or "VALUE", ""
            if len(metavar) > _MAX_METAVAR:
                metavar, choices = "VALUE", f" One of {', '.join(setting.choices)}."
            add_value(
                group,
                setting.flag,
                dest=setting.attribute,
                choices=setting.choices or None,
                metavar=metavar,
                help=f"{setting.help}{choices}{default} [{setting.name}]".replace("%", "%%"),
            )


def load_from(args: argparse.Namespace) -> Settings:
    """Loads the settings with the flags that a command was given."""
    return Settings.load(flags=vars(args))


def warn_of_unknown(settings: Settings) -> None:
    """Prints a warning for each variable that looks like a setting and is none.

    For commands whose answer is taken for what the service would do.
    """
    for problem in settings.unknown:
        print(f"warning: {problem}", file=sys.stderr)
