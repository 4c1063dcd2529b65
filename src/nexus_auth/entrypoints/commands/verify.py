"""`nexus-auth verify CERT`: the whole decision, taken now, with the service's settings."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.errors import CertificateRejected, RegistryAnswerInvalid
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value
from nexus_auth.entrypoints.commands.policy import chosen_policy
from nexus_auth.entrypoints.settings import (
    SOURCE_FLAGS,
    Settings,
    add_flags,
    load_from,
    warn_of_unknown,
)
from nexus_auth.entrypoints.terminal import as_json, painted

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.ports import Clock, KeySource, NeuronSource, Registration

_EPILOG = """\
Asks the source once, Pylon or the chain, with the settings that the service
would have, and remembers nothing: what is printed is what the chain says now.
What the service knows may be up to one refresh older.

examples:
  nexus-auth verify certs/client.crt
  nexus-auth verify --json certs/client.crt | jq .decision
  nexus-auth verify -policy-file policy.toml -policy validators certs/client.crt
  nexus-auth verify -pylon-endpoint http://127.0.0.1:8000 -net-uid 1 - < a.crt
  nexus-auth verify -source chain -chain-endpoint ws://node -net-uid 1 a.crt

exit codes: 0 granted; 1 denied; 2 wrong usage or configuration;
            3 the source could not be asked
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("certificate", metavar="CERT", help="a PEM or DER file; - reads stdin")
    add_switch(parser, "json", "print JSON")
    text = "the access policy to apply (default: the default one)"
    add_value(parser, "policy", metavar="NAME", help=text)
    add_flags(parser, (*SOURCE_FLAGS, "policy_file"))
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Decides on one certificate and prints the decision with its reason."""
    import asyncio

    from nexus_auth.adapters.clock import utc_now
    from nexus_auth.entrypoints import description

    settings = load_from(args)
    warn_of_unknown(settings)
    data = description.load_certificate(args.certificate)
    decision, registered = asyncio.run(_decide(settings, data, args.policy))
    try:
        described = description.build_description(data, utc_now())
    except CertificateRejected:
        described = None  # no certificate at all: the decision says so
    word, colour, text, code = _shown(decision)
    if args.json:
        if isinstance(decision, Granted):
            facts = {"hotkey": decision.hotkey.address}
        else:
            facts = description.denial_as_json(decision)
        shown = {
            "decision": word,
            **facts,
            "registered_public_key": None if registered is None else registered.hex(),
            "certificate": None if described is None else described.document,
        }
        print(as_json(shown))
        return code
    lines = [] if described is None else [*described.lines]
    if registered is not None:
        lines.append(f"{'registered':<12} Ed25519 {registered.hex()}")
    if lines:
        print("\n".join([*lines, ""]))
    print(f"{painted(word, colour, sys.stdout)}: {text}")
    return code


def _shown(decision: Decision) -> tuple[str, str, str, int]:
    """A decision in a word, the word's colour, the text beside it, and the exit code."""
    match decision:
        case Granted(hotkey=hotkey):
            return "granted", "green", hotkey.address, exit_codes.DONE
        case Denied(reason=DenialReason.REGISTRY_UNAVAILABLE, detail=detail):
            return "undecided", "yellow", detail, exit_codes.UNREACHABLE
        case Denied(reason=reason, detail=detail):
            return "denied", "red", f"{reason.value} ({detail})", exit_codes.FAILED


@dataclass(slots=True, kw_only=True)
class _PatientRegistry:
    """A `KeyRegistry` that remembers nothing: each lookup is one request to the source.

    It waits for the source's own time limit. The service's registries give up a first lookup after
    two seconds, since a caller waits for them.
    """

    keys: KeySource
    neurons: NeuronSource
    clock: Clock
    needs_neurons: bool
    registered: bytes | None = None

    def peek(self, hotkey: Hotkey) -> Registration | None:
        del hotkey
        return None

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        from nexus_auth.domain.ed25519 import is_usable_public_key
        from nexus_auth.domain.ports import Registration

        del presented
        self.registered = await self.keys.fetch_key(hotkey)
        if self.registered is None:
            return None
        if not is_usable_public_key(self.registered):
            raise RegistryAnswerInvalid(f"the key registered for {hotkey} cannot be used")
        neurons, _ = await self.neurons.fetch_neurons() if self.needs_neurons else ({}, 0)
        return Registration(
            public_key=self.registered, expires_at=self.clock(), neuron=neurons.get(hotkey)
        )


async def _decide(
    settings: Settings, data: bytes, policy_name: str | None
) -> tuple[Decision, bytes | None]:
    from nexus_auth.domain.verifier import CertificateVerifier
    from nexus_auth.entrypoints.container import build_container

    container = build_container(settings)
    policy = chosen_policy(container.policies(), policy_name)
    clock, leeway = container.clock(), timedelta(seconds=settings.leeway_seconds)
    async with container.source() as source:
        registry = _PatientRegistry(
            keys=source, neurons=source, clock=clock, needs_neurons=policy.needs_neurons
        )
        verifier = CertificateVerifier(registry=registry, clock=clock, leeway=leeway)
        return await verifier.verify(data, policy=policy), registry.registered
