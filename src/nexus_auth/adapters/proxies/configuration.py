"""Builds complete proxy configurations from templates.

`@{NAME}` in a template is the place of a value. A line that begins with `@{for NAME}` is written
once for each word of that value, which then stands in its own place; not at all where it is empty.
A line `@{include FILE}` is the place of another template, with the line's indentation before each
of its lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.headers.names import FORGEABLE_HEADERS
from nexus_auth.adapters.proxies.dialects import DIALECTS
from nexus_auth.adapters.proxies.site import Site, UnsuitableSite, idle_ms
from nexus_auth.adapters.proxies.table import PROXIES, Proxy

HEAD: Final = "head.txt"
"""The template of the comment at the top: the settings of the auth service that go with it."""

AUTH_KEEPALIVE_SECONDS: Final = 10
"""When the auth service closes an idle connection."""

_OPTIONAL: Final = ("rate", "resolver")
"""The arguments that not every proxy can follow."""

# Not string.Template: its dollar sign is a word of these languages.
_PLACE: Final = re.compile(r"@\{([a-z0-9_]+)\}")
_INCLUDE: Final = re.compile(r"^( *)@\{include ([a-z.-]+)\}\n", re.MULTILINE)
_BEGINNING: Final = re.compile(r"^((?:@\{for [a-z0-9_]+\})?+)(?=[^\n])", re.MULTILINE)
_REPEATED_LINE: Final = re.compile(r"^@\{for ([a-z0-9_]+)\}(.*\n)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The files that make up one proxy's configuration.

    Attributes:
        files: Name and text. The first one is what the proxy is started with.
        links: Name and target of symbolic links that belong beside them.
    """

    files: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...] = ()


def build_configuration(
    proxy: str,
    site: Site,
    *,
    directory: str | None = None,
    for_existing: bool = False,
    with_frame: bool = False,
) -> Configuration:
    """Builds the configuration of one proxy.

    Args:
        proxy: One of `CONFIGURABLE`.
        site: What it is for.
        directory: Where the files will lie; None where that is not known. Files then name one
            another without a folder.
        for_existing: Build what a proxy that has a configuration already includes.
        with_frame: Begin with the smallest configuration that includes those files.

    Raises:
        UnsuitableSite: When this proxy cannot do that.
    """
    row, folder = PROXIES[proxy], "" if directory is None else f"{directory.rstrip('/')}/"
    if for_existing and not row.includes:
        raise UnsuitableSite("site", f"there is no such thing for {proxy}")
    values = _shared(row, site, folder)
    if proxy in DIALECTS:
        values |= DIALECTS[proxy](site, folder)
    for argument in _OPTIONAL:  # after the dialect, which may have a better word
        if getattr(site, argument) and argument not in row.options:
            raise UnsuitableSite(argument, f"there is no such thing for {proxy}")
    if for_existing:
        values["reload"] = row.reload  # the process and its files are not ours
    values["head"] = _filled(HEAD, values).rstrip("\n")
    templates = row.includes if for_existing else row.templates
    if for_existing and with_frame:
        templates = (row.includes_frame, *templates)
    return Configuration(
        files=tuple((name, _filled(name, values)) for name in templates),
        links=tuple(zip(row.tls_links, (site.tls_cert, site.tls_key), strict=False)),
    )


def _shared(proxy: Proxy, site: Site, directory: str) -> dict[str, str]:
    """What several templates have places for; a proxy's own values replace these."""
    auth, is_tcp = site.auth, isinstance(site.auth, TcpAddress)
    return {
        "name": proxy.name,
        "header": proxy.header.name,
        "format": proxy.header.format,
        "auth_listens": str(auth) if auth.is_loopback else f":{str(auth).rpartition(':')[2]}",
        "auth_on_socket": "" if is_tcp else "yes",
        "auth_on_loopback": "yes" if is_tcp and auth.is_loopback else "",
        "auth_elsewhere": "" if auth.is_loopback else "yes",
        "directory": directory,
        "listen": str(site.listen),
        "listen_host": site.listen.host,
        "listen_port": str(site.listen.port),
        "app": str(site.app),
        "auth": str(auth),
        "tls_cert": site.tls_cert,
        "tls_key": site.tls_key,
        "policy": site.policy or "",
        "auth_idle_ms": str(idle_ms(AUTH_KEEPALIVE_SECONDS)),
        "app_idle_ms": str(idle_ms(site.app_keepalive)),
        "auth_idle_s": f"{idle_ms(AUTH_KEEPALIVE_SECONDS) / 1000:g}",
        "app_idle_s": f"{idle_ms(site.app_keepalive) / 1000:g}" if site.app_keepalive else "",
        "reloads": "yes" if proxy.reload else "",
        "reload": proxy.reload.replace("@{directory}", directory or "/path/to/"),
        "forged": " ".join(FORGEABLE_HEADERS),
    }


def _filled(template: str, values: Mapping[str, str]) -> str:
    def repeated(line: re.Match[str]) -> str:
        words = values[line[1]].split()
        return "".join(line[2].replace(f"@{{{line[1]}}}", word) for word in words)

    text = _REPEATED_LINE.sub(repeated, _with_includes(template))
    return _PLACE.sub(lambda place: values[place[1]], text)


def _with_includes(template: str) -> str:
    def included(line: re.Match[str]) -> str:
        return _BEGINNING.sub(rf"\g<1>{line[1]}", _with_includes(line[2]))

    text = (files("nexus_auth.adapters.proxies") / "templates" / template).read_text("utf-8")
    return _INCLUDE.sub(included, text)
