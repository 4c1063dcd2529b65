"""Keeps docs/proxies.md in step: the configurations and the table of results stand in it.

Rewrite both with `NEXUS_AUTH_REWRITE_DOCS=1 pytest tests/integration/proxies -p no:xdist`.
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
from tests.integration.proxies.scenarios import SCENARIOS
from tests.integration.proxies.stack import PROGRAMS
from tests.integration.real import require_program

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "proxies.md"

REWRITE: Final = os.environ.get("NEXUS_AUTH_REWRITE_DOCS") == "1"
"""Read at import: the tests themselves run with every NEXUS_ variable cleared."""

_SITE: Final = Site(
    listen=TcpAddress("", 443),
    app=TcpAddress("127.0.0.1", 8000),
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


def section(name: str, text: str) -> str:
    """What stands between the markers of a section."""
    found = re.search(rf"<!-- {name}: begin[^\n]*-->\n(.*?)<!-- {name}: end -->", text, re.DOTALL)
    if found is None:
        raise AssertionError(f"docs/proxies.md has no markers for {name}")
    return found[1]


def with_section(name: str, content: str, text: str) -> str:
    """The page with something else between the markers of a section."""
    return text.replace(section(name, text) + f"<!-- {name}: end", content + f"<!-- {name}: end")


def configuration_section(proxy: str) -> str:
    """The configuration of a proxy, as the page shows it."""
    site = _IN_A_CLUSTER if proxy == "ingress-nginx" else _SITE
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


def results_section(outcomes: Mapping[tuple[str, str], str], versions: Mapping[str, str]) -> str:
    """The table of results, as the page shows it.

    Args:
        outcomes: By proxy and the scenario's full name.
        versions: By proxy.
    """
    lines: list[str] = []
    group = None
    for scenario in SCENARIOS:
        if scenario.group != group:
            group = scenario.group
            heads = [f"{proxy} {versions[proxy]}" for proxy in PROGRAMS]
            lines += ["", f"| {group} | " + " | ".join(heads) + " |"]
            lines.append("|---|" + "---|" * len(heads))
        cells = [_SHOWN[outcomes[proxy, scenario.name]] for proxy in PROGRAMS]
        lines.append(f"| {scenario.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n"


def documented_results(text: str) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """Reads outcomes and versions back from the page."""
    meaning = {shown: outcome for outcome, shown in _SHOWN.items()}
    outcomes: dict[tuple[str, str], str] = {}
    versions: dict[str, str] = {}
    group, proxies = "", list[str]()
    for line in section("results", text).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 1:
            continue
        if cells[1].split(" ")[0] in PROGRAMS:
            group, proxies = cells[0], [cell.split(" ")[0] for cell in cells[1:]]
            versions = dict(cell.split(" ") for cell in cells[1:])
            continue
        for proxy, cell in zip(proxies, cells[1:], strict=True):
            outcomes[proxy, f"{group}: {cells[0]}"] = meaning[cell]
    return outcomes, versions
