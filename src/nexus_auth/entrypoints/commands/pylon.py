"""`nexus-auth pylon`: a development Pylon on its own."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any, Final

from nexus_auth.adapters.addresses import TcpAddress, parse_listen_address
from nexus_auth.adapters.devnet.records import MAX_NETUID
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value, parsed, whole_number

_MAX_RATE_LIMIT: Final = 1_000_000
"""Some months of blocks."""

_DESCRIPTION: Final = """\
Runs a development Pylon: the same HTTP API, with a file in the place of the
chain. FOR DEVELOPMENT ONLY: nothing is checked on any chain, and any client
with a token may publish keys.

Without any identity it makes one, "dev", with a hotkey of its own that is
registered on the subnet. Its connection settings are printed as lines for a
.env file; tokens are in files that only you can read.
"""
_EPILOG: Final = """\
A token never comes from the command line, where every user of the machine could
read it:
  NEXUS_PYLON_DEV_TOKEN              for the identities named here
  NEXUS_PYLON_DEV_OPEN_ACCESS_TOKEN  for the open-access API; once set it stays
Where there is neither a variable nor --token-file, a token is made and kept in
FILE.NAME.token.

NEURON is a hotkey, followed by what is to be set: stake=N alpha=N tao=N (stake
is the total), permit=yes|no active=yes|no uid=N coldkey=ADDRESS axon=IP:PORT.
A new neuron with the uid of another one takes its place; the other one loses
its key.

As on chain, only a neuron with an axon can publish a key. An identity that
serves none gets 0.0.0.0:1; axon=0.0.0.0:0 takes it away.

examples:
  nexus-auth pylon --data pylon.sqlite > .env
  nexus-auth pylon --data pylon.sqlite --identity validator=5F... --netuid 12
  nexus-auth pylon --data pylon.sqlite --seed-only --neuron 5C...,permit=yes
      (changes a neuron while another process serves the same file)

exit codes: 0 stopped by a signal, or seeded; 1 the address is taken;
            2 wrong usage or unusable data file
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = partial(add_value, parser)
    repeated: dict[str, Any] = {"action": "append", "default": []}
    explanation = "data file, made if missing; :memory: forgets all"
    add("data", required=True, metavar="FILE", help=explanation)
    explanation = "host:port to listen on; port 0 takes a free one (default: %(default)s)"
    add("listen", default="127.0.0.1:8000", metavar="ADDR", help=explanation)
    explanation = "allow an address that other machines can reach (for container networks)"
    add_switch(parser, "insecure-listen-publicly", explanation)
    add("netuid", metavar="N", help="subnet of what is named here (default: 1)")
    explanation = "add or replace an identity and register its hotkey; may be repeated"
    add("identity", metavar="NAME=HOTKEY", help=explanation, **repeated)
    explanation = "token of the identities named here; made if missing"
    add("token-file", metavar="FILE", help=explanation)
    explanation = (
        "register or change a neuron, such as 5C...,stake=1500,permit=yes; may be repeated"
    )
    add("neuron", metavar="NEURON", help=explanation, **repeated)
    explanation = "publish an Ed25519 public key for a hotkey; may be repeated"
    add("certificate", metavar="HOTKEY=HEX", help=explanation, **repeated)
    explanation = "how long making a key pair takes, as a chain would (default: %(default)s)"
    add("publish-seconds", default="0", metavar="SECONDS", help=explanation)
    explanation = (
        "blocks of 12 s between two axons or keys of a neuron; 50 on chain (default: %(default)s)"
    )
    add("serving-rate-limit", default="0", metavar="BLOCKS", help=explanation)
    add_switch(parser, "seed-only", "write what is named here into the data file and exit")
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Seeds the data file and serves it until a signal comes."""
    from nexus_auth.entrypoints import devnet

    netuid = whole_number(0, MAX_NETUID)
    seed = devnet.Seed(
        netuid=None if args.netuid is None else parsed("--netuid", args.netuid, netuid),
        identities=dict(
            parsed("--identity", text, devnet.parse_identity) for text in args.identity
        ),
        neurons=[parsed("--neuron", text, devnet.parse_neuron) for text in args.neuron],
        certificates=dict(
            parsed("--certificate", text, devnet.parse_certificate) for text in args.certificate
        ),
        token_file=Path(args.token_file) if args.token_file else None,
    )
    address = _address(args)
    publish_seconds = parsed("--publish-seconds", args.publish_seconds, devnet.parse_amount)
    if not 0 <= publish_seconds < math.inf:
        raise ConfigurationError(
            setting="--publish-seconds", problem="expected seconds, not below 0"
        )
    limit = whole_number(0, _MAX_RATE_LIMIT)
    serving_rate_limit = parsed("--serving-rate-limit", args.serving_rate_limit, limit)
    if args.seed_only:
        with devnet.open_store(args.data) as store:
            seed.apply(store)
    else:
        devnet.serve(
            seed,
            data=args.data,
            address=address,
            publish_seconds=publish_seconds,
            serving_rate_limit=serving_rate_limit,
        )
    return exit_codes.DONE


def _address(args: argparse.Namespace) -> TcpAddress:
    address = parsed("--listen", args.listen, parse_listen_address)
    if not isinstance(address, TcpAddress):
        raise ConfigurationError(
            setting="--listen", problem="the development Pylon needs host:port"
        )
    if not address.is_loopback and not args.insecure_listen_publicly:
        problem = (
            f"{args.listen!r} can be reached from other machines, which a development Pylon must "
            "not be; use 127.0.0.1, or --insecure-listen-publicly inside a container network"
        )
        raise ConfigurationError(setting="--listen", problem=problem)
    return address
