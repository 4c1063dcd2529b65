"""`nexus-auth run`: the auth service."""

from __future__ import annotations

import argparse

from nexus_auth.entrypoints.hidden_packages import hidden
from nexus_auth.entrypoints.settings import add_flags, all_settings, load_from

_EPILOG = """\
SIGTERM or Ctrl-C ends it in good order. nexus-auth config show prints what
would be in force.

exit codes: 0 ended by a signal; 1 an address is taken;
            2 wrong usage or configuration
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EPILOG
    add_flags(parser, (setting.attribute for setting in all_settings()))


def execute(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    # The settings first: what is wrong with them is said before anything heavy is loaded.
    settings = load_from(args)

    # Where they find them, structlog takes rich for tracebacks, httpcore takes h2, which is not
    # used, and httpx takes pygments for a command line of its own: 9 MB in every worker.
    with hidden("rich", "h2", "pygments"):
        from nexus_auth.entrypoints.service import serve

    return serve(settings)
