"""`nexus-auth generate`: has Pylon make a key pair and writes client.key and client.crt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.settings import PYLON_FLAGS, add_flags, load_from

if TYPE_CHECKING:
    import argparse

    from nexus_auth.adapters.credentials.directory import CredentialsDirectory
    from nexus_auth.adapters.pylon.client import PylonClient
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.entrypoints.issuing.issuance import Order
    from nexus_auth.entrypoints.issuing.reporter import Reporter
    from nexus_auth.entrypoints.settings import Settings

_ADDRESS_FLAG: Final = "-ss58-address"
_ALGORITHM_FLAG: Final = "-algorithm"
_DAYS_FLAG: Final = "-not-after-days"
_RENEW_FLAG: Final = "-renew-before-days"
_ED25519: Final = 1
_MAX_TIMEOUT_SECONDS: Final = 3600.0

_EPILOG: Final = """\
Asking Pylon for a key pair REPLACES THE KEY ON CHAIN: certificates made before
stop working. So everything that can fail is tried first, Ctrl-C waits until the
answer is on disk, and an interrupted run is finished by the next one. Both
files present: nothing happens.

examples:
  nexus-auth generate -ss58-address 5F...
  nexus-auth generate -ss58-address 5F... -output-dir /etc/mtls -force-recreate
  nexus-auth generate -ss58-address 5F... -renew-before-days 30 \\
      -after-change "nginx -s reload"
  nexus-auth generate -ss58-address 5F... -reuse-key
      (a new certificate, the same key)

exit codes: 0 done, or nothing to do ·
            1 Pylon refused, or the files cannot be written ·
            2 wrong usage or configuration · 3 Pylon could not be reached
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = parser.add_argument
    add(
        "-ss58-address",
        "--ss58-address",
        required=True,
        metavar="ADDR",
        help="the hotkey of the Pylon identity; becomes O in the certificate",
    )
    add(
        "-output-dir",
        "--output-dir",
        default="./certs",
        metavar="DIR",
        help="where client.key and client.crt are written; made if missing (default ./certs)",
    )
    add(
        "-algorithm",
        "--algorithm",
        type=int,
        default=_ED25519,
        metavar="N",
        help="1 is Ed25519, the only one there is (default 1)",
    )
    add(
        "-not-after-days",
        "--not-after-days",
        type=int,
        default=3650,
        metavar="DAYS",
        help="how long the certificate is valid (default 3650)",
    )
    _add_switch(
        parser, "force-recreate", "replace what is there, and the key on chain, without asking"
    )
    _add_switch(
        parser,
        "reuse-key",
        "make a new certificate around the key that is there; the chain is not touched",
    )
    add(
        "-renew-before-days",
        "--renew-before-days",
        type=int,
        metavar="DAYS",
        help="do nothing while the certificate is valid for longer and its key is on chain; "
        "otherwise replace the pair",
    )
    add(
        "-after-change",
        "--after-change",
        metavar="COMMAND",
        help="run after the files have changed, without a shell; a failure is exit code 1",
    )
    add(
        "-confirm-timeout-seconds",
        "--confirm-timeout-seconds",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait until the chain has the new key; 0 does not ask (default 60)",
    )
    add(
        "-generate-timeout-seconds",
        "--generate-timeout-seconds",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long Pylon may take to make and publish the pair (default 300)",
    )
    add_flags(parser, PYLON_FLAGS)
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Has a pair made, unless there is one."""
    from pathlib import Path

    from nexus_auth.adapters.credentials.directory import CredentialsDirectory, Holdings
    from nexus_auth.entrypoints.issuing.reporter import Reporter

    order = _order_from(args)
    directory = CredentialsDirectory(Path(args.output_dir))
    reporter = Reporter()
    if (
        order.is_content_with_any_pair
        and directory.holdings() is Holdings.BOTH
        and not directory.has_unfinished_work()
        and not order.has_untold_change(directory)
    ):
        reporter.result(
            f"{directory.key_path} and {directory.certificate_path} exist: nothing to do "
            "(-force-recreate replaces them, and the key on chain)"
        )
        return exit_codes.DONE
    settings = load_from(args)
    if not order.reuse_key:
        _require_identity(settings)
    return _run(order, directory, settings, reporter, args.generate_timeout_seconds)


def _run(
    order: Order,
    directory: CredentialsDirectory,
    settings: Settings,
    reporter: Reporter,
    generate_timeout_seconds: float,
) -> int:
    import asyncio

    from nexus_auth.entrypoints.container import build_container
    from nexus_auth.entrypoints.issuing.issuance import Issuance

    container = build_container(settings)

    async def issue() -> int:
        client: PylonClient = container.pylon(generate_timeout_seconds=generate_timeout_seconds)
        async with client:

            async def find_holder(public_key: bytes) -> Hotkey | None:
                keys = (await client.fetch_keys()).keys
                return next((each for each, key in keys.items() if key == public_key), None)

            return await Issuance(
                order=order,
                directory=directory,
                issuer=client,
                find_holder=find_holder,
                clock=container.clock(),
                reporter=reporter,
            ).run()

    try:
        return asyncio.run(issue())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # the one that was obeyed at last


def _order_from(args: argparse.Namespace) -> Order:
    """Checks everything that can be checked without asking anybody."""
    from datetime import timedelta

    from nexus_auth.adapters.clock import utc_now
    from nexus_auth.domain.errors import ConfigurationError, InvalidHotkey
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.issuing import validity_end
    from nexus_auth.entrypoints.issuing.hook import Hook
    from nexus_auth.entrypoints.issuing.issuance import Order

    try:
        hotkey = Hotkey.parse(args.ss58_address)
    except InvalidHotkey as exc:
        raise ConfigurationError(setting=_ADDRESS_FLAG, problem=str(exc)) from None
    if args.algorithm != _ED25519:
        raise ConfigurationError(
            setting=_ALGORITHM_FLAG, problem="only 1 (Ed25519) is known to Pylon and to the chain"
        )
    try:
        valid_for = timedelta(days=args.not_after_days)
        validity_end(utc_now(), valid_for)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            setting=_DAYS_FLAG, problem="expected at least 1 day, and an end before the year 10000"
        ) from None
    renew_before = None
    if args.renew_before_days is not None:
        if not 0 <= args.renew_before_days < args.not_after_days:
            raise ConfigurationError(
                setting=_RENEW_FLAG,
                problem=f"expected days from 0 to below those of {_DAYS_FLAG}, or every run would "
                "replace the pair",
            )
        renew_before = timedelta(days=args.renew_before_days)
    for flag, lowest, seconds in (
        ("-confirm-timeout-seconds", 0, args.confirm_timeout_seconds),
        ("-generate-timeout-seconds", 1, args.generate_timeout_seconds),
    ):
        if not lowest <= seconds <= _MAX_TIMEOUT_SECONDS:
            raise ConfigurationError(
                setting=flag,
                problem=f"expected seconds from {lowest} to {_MAX_TIMEOUT_SECONDS:g}",
            )
    if args.force_recreate and args.reuse_key:
        raise ConfigurationError(
            setting="-force-recreate", problem="replaces the key, which -reuse-key keeps"
        )
    return Order(
        hotkey=hotkey,
        algorithm=args.algorithm,
        valid_for=valid_for,
        force=args.force_recreate,
        reuse_key=args.reuse_key,
        renew_before=renew_before,
        confirm_seconds=args.confirm_timeout_seconds,
        after_change=None if args.after_change is None else Hook.parse(args.after_change),
    )


def _require_identity(settings: Settings) -> None:
    """Refuses settings that could only read: issuing speaks for an identity."""
    from nexus_auth.domain.errors import ConfigurationError

    for name, value in (
        ("NEXUS_PYLON_IDENTITY_NAME", settings.identity_name),
        ("NEXUS_PYLON_IDENTITY_TOKEN", settings.identity_token),
        ("NEXUS_PYLON_NETUID", settings.netuid),
    ):
        if value is None:
            raise ConfigurationError(setting=name, problem="needed to have a key pair made")


def _add_switch(parser: argparse.ArgumentParser, name: str, explanation: str) -> None:
    """Adds a switch that may be written as in Go too: -name=true, -name=false."""
    parser.add_argument(
        f"-{name}",
        f"--{name}",
        nargs="?",
        const=True,
        default=False,
        type=_truth,
        metavar="true|false",
        help=explanation,
    )


def _truth(text: str) -> bool:
    import argparse

    truths = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    if text.lower() not in truths:
        raise argparse.ArgumentTypeError("expected true or false")
    return truths[text.lower()]
