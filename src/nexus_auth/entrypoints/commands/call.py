"""`nexus-auth call HOTKEY [URL]`: one request to the server of a hotkey, in the manner of curl."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nexus_auth.domain import errors
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value, parsed, seconds
from nexus_auth.entrypoints.settings import SOURCE_FLAGS, Settings, add_flags, load_from
from nexus_auth.entrypoints.terminal import as_json

if TYPE_CHECKING:
    from nexus_auth.adapters.tls.pair import ClientPair
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Place
    from nexus_auth.domain.ports import Registration
    from nexus_auth.entrypoints.calling import CallReport

_MAX_SECONDS: Final = 86400.0
_KEY_LIFETIME: Final = timedelta(days=1)
"""It is fetched for the one handshake of the call, which is not longer."""

_EPILOG: Final = """\
The request leaves this machine when the server has proven to hold the key that
is registered for the hotkey, and not before. The source, Pylon or the chain,
gives that key, and the address where no URL is given. Standard output has the
body alone. No proxy of the environment is used, and no redirect followed.

examples:
  nexus-auth call 5F...
  nexus-auth call 5F... /v1/status -v
  nexus-auth call 5F... https://203.0.113.7:8443/ -d @question.json \\
      -H "Content-Type: application/json" -f -o answer.json
  nexus-auth call -pin 5F...
      (for curl -k --pinnedpubkey: the registered key, not the server's)

exit codes: 0 answered, with -f below 400;
            1 the server has not proven to be the hotkey, cannot be reached,
              or answered 400 and above with -f;
            2 wrong usage or configuration; 3 the source could not be asked
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("hotkey", metavar="HOTKEY", help="whom to call: an SS58 address")
    text = "https://HOST:PORT/PATH, or /PATH at the hotkey's axon (default: / there)"
    # As "?" it would have to follow HOTKEY at once, before any flag.
    parser.add_argument("url", metavar="[URL]", help=text).required = False

    def add(short: str, long: str, text: str, **options: Any) -> None:
        names = (f"-{short}", f"-{long}", f"--{long}")
        parser.add_argument(*names, help=text, dest=long, **options)

    add("X", "request", "the method (default GET, with -d POST)", metavar="METHOD")
    add("H", "header", "one more header; may be repeated", metavar="'NAME: VALUE'", action="append")
    data = "send this; @FILE sends a file as it is, @- standard input"
    add("d", "data", data, metavar="DATA", action=_Once)
    add("o", "output", "write the body to a file", metavar="FILE")
    add("i", "include", "write the answer's head before the body", action="store_true")
    add("f", "fail", "an answer of 400 and above is a failure", action="store_true")
    add("v", "verbose", "say on standard error what happens", action="store_true")
    certs = "folder of client.key and client.crt, which are shown (default: ./certs)"
    add_value(parser, "certs", type=Path, metavar="DIR", help=certs)
    add_switch(parser, "no-certificate", "show no certificate")
    longest = "how long the call may take; 0 is as long as it likes (default 300)"
    add_value(parser, "max-time", metavar="SECONDS", default="300", help=longest)
    text = "print what happened as JSON; the body goes to the file of -o, or nowhere"
    add_switch(parser, "json", text)
    add_switch(parser, "pin", "print the registered key's fingerprint, and call no server")
    add_flags(parser, SOURCE_FLAGS)
    parser.epilog = _EPILOG


class _Once(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, into: argparse.Namespace, values: Any, *_: object
    ) -> None:
        if getattr(into, self.dest) is not None:
            parser.error("-d may be given once; curl would join them with &")
        setattr(into, self.dest, values)


def execute(args: argparse.Namespace) -> int:
    """Fetches the key, sends the request, and writes the answer."""
    from nexus_auth.entrypoints.calling import CallReport

    report = CallReport(hotkey=args.hotkey)
    failure = None
    try:
        _call(args, report)
    except errors.NexusAuthError as exc:
        failure = exc
        report.error = str(exc)
    if args.json:
        print(as_json(asdict(report)))
    if failure is not None:
        raise failure
    return exit_codes.DONE


def _call(args: argparse.Namespace, report: CallReport) -> None:
    import asyncio

    from nexus_auth.domain.server import fingerprint_of
    from nexus_auth.entrypoints.calling import Order, Output, StrictContext, Target, send

    hotkey = _parse_hotkey(args.hotkey)
    target = Target.parse(args.url or "/")
    for flag, given in (("-d", args.data), ("URL", args.url)):
        if args.pin and given:
            raise ConfigurationError(setting="-pin", problem=f"calls no server; leave out {flag}")
    order = Order(
        method=args.request,
        headers=args.header or (),
        data=args.data,
        max_seconds=parsed("-max-time", args.max_time, seconds(0, _MAX_SECONDS)),
        fails=args.fail,
        includes_head=args.include,
    )
    settings = load_from(args)
    known: list[Registration] = []
    context = StrictContext(
        hotkey=hotkey,
        expected=lambda: known[0],
        pair=None if args.no_certificate or args.pin else _pair(args.certs, report),
    )
    with Output.opened(args.output, is_wanted=not args.json) as output:
        registration, place = asyncio.run(
            _look_up(settings, hotkey, wants_place=target.needs_place and not args.pin)
        )
        known.append(registration)
        report.expected = fingerprint_of(registration.public_key)
        if args.pin:
            if not args.json:
                print(report.expected)
            return
        say = _say if args.verbose else _ignore
        say(f"hotkey     {hotkey}")
        say(f"expected   {report.expected}, says {settings.source} at {settings.source_address}")
        say(f"shown      {report.caller or 'no certificate'}")
        send(
            order,
            target.url(hotkey, place),
            context=context,
            output=output,
            report=report,
            say=say,
            warn=_say,
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ignore(_: str) -> None: ...


def _parse_hotkey(text: str) -> Hotkey:
    from nexus_auth.domain.hotkey import Hotkey

    try:
        return Hotkey.parse(text)
    except errors.InvalidHotkey as exc:
        raise ConfigurationError(setting="HOTKEY", problem=str(exc)) from None


def _pair(folder: Path | None, report: CallReport) -> ClientPair:
    """Finds the pair, and says whose it is."""
    from nexus_auth.adapters.credentials.directory import CredentialsDirectory
    from nexus_auth.adapters.tls.pair import ClientPair

    directory = CredentialsDirectory(folder or Path("certs"))
    for path in (directory.certificate_path, directory.key_path):
        if not path.exists():
            raise ConfigurationError(
                setting="-certs",
                problem=f"there is no {str(path)!r}; nexus-auth generate makes a pair, -certs "
                "names its folder, -no-certificate shows none",
            )
    report.caller = directory.load().certificate.hotkey.address
    return ClientPair(directory.path)


async def _look_up(
    settings: Settings, hotkey: Hotkey, *, wants_place: bool
) -> tuple[Registration, Place | None]:
    """Fetches the registered key, and the axon where it is wanted."""
    from nexus_auth.adapters.clock import utc_now
    from nexus_auth.domain.ports import Registration
    from nexus_auth.entrypoints.calling import CallFailed
    from nexus_auth.entrypoints.container import build_container

    async with build_container(settings).source() as source:
        try:
            key = await source.fetch_key(hotkey)
        except errors.RegistryAnswerInvalid as exc:
            raise errors.RegistryUnavailable(str(exc)) from None
        if key is None:
            raise CallFailed(
                f"no key is registered for {hotkey}, so no server can prove to be it; its owner "
                "has to run nexus-auth generate, and the subnet has to be the right one"
            )
        try:
            known = Registration(public_key=key, expires_at=utc_now() + _KEY_LIFETIME)
        except ValueError as exc:
            raise errors.RegistryUnavailable(f"the registered key cannot be used: {exc}") from None
        if not wants_place:
            return known, None
        try:
            return known, await source.fetch_place(hotkey)
        except errors.RegistryError as exc:
            remedy = "call https://HOST:PORT/ where you know the address"
            raise errors.RegistryUnavailable(f"the axon is not known: {exc}; {remedy}") from None
