"""`nexus-auth status DIR`: a key pair's hotkey, how long it is valid, whether it is on chain."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_auth.domain.errors import RegistryError
from nexus_auth.entrypoints.arguments import add_switch
from nexus_auth.entrypoints.diagnostics.findings import Finding, Outcome, as_lines, exit_code
from nexus_auth.entrypoints.settings import SOURCE_FLAGS, Settings, add_flags, load_from
from nexus_auth.entrypoints.terminal import as_json

if TYPE_CHECKING:
    from nexus_auth.domain.certificate import ClientCertificate


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Reports on a folder with client.key and client.crt."
    parser.epilog = (
        "exit codes: 0 the pair is good and on chain; 1 it is not;\n"
        "            2 wrong usage or configuration; 3 the source could not be reached"
    )
    usual = Path("certs")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=usual, metavar="DIR", help="default: ./certs"
    )
    add_switch(parser, "offline", "do not ask for the key on chain")
    add_switch(parser, "json", "print JSON")
    add_flags(parser, SOURCE_FLAGS)


def execute(args: argparse.Namespace) -> int:
    """Looks at the pair and reports."""
    import asyncio

    from nexus_auth.adapters.clock import utc_now
    from nexus_auth.entrypoints.diagnostics.certificate_checks import check_pair

    settings = load_from(args)
    now = utc_now()
    findings, certificate = check_pair(args.folder, now, timedelta(seconds=settings.leeway_seconds))
    facts: dict[str, Any] = {}
    if certificate is not None:
        facts = {
            "hotkey": certificate.hotkey.address,
            "fingerprint_sha256": certificate.fingerprint,
            "days_left": (certificate.not_after - now).days,
        }
        if not args.offline:
            findings.append(asyncio.run(_published(settings, args.folder, certificate)))
    if args.json:
        print(as_json({**facts, "findings": [asdict(finding) for finding in findings]}))
    else:
        for name, value in facts.items():
            print(f"{name.replace('_sha256', '').replace('_', ' '):<14}{value}")
        print("\n".join(as_lines(findings, sys.stdout)))
    return exit_code(findings)


async def _published(settings: Settings, folder: Path, certificate: ClientCertificate) -> Finding:
    from nexus_auth.entrypoints.container import build_container
    from nexus_auth.entrypoints.diagnostics.certificate_checks import check_published

    async with build_container(settings).source() as source:
        try:
            key = await source.fetch_key(certificate.hotkey)
        except RegistryError as exc:
            text, next_step = str(exc), "nexus-auth doctor says more"
            return Finding("on chain", Outcome.UNREACHABLE, text, next_step)
    return check_published(folder, certificate, key)
