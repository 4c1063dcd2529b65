"""Builds complete proxy configurations from templates."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from nexus_auth.adapters.addresses import UnixAddress
from nexus_auth.adapters.headers.names import HOTKEY_HEADER as HOTKEY
from nexus_auth.adapters.proxies.site import Site, Upstream
from nexus_auth.adapters.proxies.table import PROXIES, Proxy

# Not string.Template: its dollar sign is a word of these languages.
_PLACE: Final = re.compile(r"@\{([a-z0-9_]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The files that make up one proxy's configuration.

    Attributes:
        files: Name and text. The first one is what the proxy is started with.
        links: Name and target of symbolic links that belong beside them.
    """

    files: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...] = ()


def build_configuration(proxy: str, site: Site, *, directory: str | None = None) -> Configuration:
    """Builds the configuration of one proxy.

    Args:
        proxy: One of `CONFIGURABLE`.
        site: What it is for.
        directory: Where the files will lie; None where that is not known. Files then name one
            another without a folder.

    Raises:
        UnsuitableSite: When this proxy cannot do that.
    """
    row, folder = PROXIES[proxy], "" if directory is None else f"{directory.rstrip('/')}/"
    values = {**_common(row, site, folder), **_own(row, site, folder)}
    templates = files("nexus_auth.adapters.proxies") / "templates"
    texts = [(name, templates.joinpath(name).read_text("utf-8")) for name in row.templates]
    return Configuration(
        files=tuple(
            (name, _PLACE.sub(lambda place: values[place[1]], text)) for name, text in texts
        ),
        links=tuple(zip(row.tls_links, (site.tls_cert, site.tls_key), strict=False)),
    )


def _own(proxy: Proxy, site: Site, directory: str) -> Mapping[str, str]:
    """What the module of the proxy's name adds: its `values`, loaded only now.

    Args:
        proxy: The row.
        site: What the configuration is for.
        directory: Where the files will lie, with a slash at its end; empty where that is not
            known.

    Raises:
        UnsuitableSite: When this proxy cannot do that.
    """
    name = proxy.name.replace("-", "_")
    module = importlib.import_module(f"nexus_auth.adapters.proxies.{name}")
    values: Mapping[str, str] = module.values(site, directory)
    return values


def _common(proxy: Proxy, site: Site, directory: str) -> dict[str, str]:
    """What several templates have places for; a proxy's own values replace these."""
    return {
        "head": _head(proxy, site),
        "directory": directory,
        "listen": str(site.listen),
        "listen_port": str(site.listen.port),
        "app": str(site.app),
        "auth": str(site.auth),
        "tls_cert": site.tls_cert,
        "tls_key": site.tls_key,
        "policy": site.policy or "",
    }


def _head(proxy: Proxy, site: Site) -> str:
    """The comment at the top: the settings of the auth service that go with it."""
    lines = [
        f"# Made by: nexus-auth proxy-config {proxy.name}",
        "#",
        "# The auth service that goes with it needs these settings:",
        f"#   NEXUS_AUTH_PROXY={proxy.name}",
        f"#   NEXUS_AUTH_LISTEN_ADDR={_listen_setting(site.auth)}",
    ]
    if isinstance(site.auth, UnixAddress):
        lines.append("# Its socket belongs into a folder that only this proxy can enter.")
    elif site.auth.is_loopback:
        lines.append("#   NEXUS_AUTH_TRUSTED_PROXIES=127.0.0.1,::1")
    else:
        lines += [
            "#   NEXUS_AUTH_TRUSTED_PROXIES=...",
            "# The dots stand for the addresses that this proxy calls from. Without this setting,",
            "# whoever reaches the port can show anybody's certificate, which is public.",
        ]
    if site.policy is not None:
        lines += [
            "#   NEXUS_AUTH_POLICY_FILE=...",
            f"# The file has a policy of the name {site.policy}; without it nobody is let in.",
        ]
    header = proxy.header
    lines += [
        f"# It then reads the certificate from {header.name} ({header.format}) alone.",
        "#",
        f"# The application must be reachable through this proxy alone: it believes {HOTKEY}.",
    ]
    return "\n".join(lines)


def _listen_setting(auth: Upstream) -> str:
    if isinstance(auth, UnixAddress) or auth.is_loopback:
        return str(auth)
    return f":{auth.port}"
