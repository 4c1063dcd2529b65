"""`nexus-auth policy`: checks access policies, and explains who is let in and why."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value, parsed
from nexus_auth.entrypoints.cli import add_command
from nexus_auth.entrypoints.settings import SOURCE_FLAGS, add_flags, load_from, warn_of_unknown
from nexus_auth.entrypoints.terminal import as_json, escaped, painted

if TYPE_CHECKING:
    from nexus_auth.adapters.policy.live import LivePolicies
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.policy import AccessPolicy
    from nexus_auth.entrypoints.container import Container

_EPILOG = """\
exit codes: 0 valid, or would be admitted;
            the others are in the help of each action
"""
_CHECK_EPILOG = """\
Reads FILE as the service would, or what the settings name, and shows what it
says. Sends no request.

exit codes: 0 valid; 2 not valid
"""
_EXPLAIN_EPILOG = """\
Asks the source once, Pylon or the chain, with the settings that the service
would have. What the service knows may be up to one refresh older. Nothing is
proven here: a caller needs the private key as well.

examples:
  nexus-auth policy explain 5F... -policy-file policy.toml
  nexus-auth policy explain 5F... -policy validators --json | jq .rules

exit codes: 0 would be admitted; 1 would not; 2 wrong usage or configuration;
            3 the source could not be asked
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the two actions and their arguments."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    summary = "say whether a policy file is valid, and what it says"
    check = add_command(actions, "check", summary, epilog=_CHECK_EPILOG)
    add_switch(check, "json", "print JSON")
    text = "default: what the settings say"
    check.add_argument("policy_file", metavar="FILE", nargs="?", help=text)
    summary = "say whether a hotkey would be admitted now, rule by rule"
    explain = add_command(actions, "explain", summary, epilog=_EXPLAIN_EPILOG)
    add_switch(explain, "json", "print JSON")
    explain.add_argument("hotkey", metavar="HOTKEY", help="an SS58 address")
    text = "which policy (default: the default one)"
    add_value(explain, "policy", metavar="NAME", help=text)
    add_flags(explain, (*SOURCE_FLAGS, "policy_file"))


def execute(args: argparse.Namespace) -> int:
    """Checks or explains."""
    from nexus_auth.entrypoints.container import build_container

    settings = load_from(args)
    warn_of_unknown(settings)
    container = build_container(settings)
    policies: LivePolicies = container.policies()
    if args.action == "check":
        return _show_policies(policies, json=args.json)
    return _explain(container, policies, args)


def chosen_policy(policies: LivePolicies, name: str | None) -> AccessPolicy:
    """The policy that a flag names, the default for None.

    Raises:
        ConfigurationError: When there is none of that name.
    """
    policy = policies().named(name)
    if policy is None:
        problem = f"{name!r}: there is no such policy, only {', '.join(policies.health().names)}"
        raise ConfigurationError(setting="-policy", source="flag", problem=problem)
    return policy


def _show_policies(policies: LivePolicies, *, json: bool) -> int:
    state, found = policies.health(), policies().policies
    default = state.names[0]
    shown: dict[str, Any] = {
        name: {
            "rules": [rule.demand for rule in found[name].rules],
            "needs_neurons": found[name].needs_neurons,
        }
        for name in state.names
    }
    if json:
        print(as_json({"source": state.source, "default": default, "policies": shown}))
        return exit_codes.DONE
    print(f"{escaped(state.source)}: valid")
    for name in state.names:
        print(f"\n{name}{' (default)' if name == default else ''}")
        for demand in shown[name]["rules"] or ["every registered hotkey"]:
            print(f"  {demand}")
    return exit_codes.DONE


def _explain(container: Container, policies: LivePolicies, args: argparse.Namespace) -> int:
    import asyncio

    from nexus_auth.domain.hotkey import Hotkey

    hotkey = parsed("HOTKEY", args.hotkey, Hotkey.parse, source="argument")
    policy = chosen_policy(policies, args.policy)
    is_registered, neuron = asyncio.run(_fetch_facts(container, hotkey, policy))
    explained = policy.explain(hotkey, neuron)
    objections = [objection for _, objection in explained if objection is not None]
    shown: dict[str, Any] = {
        "hotkey": hotkey.address,
        "policy": policy.name,
        "source": policies.health().source,
        "registered": is_registered,
        "neuron": None if neuron is None else dataclasses.asdict(neuron),
        "rules": [{"demand": rule.demand, "objection": objection} for rule, objection in explained],
        "admitted": is_registered and not objections,
    }
    if not is_registered:
        shown["reason"] = DenialReason.NOT_REGISTERED.value
        shown["detail"] = "the hotkey is not registered"
    elif objections:
        shown["reason"], shown["detail"] = DenialReason.NOT_PERMITTED.value, objections[0]
    if args.json:
        print(as_json(shown))
    else:
        _print_explanation(shown, looked=policy.needs_neurons)
    return exit_codes.DONE if shown["admitted"] else exit_codes.FAILED


async def _fetch_facts(
    container: Container, hotkey: Hotkey, policy: AccessPolicy
) -> tuple[bool, Neuron | None]:
    """Whether the hotkey is registered, and its neuron where a rule of the policy needs one."""
    async with container.source() as source:
        key = await source.fetch_key(hotkey)
        neurons, _ = await source.fetch_neurons() if policy.needs_neurons else ({}, 0)
    return key is not None, neurons.get(hotkey)


def _print_explanation(shown: dict[str, Any], *, looked: bool) -> None:
    good, bad = (painted(*mark, sys.stdout) for mark in (("ok", "green"), ("no", "red")))
    print(f"{'hotkey':<12} {shown['hotkey']}")
    print(f"{'policy':<12} {shown['policy']}, from {escaped(shown['source'])}")
    print(f"{'registered':<12} {'yes' if shown['registered'] else 'no'}")
    neuron = shown["neuron"]
    if neuron is not None:
        print(
            f"{'neuron':<12} uid {neuron['uid']}, "
            f"{'' if neuron['validator_permit'] else 'no '}validator permit, "
            f"{'active' if neuron['active'] else 'not active'}, stake {neuron['total']:.12g} total "
            f"({neuron['alpha']:.12g} alpha, {neuron['tao']:.12g} tao)"
        )
    elif looked:
        print(f"{'neuron':<12} none: no uid on the subnet")
    print()
    for rule in shown["rules"] or [{"demand": "every registered hotkey", "objection": None}]:
        if rule["objection"] is None:
            print(f"  {good}  {rule['demand']}")
        else:
            print(f"  {bad}  {rule['demand']}: {rule['objection']}")
    if shown["admitted"]:
        print("\n" + painted("admitted", "green", sys.stdout))
    else:
        word = painted("not admitted", "red", sys.stdout)
        print(f"\n{word}: {shown['reason']} ({shown['detail']})")
