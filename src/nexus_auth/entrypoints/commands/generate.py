"""`nexus-auth generate`: has a key pair made and published, writes client.key and client.crt."""

from __future__ import annotations

import argparse
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nexus_auth.domain.errors import ConfigurationError, InvalidHotkey
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_go_switch, add_value, parsed
from nexus_auth.entrypoints.settings import SOURCE_FLAGS, Settings, add_flags, load_from

if TYPE_CHECKING:
    from nexus_auth.domain.issuance import Order

_ED25519: Final = 1
_MAX_TIMEOUT_SECONDS: Final = 3600.0
_CONFIRM_SECONDS: Final = 60.0
_LOCAL_CONFIRM_SECONDS: Final = 1200.0
"""A person has to run a command, where the wallet is; and the chain may take it only after its rate
limit, ten minutes by default."""

_EPILOG: Final = """\
Asking Pylon for a key pair REPLACES THE KEY ON CHAIN: certificates made before
stop working. So everything that can fail is tried first, Ctrl-C waits until the
answer is on disk, and the next run finishes what an interrupted one left, or
looks at the chain where its answer was lost. Both files present otherwise:
nothing happens.

examples:
  nexus-auth generate -ss58-address 5F...
  nexus-auth generate -ss58-address 5F... -output-dir /etc/mtls -force-recreate
  nexus-auth generate -ss58-address 5F... -renew-before-days 30 \\
      -after-change "nginx -s reload"
  nexus-auth generate -ss58-address 5F... -reuse-key
      (a new certificate, the same key)
  nexus-auth generate -ss58-address 5F... -local
      (the key pair is made here; publish it with your own tool, as it says)
  nexus-auth generate -ss58-address 5F... -san miner.example.com,192.0.2.7

exit codes: 0 done, or nothing to do;
            1 Pylon or the chain refuses, the key is that of another hotkey, or
              the files cannot be written;
            2 wrong usage or configuration; 3 Pylon could not be reached
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""

    def add(name: str, metavar: str, explanation: str, **options: Any) -> None:
        add_value(parser, name, metavar=metavar, help=explanation, **options)

    address = "the hotkey, with Pylon that of its identity; becomes O in the certificate"
    add("ss58-address", "ADDR", address, required=True)
    folder = "where client.key and client.crt are written; made if missing (default ./certs)"
    add("output-dir", "DIR", folder, default="./certs")
    algorithm = "1 is Ed25519, the only one there is (default 1)"
    add("algorithm", "N", algorithm, type=int, default=_ED25519)
    not_after = "how long the certificate is valid (default 3650)"
    add("not-after-days", "DAYS", not_after, type=int, default=3650)
    names = (
        "host names and IP addresses, separated by commas, for clients that check the name that "
        "they call; by default those of the certificate that is replaced; '' is none"
    )
    add("san", "NAME,...", names, action="append")
    force = "replace what is there, and the key on chain, without asking"
    add_go_switch(parser, "force-recreate", force)
    reuse = "make a new certificate around the key that is there; the chain is not touched"
    add_go_switch(parser, "reuse-key", reuse)
    renew = (
        "do nothing while the certificate is valid for longer and its key is on chain; otherwise "
        "replace the pair"
    )
    add("renew-before-days", "DAYS", renew, type=int)
    local = (
        "make the key pair on this machine: shows the command that publishes its public half, and "
        "waits until the chain has it; needs no identity"
    )
    add_go_switch(parser, "local", local)
    publish = (
        "with -local: run this to publish it, without a shell; what to publish is in its "
        "environment (NEXUS_AUTH_PUBLISH_...)"
    )
    add("publish-with", "COMMAND", publish)
    after = "run after the files have changed, without a shell; a failure is exit code 1"
    add("after-change", "COMMAND", after)
    confirm = (
        "how long to wait until the chain has the new key; 0 does not ask (default 60; with -local "
        "1200, and 0 looks once)"
    )
    add("confirm-timeout-seconds", "SECONDS", confirm, type=float)
    generating = "how long Pylon may take to make and publish the pair (default 300)"
    add("generate-timeout-seconds", "SECONDS", generating, type=float, default=300.0)
    add_flags(parser, SOURCE_FLAGS)
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Has a pair made, unless there is one: that needs neither settings nor Pylon."""
    import asyncio

    from nexus_auth.adapters.credentials.directory import CredentialsDirectory
    from nexus_auth.adapters.credentials.local_issuer import LocalIssuer
    from nexus_auth.entrypoints.issuing.hook import Hook
    from nexus_auth.entrypoints.issuing.issuance import Issuance, is_nothing_to_do
    from nexus_auth.entrypoints.issuing.preflight import Preflight
    from nexus_auth.entrypoints.issuing.publishing import Publisher
    from nexus_auth.entrypoints.reporter import Reporter

    order = _parse_order(args)
    after_change = None if args.after_change is None else Hook.parse(args.after_change)
    publish_with = None
    if args.publish_with is not None:
        publish_with = Hook.parse(args.publish_with, setting="-publish-with")
    directory = CredentialsDirectory(Path(args.output_dir), will_notify=after_change is not None)
    reporter = Reporter()
    if is_nothing_to_do(order, directory):
        reporter.result(
            f"{directory.key_path} and {directory.certificate_path} exist: nothing to do "
            "(-reuse-key makes a new certificate for this key; -force-recreate replaces both, "
            "and the key on chain)"
        )
        return exit_codes.DONE
    settings = load_from(args)
    if not order.reuse_key and not order.local:
        _require_identity(settings)

    from nexus_auth.entrypoints.container import build_container

    container = build_container(settings)

    confirm_seconds = args.confirm_timeout_seconds
    if confirm_seconds is None:
        confirm_seconds = _LOCAL_CONFIRM_SECONDS if order.local else _CONFIRM_SECONDS
    # A key that stays is only looked up: that is the business of the source.
    only_reads = order.local or (order.reuse_key and settings.source == "chain")

    issuance = partial(
        Issuance,
        order=order,
        directory=directory,
        clock=container.clock(),
        reporter=reporter,
        after_change=after_change,
        confirm_seconds=confirm_seconds,
    )

    async def publish_own() -> int:
        async with container.source() as source:
            issuer = LocalIssuer(
                hotkey=order.hotkey,
                netuid=settings.netuid,
                directory=directory,
                keys=source,
                places=source,
                publish=Publisher(command=publish_with, reporter=reporter).publish,
                waiting=reporter.waiting,
                clock=container.clock(),
                wait_seconds=confirm_seconds,
            )
            return await issuance(issuer=issuer, fetch_keys=source.fetch_keys).run()

    async def ask_pylon() -> int:
        timeout = args.generate_timeout_seconds
        async with (
            container.pylon(generate_timeout_seconds=timeout) as client,
            container.source() as places,
        ):
            preflight = Preflight(
                order=order,
                compare=client.compare,
                fetch_keys=client.fetch_keys,
                fetch_place=places.fetch_place,
                netuid=settings.netuid,
                clock=container.clock(),
                reporter=reporter,
            )
            return await issuance(
                issuer=client, fetch_keys=client.fetch_keys, preflight=preflight
            ).run()

    try:
        return asyncio.run(publish_own() if only_reads else ask_pylon())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # the one that was obeyed at last


def _require_identity(settings: Settings) -> None:
    """Rejects settings that can only read: a key pair is made for an identity.

    None at all are those of a Pylon of the first generation, whose identity is its own wallet.
    """
    if (settings.identity_name, settings.identity_token, settings.netuid) == (None, None, None):
        return
    for name, value in (
        ("NEXUS_PYLON_IDENTITY_NAME", settings.identity_name),
        ("NEXUS_PYLON_IDENTITY_TOKEN", settings.identity_token),
        ("NEXUS_PYLON_NETUID", settings.netuid),
    ):
        if value is None:
            raise ConfigurationError(setting=name, problem="needed to have a key pair made")


def _parse_order(args: argparse.Namespace) -> Order:
    """Checks everything that can be checked without a request."""
    from nexus_auth.adapters.clock import utc_now
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.issuance import Order
    from nexus_auth.domain.issuing import validity_end
    from nexus_auth.domain.server_name import parse_names

    try:
        hotkey = Hotkey.parse(args.ss58_address)
    except InvalidHotkey as exc:
        raise ConfigurationError(setting="-ss58-address", problem=str(exc)) from None
    if args.algorithm != _ED25519:
        problem = "only 1 (Ed25519) is known to Pylon and to the chain"
        raise ConfigurationError(setting="-algorithm", problem=problem)
    try:
        valid_for = timedelta(days=args.not_after_days)
        validity_end(utc_now(), valid_for)
    except (ValueError, OverflowError):
        problem = "expected at least 1 day, and an end before the year 10000"
        raise ConfigurationError(setting="-not-after-days", problem=problem) from None
    names = None if args.san is None else parsed("-san", ",".join(args.san), parse_names)
    renew_before = None
    if args.renew_before_days is not None:
        if not 0 <= args.renew_before_days < args.not_after_days:
            raise ConfigurationError(
                setting="-renew-before-days",
                problem="expected days from 0 to below those of -not-after-days, or every run "
                "would replace the pair",
            )
        renew_before = timedelta(days=args.renew_before_days)
    for flag, lowest, seconds in (
        ("-confirm-timeout-seconds", 0, args.confirm_timeout_seconds),
        ("-generate-timeout-seconds", 1, args.generate_timeout_seconds),
    ):
        if seconds is not None and not lowest <= seconds <= _MAX_TIMEOUT_SECONDS:
            problem = f"expected seconds from {lowest} to {_MAX_TIMEOUT_SECONDS:g}"
            raise ConfigurationError(setting=flag, problem=problem)
    keeps = "replaces the key, which -reuse-key keeps"
    for is_wrong, flag, problem in (
        (args.force_recreate and args.reuse_key, "-force-recreate", keeps),
        (args.local and args.reuse_key, "-local", keeps),
        (args.publish_with is not None and not args.local, "-publish-with", "needs -local"),
    ):
        if is_wrong:
            raise ConfigurationError(setting=flag, problem=problem)
    return Order(
        hotkey=hotkey,
        algorithm=args.algorithm,
        valid_for=valid_for,
        force=args.force_recreate,
        reuse_key=args.reuse_key,
        renew_before=renew_before,
        local=args.local,
        names=names,
    )
