"""`nexus-auth doctor`: checks everything, and names the one thing to do next."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.arguments import add_switch, add_value
from nexus_auth.entrypoints.diagnostics.findings import Finding, Outcome, as_lines, exit_code
from nexus_auth.entrypoints.settings import SOURCE_FLAGS, Settings, add_flags, load_from
from nexus_auth.entrypoints.terminal import as_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.entrypoints.container import Container


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Checks the configuration, the source (Pylon, or the nodes of the chain), the\n"
        "clock, the certificate on disk against the chain, and the proxy in front;\n"
        "prints what is wrong and what to do next."
    )
    parser.epilog = (
        "examples:\n"
        "  nexus-auth doctor\n"
        "  nexus-auth doctor --certs ./certs --proxy https://127.0.0.1:8443/\n\n"
        "exit codes: 0 nothing is wrong; 1 something is;\n"
        "            2 wrong usage or configuration;\n"
        "            3 the source or the proxy could not be reached"
    )
    text = "folder of client.key and client.crt (default: ./certs where that exists)"
    add_value(parser, "certs", type=Path, metavar="DIR", help=text)
    text = "address of your proxy, https://HOST:PORT/PATH"
    add_value(parser, "proxy", dest="proxy_url", metavar="URL", help=text)  # `proxy` is a setting
    add_switch(parser, "json", "print JSON")
    add_flags(parser, SOURCE_FLAGS)


def execute(args: argparse.Namespace) -> int:
    """Checks everything and prints what was found."""
    import asyncio

    settings = load_from(args)
    if args.proxy_url is not None and not _is_https_url(args.proxy_url):
        raise ConfigurationError(setting="--proxy", problem="expected https://HOST:PORT/PATH")
    findings = asyncio.run(_examine(settings, args.certs, args.proxy_url))
    if args.json:
        print(as_json([asdict(finding) for finding in findings]))
    else:
        print("\n".join(as_lines(findings, sys.stdout)))
    return exit_code(findings)


def _is_https_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # Reading the port is what finds out whether it is one.
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_missing(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:
        return False  # not known; reading it says why not


async def _examine(settings: Settings, certs: Path | None, proxy: str | None) -> list[Finding]:
    from nexus_auth.adapters.credentials.directory import CERTIFICATE_NAME
    from nexus_auth.entrypoints.container import build_container
    from nexus_auth.entrypoints.diagnostics.certificate_checks import check_pair, check_published
    from nexus_auth.entrypoints.diagnostics.proxy_checks import check_proxy

    container = build_container(settings)
    leeway = timedelta(seconds=settings.leeway_seconds)
    now = container.clock()()
    findings = await _check_configuration(settings, container)
    source, keys = await _check_source(settings, container)
    findings += source

    folder = certs if certs is not None else Path("certs")
    certificate = None
    if certs is None and _is_missing(folder / CERTIFICATE_NAME):
        text = "no ./certs/client.crt here; --certs DIR names another folder"
        findings.append(Finding("certificate", Outcome.SKIPPED, text))
    else:
        pair, certificate = check_pair(folder, now, leeway)
        findings += pair
        if certificate is not None and keys is not None:
            findings.append(check_published(folder, certificate, keys.get(certificate.hotkey)))

    if proxy is None:
        text = "not checked; --proxy https://HOST:PORT/ names one to check"
        return [*findings, Finding("proxy", Outcome.SKIPPED, text)]
    return findings + await check_proxy(proxy, folder, certificate)


async def _check_source(
    settings: Settings, container: Container
) -> tuple[list[Finding], Mapping[Hotkey, bytes] | None]:
    if settings.source == "chain":
        from nexus_auth.entrypoints.diagnostics.chain_checks import check_chain

        return await check_chain(settings, container.clock())
    from nexus_auth.entrypoints.diagnostics.pylon_checks import check_pylon, fetch_date, judge_clock

    findings, keys = await check_pylon(settings, container)
    if all(finding.outcome is not Outcome.UNREACHABLE for finding in findings):
        leeway = timedelta(seconds=settings.leeway_seconds)
        now = container.clock()
        findings.append(judge_clock(await fetch_date(settings), now(), leeway))
    return findings, keys


async def _check_configuration(settings: Settings, container: Container) -> list[Finding]:
    from nexus_auth.entrypoints.container import UNSEALED_STORE

    subject = "configuration"
    try:
        # What the service makes before it opens anything: a policy file is read, a URL taken apart.
        container.policies()
        container.traces()
        shared = container.shared_snapshots()
    except ConfigurationError as exc:
        next_step = "correct it; the service does not start with it"
        return [Finding(subject, Outcome.WRONG, str(exc), next_step)]
    if shared is not None:
        await shared.aclose()
    findings = []
    if settings.has_unsealed_network_store:
        text, _, next_step = UNSEALED_STORE.partition("; ")
        findings.append(Finding("store", Outcome.WARNING, text, next_step))
    if settings.unknown:
        text, next_step = "; ".join(settings.unknown), "correct or remove it; it has no effect"
        return [Finding(subject, Outcome.WARNING, text, next_step), *findings]
    return [
        Finding(subject, Outcome.OK, "complete (nexus-auth config show prints it)"),
        *findings,
    ]
