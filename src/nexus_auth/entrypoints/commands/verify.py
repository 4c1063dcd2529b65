"""`nexus-auth verify CERT`: the whole decision, taken now, with the service's settings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from nexus_auth.entrypoints import exit_codes

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from nexus_auth.adapters.pylon.client import PylonClient
    from nexus_auth.domain.decision import Decision
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.ports import Clock, Registration
    from nexus_auth.entrypoints.settings import Settings

_EPILOG = """\
Asks Pylon once, with the settings that the service would have, and remembers
nothing: what is printed is what the chain says now. What the service knows may
be up to one refresh older.

examples:
  nexus-auth verify certs/client.crt
  nexus-auth verify --json certs/client.crt | jq .decision
  nexus-auth verify -policy-file policy.toml -policy validators certs/client.crt
  nexus-auth verify -pylon-endpoint http://127.0.0.1:8000 -net-uid 1 - < a.crt

exit codes: 0 granted · 1 denied · 2 wrong usage or configuration ·
            3 Pylon could not be asked
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from nexus_auth.entrypoints.settings import PYLON_FLAGS, add_flags

    parser.add_argument("certificate", metavar="CERT", help="a PEM or DER file; - reads stdin")
    parser.add_argument("-json", "--json", action="store_true", help="print JSON")
    parser.add_argument(
        "-policy",
        "--policy",
        metavar="NAME",
        help="the access policy to apply (default: the default one)",
    )
    add_flags(parser, (*PYLON_FLAGS, "policy_file"))
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Decides on one certificate and says why."""
    import asyncio

    from nexus_auth.adapters.clock import utc_now
    from nexus_auth.entrypoints.description import load_certificate
    from nexus_auth.entrypoints.settings import load_from, warn_of_unknown

    settings = load_from(args)
    warn_of_unknown(settings)
    data = load_certificate(args.certificate)
    decision, registered = asyncio.run(_decide(settings, data, args.policy))
    if args.json:
        _print_json(decision, registered, data, utc_now())
    else:
        _print_lines(decision, registered, data, utc_now())
    return _exit_code(decision)


class _AskedOnce:
    """A `KeyRegistry` that knows nothing by itself and passes every question on.

    The service's own registries answer a first question within two seconds or not at all; a
    person who waits for one answer would rather wait as long as Pylon takes.
    """

    def __init__(self, *, source: PylonClient, clock: Clock, needs_neurons: bool) -> None:
        self._source = source
        self._clock = clock
        self._needs_neurons = needs_neurons
        self.registered: bytes | None = None

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """See `KeyRegistry.peek`."""
        del hotkey
        return None

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        """See `KeyRegistry.lookup`."""
        from nexus_auth.domain.ed25519 import is_usable_public_key
        from nexus_auth.domain.errors import RegistryAnswerInvalid
        from nexus_auth.domain.ports import Registration

        del presented
        self.registered = await self._source.fetch_key(hotkey)
        if self.registered is None:
            return None
        if not is_usable_public_key(self.registered):
            raise RegistryAnswerInvalid(f"the key registered for {hotkey} cannot be used")
        neurons, _ = await self._source.fetch_neurons() if self._needs_neurons else ({}, 0)
        return Registration(
            public_key=self.registered, expires_at=self._clock(), neuron=neurons.get(hotkey)
        )


async def _decide(
    settings: Settings, data: bytes, policy_name: str | None
) -> tuple[Decision, bytes | None]:
    from datetime import timedelta

    from nexus_auth.domain.verifier import CertificateVerifier
    from nexus_auth.entrypoints.commands.policy import chosen_policy
    from nexus_auth.entrypoints.container import build_container

    container = build_container(settings)
    policy = chosen_policy(container.policies(), policy_name)
    source, clock = container.pylon(), container.clock()
    try:
        registry = _AskedOnce(source=source, clock=clock, needs_neurons=policy.needs_neurons)
        verifier = CertificateVerifier(
            registry=registry, clock=clock, leeway=timedelta(seconds=settings.leeway_seconds)
        )
        decision = await verifier.verify(data, policy=policy)
    finally:
        await source.aclose()
    return decision, registry.registered


def _exit_code(decision: Decision) -> int:
    from nexus_auth.domain.decision import Denied, Granted
    from nexus_auth.domain.reasons import DenialReason

    match decision:
        case Granted():
            return exit_codes.DONE
        case Denied(reason=DenialReason.REGISTRY_UNAVAILABLE):
            return exit_codes.UNREACHABLE
        case Denied():
            return exit_codes.FAILED


def _print_lines(decision: Decision, registered: bytes | None, data: bytes, now: datetime) -> None:
    from nexus_auth.domain.decision import Denied, Granted
    from nexus_auth.domain.errors import CertificateRejected
    from nexus_auth.domain.reasons import DenialReason
    from nexus_auth.entrypoints.description import build_description
    from nexus_auth.entrypoints.terminal import painted

    try:
        lines = build_description(data, now).as_lines(now)
    except CertificateRejected:
        lines = []  # no certificate at all: the decision says so
    if registered is not None:
        lines.append(f"{'registered':<12} Ed25519 {registered.hex()}")
    if lines:
        print("\n".join([*lines, ""]))
    match decision:
        case Granted(hotkey=hotkey):
            print(f"{painted('granted', 'green', sys.stdout)}: {hotkey}")
        case Denied(reason=DenialReason.REGISTRY_UNAVAILABLE, detail=detail):
            print(f"{painted('undecided', 'yellow', sys.stdout)}: {detail}")
        case Denied(reason=reason, detail=detail):
            print(f"{painted('denied', 'red', sys.stdout)}: {reason.value} ({detail})")


def _print_json(decision: Decision, registered: bytes | None, data: bytes, now: datetime) -> None:
    from nexus_auth.domain.decision import Denied, Granted
    from nexus_auth.domain.errors import CertificateRejected
    from nexus_auth.domain.reasons import DenialReason
    from nexus_auth.entrypoints.description import build_description
    from nexus_auth.entrypoints.terminal import as_json

    shown: dict[str, Any]
    match decision:
        case Granted(hotkey=hotkey):
            shown = {"decision": "granted", "hotkey": hotkey.address}
        case Denied(reason=DenialReason.REGISTRY_UNAVAILABLE as reason, detail=detail):
            shown = {"decision": "undecided", "reason": reason.value, "detail": detail}
        case Denied(reason=reason, detail=detail):
            shown = {"decision": "denied", "reason": reason.value, "detail": detail}
    try:
        description = build_description(data, now).as_json(now)
    except CertificateRejected:
        description = None
    shown["registered_public_key"] = None if registered is None else registered.hex()
    shown["certificate"] = description
    print(as_json(shown))
