"""`nexus-auth generate`: has Pylon make a key pair and writes client.key and client.crt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nexus_auth.entrypoints.arguments import add_go_switch, add_value
from nexus_auth.entrypoints.settings import PYLON_FLAGS, add_flags, load_from

if TYPE_CHECKING:
    import argparse

    from nexus_auth.domain.issuance import Order

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
    add_value(
        parser,
        "ss58-address",
        required=True,
        metavar="ADDR",
        help="the hotkey of the Pylon identity; becomes O in the certificate",
    )
    add_value(
        parser,
        "output-dir",
        default="./certs",
        metavar="DIR",
        help="where client.key and client.crt are written; made if missing (default ./certs)",
    )
    add_value(
        parser,
        "algorithm",
        type=int,
        default=_ED25519,
        metavar="N",
        help="1 is Ed25519, the only one there is (default 1)",
    )
    add_value(
        parser,
        "not-after-days",
        type=int,
        default=3650,
        metavar="DAYS",
        help="how long the certificate is valid (default 3650)",
    )
    add_go_switch(
        parser, "force-recreate", "replace what is there, and the key on chain, without asking"
    )
    add_go_switch(
        parser,
        "reuse-key",
        "make a new certificate around the key that is there; the chain is not touched",
    )
    add_value(
        parser,
        "renew-before-days",
        type=int,
        metavar="DAYS",
        help="do nothing while the certificate is valid for longer and its key is on chain; "
        "otherwise replace the pair",
    )
    add_value(
        parser,
        "after-change",
        metavar="COMMAND",
        help="run after the files have changed, without a shell; a failure is exit code 1",
    )
    add_value(
        parser,
        "confirm-timeout-seconds",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait until the chain has the new key; 0 does not ask (default 60)",
    )
    add_value(
        parser,
        "generate-timeout-seconds",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long Pylon may take to make and publish the pair (default 300)",
    )
    add_flags(parser, PYLON_FLAGS)
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Has a pair made, unless there is one."""
    import functools
    from pathlib import Path

    from nexus_auth.adapters.credentials.directory import CredentialsDirectory
    from nexus_auth.entrypoints.issuing.generate import generate
    from nexus_auth.entrypoints.issuing.hook import Hook

    return generate(
        _parse_order(args),
        directory=CredentialsDirectory(Path(args.output_dir)),
        load_settings=functools.partial(load_from, args),
        after_change=None if args.after_change is None else Hook.parse(args.after_change),
        confirm_seconds=args.confirm_timeout_seconds,
        generate_timeout_seconds=args.generate_timeout_seconds,
    )


def _parse_order(args: argparse.Namespace) -> Order:
    """Checks everything that can be checked without a request."""
    from datetime import timedelta

    from nexus_auth.adapters.clock import utc_now
    from nexus_auth.domain.errors import ConfigurationError, InvalidHotkey
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.issuance import Order
    from nexus_auth.domain.issuing import validity_end

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
        if not lowest <= seconds <= _MAX_TIMEOUT_SECONDS:
            problem = f"expected seconds from {lowest} to {_MAX_TIMEOUT_SECONDS:g}"
            raise ConfigurationError(setting=flag, problem=problem)
    if args.force_recreate and args.reuse_key:
        problem = "replaces the key, which -reuse-key keeps"
        raise ConfigurationError(setting="-force-recreate", problem=problem)
    return Order(
        hotkey=hotkey,
        algorithm=args.algorithm,
        valid_for=valid_for,
        force=args.force_recreate,
        reuse_key=args.reuse_key,
        renew_before=renew_before,
    )
