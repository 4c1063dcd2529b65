"""`nexus-auth pylon`: a development Pylon on its own."""

from __future__ import annotations

import contextlib
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value, parsed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from nexus_auth.adapters.addresses import TcpAddress
    from nexus_auth.adapters.devnet import Axon, DevnetStore
    from nexus_auth.adapters.devnet.store import NeuronChanges
    from nexus_auth.domain.hotkey import Hotkey

_DESCRIPTION: Final = """\
Runs a development Pylon: the same HTTP API, with a file in the place of the
chain. FOR DEVELOPMENT ONLY: nothing is checked on any chain, and whoever has a
token may publish keys.

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

examples:
  nexus-auth pylon --data pylon.sqlite > .env
  nexus-auth pylon --data pylon.sqlite --identity validator=5F... --netuid 12
  nexus-auth pylon --data pylon.sqlite --seed-only --neuron 5C...,permit=yes
      (changes a neuron while another process serves the same file)

exit codes: 0 stopped by a signal, or seeded · 1 the address is taken ·
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
    add_switch(parser, "seed-only", "write what is named here into the data file and exit")
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Seeds the data file and serves it until a signal comes."""
    from nexus_auth.adapters.addresses import CannotListen, bind
    from nexus_auth.entrypoints.devnet import Seed, serve

    seed = Seed(
        netuid=None if args.netuid is None else _netuid(args.netuid),
        identities=dict([parsed("--identity", text, _identity) for text in args.identity]),
        neurons=[parsed("--neuron", text, _neuron) for text in args.neuron],
        certificates=dict([parsed("--certificate", text, _key) for text in args.certificate]),
        token_file=Path(args.token_file) if args.token_file else None,
    )
    address = _address(args)
    publish_seconds = parsed("--publish-seconds", args.publish_seconds, _amount)
    if not 0 <= publish_seconds < math.inf:
        raise _wrong("--publish-seconds", "expected seconds, not below 0")
    with contextlib.ExitStack() as stack:
        if args.seed_only:
            seed.apply(stack.enter_context(_open(args.data)))
            return exit_codes.DONE
        try:
            # First of all: a start that cannot listen changes nothing.
            listener = stack.enter_context(contextlib.closing(bind(address)))
        except OSError as exc:
            raise CannotListen(address, "--listen", exc) from exc
        store = stack.enter_context(_open(args.data))
        connections = seed.apply(store)
        serve(
            store,
            listener=listener,
            address=address,
            connections=connections,
            publish_seconds=publish_seconds,
        )
    return exit_codes.DONE


def _open(path: str) -> DevnetStore:
    from nexus_auth.adapters.devnet import DevnetStore, DevnetStoreUnusable

    try:
        return DevnetStore.open(path)
    except DevnetStoreUnusable as exc:
        raise _wrong("--data", str(exc)) from exc


def _wrong(setting: str, problem: str) -> ConfigurationError:
    return ConfigurationError(setting=setting, problem=problem)


def _netuid(text: str) -> int:
    from nexus_auth.adapters.devnet.records import MAX_NETUID

    netuid = parsed("--netuid", text, _whole_number)
    if netuid > MAX_NETUID:
        raise _wrong("--netuid", f"expected a whole number from 0 to {MAX_NETUID}")
    return netuid


def _address(args: argparse.Namespace) -> TcpAddress:
    from nexus_auth.adapters.addresses import TcpAddress, parse_listen_address

    address = parsed("--listen", args.listen, parse_listen_address)
    if not isinstance(address, TcpAddress):
        raise _wrong("--listen", "the development Pylon needs host:port")
    if not address.is_loopback and not args.insecure_listen_publicly:
        problem = (
            f"{args.listen!r} can be reached from other machines, which a development Pylon must "
            "not be; use 127.0.0.1, or --insecure-listen-publicly inside a container network"
        )
        raise _wrong("--listen", problem)
    return address


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("expected a whole number")
    return int(text)


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an amount") from None


def _yes_or_no(text: str) -> bool:
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.lower() not in answers:
        raise ValueError(f"{text!r} is neither yes nor no")
    return answers[text.lower()]


def _axon(text: str) -> Axon:
    from nexus_auth.adapters.devnet import Axon

    host, _, port = text.rpartition(":")
    return Axon(ip=host.strip("[]"), port=_whole_number(port))


def _hotkey(text: str) -> Hotkey:
    from nexus_auth.domain.hotkey import Hotkey

    return Hotkey.parse(text)


def _identity(text: str) -> tuple[str, Hotkey]:
    name, equals, address = text.partition("=")
    # The name becomes part of a path and of a file's name.
    plain = name.replace("-", "").replace("_", "")
    if not equals or not (plain.isascii() and plain.isalnum()):
        raise ValueError("expected NAME=HOTKEY, the name of letters, digits, - and _")
    return name, _hotkey(address)


def _key(text: str) -> tuple[Hotkey, bytes]:
    from nexus_auth.adapters.devnet.store import PUBLIC_KEY_BYTES

    address, _, digits = text.partition("=")
    try:
        key = bytes.fromhex(digits.removeprefix("0x"))
    except ValueError:
        key = b""
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"expected HOTKEY=HEX, the key as {2 * PUBLIC_KEY_BYTES} hex digits")
    return _hotkey(address), key


_NEURON_PARTS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "stake": ("total", _amount),
    "alpha": ("alpha", _amount),
    "tao": ("tao", _amount),
    "permit": ("validator_permit", _yes_or_no),
    "active": ("active", _yes_or_no),
    "uid": ("uid", _whole_number),
    "coldkey": ("coldkey", _hotkey),
    "axon": ("axon", _axon),
}
"""What a part of NEURON is called, which field it sets, and how its value is read."""


def _neuron(text: str) -> tuple[Hotkey, NeuronChanges]:
    address, *parts = text.split(",")
    changes: Any = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in _NEURON_PARTS:
            raise ValueError(f"{name!r} is none of {', '.join(_NEURON_PARTS)}")
        field, parse = _NEURON_PARTS[name]
        changes[field] = parse(value)
    return _hotkey(address), changes
