"""`nexus-auth verify CERT`: the whole decision, taken now, with the service's settings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from nexus_auth.adapters.clock import utc_now
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.errors import CertificateRejected, RegistryAnswerInvalid
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value
from nexus_auth.entrypoints.settings import (
    PYLON_FLAGS,
    Settings,
    add_flags,
    load_from,
    warn_of_unknown,
)
from nexus_auth.entrypoints.terminal import as_json, painted

if TYPE_CHECKING:
    import argparse

    from nexus_auth.adapters.pylon.client import PylonClient
    from nexus_auth.domain.decision import Decision
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.ports import Clock, Registration

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
    parser.add_argument("certificate", metavar="CERT", help="a PEM or DER file; - reads stdin")
    add_switch(parser, "json", "print JSON")
    add_value(
        parser,
        "policy",
        metavar="NAME",
        help="the access policy to apply (default: the default one)",
    )
    add_flags(parser, (*PYLON_FLAGS, "policy_file"))
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Decides on one certificate and prints the decision with its reason."""
    import asyncio

    from nexus_auth.entrypoints.certificate_input import load_certificate
    from nexus_auth.entrypoints.description import build_description

    settings = load_from(args)
    warn_of_unknown(settings)
    data = load_certificate(args.certificate)
    decision, registered = asyncio.run(_decide(settings, data, args.policy))
    now = utc_now()
    try:
        description = build_description(data, now)
    except CertificateRejected:
        description = None  # no certificate at all: the decision says so
    outcome = _outcome(decision)
    if args.json:
        shown = {
            "decision": outcome.word,
            **outcome.facts,
            "registered_public_key": None if registered is None else registered.hex(),
            "certificate": None if description is None else description.as_json(now),
        }
        print(as_json(shown))
        return outcome.exit_code
    lines = [] if description is None else description.as_lines(now)
    if registered is not None:
        lines.append(f"{'registered':<12} Ed25519 {registered.hex()}")
    if lines:
        print("\n".join([*lines, ""]))
    print(f"{painted(outcome.word, outcome.colour, sys.stdout)}: {outcome.text}")
    return outcome.exit_code


class _PatientRegistry:
    """A `KeyRegistry` that remembers nothing: each lookup is one request to the source.

    It waits for the source's own time limit. The service's registries give up a first lookup after
    two seconds, since a caller waits for them.
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
        registry = _PatientRegistry(source=source, clock=clock, needs_neurons=policy.needs_neurons)
        verifier = CertificateVerifier(
            registry=registry, clock=clock, leeway=timedelta(seconds=settings.leeway_seconds)
        )
        decision = await verifier.verify(data, policy=policy)
    finally:
        await source.aclose()
    return decision, registry.registered


class _Outcome(NamedTuple):
    """How a decision is shown."""

    word: str
    colour: str
    text: str
    facts: dict[str, str]
    exit_code: int


def _outcome(decision: Decision) -> _Outcome:
    from nexus_auth.entrypoints.description import denial_as_json

    match decision:
        case Granted(hotkey=hotkey):
            facts = {"hotkey": hotkey.address}
            return _Outcome("granted", "green", hotkey.address, facts, exit_codes.DONE)
        case Denied(reason=DenialReason.REGISTRY_UNAVAILABLE, detail=detail):
            facts = denial_as_json(decision)
            return _Outcome("undecided", "yellow", detail, facts, exit_codes.UNREACHABLE)
        case Denied(reason=reason, detail=detail):
            facts = denial_as_json(decision)
            text = f"{reason.value} ({detail})"
            return _Outcome("denied", "red", text, facts, exit_codes.FAILED)
