"""Keeps the page of each proxy in step: its configuration and its table of results stand in it.

Rewrite them with `NEXUS_AUTH_REWRITE_DOCS=1 pytest tests/integration/proxies -p no:xdist`; add
`-k NAME` for one proxy.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.proxies.configuration import build_configuration
from nexus_auth.adapters.proxies.site import Site
from nexus_auth.adapters.proxies.table import DEFAULT_PROXY, PROXIES
from tests.integration.proxies.scenarios import SCENARIOS
from tests.integration.proxies.stack import PROGRAMS
from tests.integration.real import require_program

OVERVIEW: Final = Path(__file__).resolve().parents[3] / "docs" / "proxies.md"
"""What holds for every proxy."""

REWRITE: Final = os.environ.get("NEXUS_AUTH_REWRITE_DOCS") == "1"
"""Read at import: the tests themselves run with every NEXUS_ variable cleared."""

_SITE: Final = Site(
    listen=TcpAddress("", 443),
    app=TcpAddress("127.0.0.1", 9000),
    auth=TcpAddress("127.0.0.1", 8080),
    tls_cert="/etc/nexus-auth/tls.crt",
    tls_key="/etc/nexus-auth/tls.key",
)
_IN_A_CLUSTER: Final = Site(
    listen=TcpAddress("", 443),
    app=TcpAddress("app", 8000),
    auth=TcpAddress("nexus-auth", 8080),
    tls_cert="/etc/nexus-auth/tls.crt",
    tls_key="/etc/nexus-auth/tls.key",
)
_LANGUAGES: Final = {".yaml": "yaml", ".yml": "yaml", ".lua": "lua", ".conf": "nginx"}
_SHOWN: Final = {"let in": "in", "403": "403", "refused": "–"}  # noqa: RUF001 - a dash, typeset


def page_of(proxy: str) -> Path:
    """The page of one proxy."""
    return OVERVIEW.parent / "proxies" / f"{proxy}.md"


def section(name: str, proxy: str) -> str:
    """What stands between the markers of a section, on the page of a proxy."""
    page = page_of(proxy)
    pattern = rf"<!-- {name}: begin[^\n]*-->\n(.*?)<!-- {name}: end -->"
    found = re.search(pattern, page.read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise AssertionError(f"{page} has no markers for {name}")
    return found[1]


def rewrite(name: str, proxy: str, content: str) -> None:
    """Puts something else between the markers of a section."""
    page, end = page_of(proxy), f"<!-- {name}: end"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(section(name, proxy) + end, content + end), encoding="utf-8")


def configuration_section(proxy: str) -> str:
    """The configuration of a proxy, as the page shows it."""
    in_a_cluster = PROXIES[proxy].app != PROXIES[DEFAULT_PROXY].app
    site = _IN_A_CLUSTER if in_a_cluster else _SITE
    blocks = []
    for name, text in build_configuration(proxy, site).files:
        language = _LANGUAGES.get(Path(name).suffix, "text")
        blocks.append(
            f"<details><summary><code>{name}</code></summary>\n\n"
            f"```{language}\n{text.rstrip()}\n```\n\n</details>\n"
        )
    return "\n" + "\n".join(blocks) + "\n"


@cache
def version_of(proxy: str) -> str:
    """The installed version of a proxy."""
    flag = {"nginx": "-v", "haproxy": "-v", "envoy": "--version"}.get(proxy, "version")
    done = subprocess.run(
        [require_program(proxy, PROGRAMS[proxy]), flag],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    if found is None:
        raise AssertionError(f"{proxy} does not tell its version")
    return found[0]


def results_section(proxy: str, outcomes: Mapping[str, str]) -> str:
    """The table of results of a proxy, as its page shows it.

    Args:
        proxy: Its name.
        outcomes: By the scenario's full name.
    """
    lines: list[str] = []
    group = None
    for scenario in SCENARIOS:
        if scenario.group != group:
            group = scenario.group
            lines += ["", f"| {group} | {proxy} {version_of(proxy)} |", "|---|---|"]
        lines.append(f"| {scenario.title} | {_SHOWN[outcomes[scenario.name]]} |")
    return "\n".join(lines) + "\n\n"


@cache
def documented_results(proxy: str) -> tuple[dict[str, str], str]:
    """Reads outcomes by scenario, and the proxy's version, back from its page."""
    meaning = {shown: outcome for outcome, shown in _SHOWN.items()}
    outcomes: dict[str, str] = {}
    group = version = ""
    for line in section("results", proxy).splitlines():
        title, _, cell = (part.strip() for part in line.strip("|").rpartition(" | "))
        if cell.startswith(f"{proxy} "):
            group, version = title, cell.removeprefix(f"{proxy} ")
        elif title:
            outcomes[f"{group}: {title}"] = meaning[cell]
    return outcomes, version
