"""The command line: finds the command, runs it, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from importlib import import_module

from nexus_auth.entrypoints import exit_codes

# Type checkers take a variable of this name for true. `typing` itself is a tenth of what the
# overview of commands costs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final, NoReturn

DEFAULT_COMMAND: Final = "run"
_SERVING: Final = frozenset({DEFAULT_COMMAND, "sidecar"})
COMMANDS: Final[Mapping[str, str]] = {
    "run": "start the auth service (the default)",
    "generate": "have a key pair made and published, write client.key and client.crt",
    "call": "call a hotkey's server, as curl would, once it has proven its key",
    "verify": "decide on a certificate as the service would, against the registry",
    "inspect": "show what is in a certificate, offline",
    "policy": "check access policies, and explain who is let in and why",
    "sidecar": "put mutual TLS before an application that has no proxy of its own",
    "proxy-config": "print a safe configuration for your reverse proxy",
    "demo": "try everything on this machine: a real proxy, real certificates",
    "pylon": "run a development Pylon (not for production)",
    "status": "report on a key pair on disk: whose, how long, is it on chain",
    "doctor": "find out what is wrong, and what to do next",
    "config": "show the effective settings and where each came from",
    "completion": "print a completion script for your shell",
}
"""Every command and what it does, in one line. Its module in `entrypoints/commands` has its name:
`configure(parser)` adds its arguments, and `execute(args)` runs it and returns the exit code; only
there it imports what its arguments do not need, so that help comes at once."""

_COMMANDS_PACKAGE: Final = "nexus_auth.entrypoints.commands"
_DEFAULT_COLUMNS: Final = 80
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DESCRIPTION: Final = "May this certificate in? Authentication service of the Nexus Framework."
_EPILOG: Final = """\
Every command explains itself: nexus-auth COMMAND --help.
Flags are accepted with one dash or two; settings also come from the environment
and from .env.

exit codes: 0 done or granted; 1 failed or denied;
            2 wrong usage or configuration;
            3 the registry or Pylon could not be reached
"""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal; argparse itself loads three compression libraries to find out."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_columns() - 2)


def _terminal_columns() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _DEFAULT_COLUMNS
    except (AttributeError, OSError, ValueError):
        return _DEFAULT_COLUMNS  # no terminal


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments, and where to read on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=_HelpFormatter, allow_abbrev=False, add_help=False, **options
        )
        self.add_argument("-h", "-help", "--help", action="help", help="show this help and exit")

    def error(self, message: str) -> NoReturn:
        self.exit(exit_codes.USAGE, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")

    def _get_option_tuples(self, *_: object) -> list[Any]:
        """Finds no flag for the beginning of its name.

        `allow_abbrev` forbids abbreviations after two dashes alone: after one, argparse would take
        `generate -f` for `-force-recreate`, which replaces a key on chain.
        """
        return []


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; the console script's entry point."""
    _prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = _command_named(arguments)
    if name is None:
        return _run(arguments, name)

    from nexus_auth.entrypoints.signals import exit_on_sigterm, held_back

    # Before anything else is loaded. The service has a use for SIGHUP, which would kill it.
    with held_back() if name in _SERVING else exit_on_sigterm():
        return _run(arguments, name)


def _run(arguments: list[str], name: str | None) -> int:
    try:
        args = build_parser(only=name).parse_args(arguments)
        code: int = args.execute(args)
        sys.stdout.flush()  # here, where a closed pipe can still be noticed
    except KeyboardInterrupt:
        return 130  # what a shell reports of a process that Ctrl-C ended
    except BrokenPipeError:
        # The reader of our output closed it (as in `| head`). What is still in the buffer must not
        # raise the same error again when the interpreter flushes it at exit.
        _discard_output()
        return exit_codes.FAILED
    except OSError as exc:
        # Commands turn their own failures into errors of ours; mostly this is our output.
        if exc.errno not in _DISK_FULL:
            raise
        _discard_output()
        print(f"nexus-auth: cannot write: {exc.strerror}", file=sys.stderr)
        return exit_codes.FAILED
    except Exception as exc:  # noqa: BLE001 - what is not ours is raised again
        return report(exc)
    return code


def _prepare_streams() -> None:
    """Has all output somewhere to go, and no character that it cannot be written with.

    What the process was started without (`>&-`) is opened: otherwise the next file to be opened, a
    key or a database, would get the number of a standard stream, and with it all that is printed
    there. A character outside of a stream's encoding, as of a file's name where that is ASCII, is
    written as an escape.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(exc: Exception) -> int:
    """Prints an error of ours and returns its exit code; raises any other again."""
    from nexus_auth.domain import errors

    match exc:
        case errors.ConfigurationError():
            code = exit_codes.USAGE
        case errors.IssuerUnavailable() | errors.RegistryUnavailable():
            code = exit_codes.UNREACHABLE
        case errors.NexusAuthError():
            code = exit_codes.FAILED
        case _:
            raise exc
    print(f"nexus-auth: {exc}", file=sys.stderr)
    return code


def _command_named(arguments: list[str]) -> str | None:
    """Finds the command among the arguments; puts the default there when none is named."""
    first = arguments[0] if arguments else None
    if first == "help":
        arguments[0:1] = ["--help"] if len(arguments) == 1 else []
        arguments += [] if arguments == ["--help"] else ["--help"]
        first = arguments[0]
    if first in {"-h", "-help", "--help", "-version", "--version"}:
        return None
    if first is None or first.startswith("-"):
        arguments.insert(0, DEFAULT_COMMAND)
    elif arguments[1:] and arguments[-1] == "--":
        del arguments[-1]  # it ends the flags, and nothing follows; argparse would reject it
    return arguments[0]


def build_parser(*, only: str | None = None) -> argparse.ArgumentParser:
    """Builds the parser.

    Args:
        only: The one command whose own arguments are wanted; the others are listed by name.
            None lists all by name. Pass "*" for every command in full (completion scripts).
    """
    parser = _Parser(prog="nexus-auth", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "-version", "--version", action=_ShowVersion, nargs=0, help="show the version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, summary in COMMANDS.items():
        subparser = add_command(commands, name, summary)
        if only in {name, "*"}:
            # A command that is not run is not imported, and costs nothing.
            module = import_module(f"{_COMMANDS_PACKAGE}.{name.replace('-', '_')}")
            module.configure(subparser)
            subparser.set_defaults(execute=module.execute)
    return parser


def add_command(commands: Any, name: str, summary: str, **options: Any) -> argparse.ArgumentParser:
    """Adds a command, or an action of one, to what argparse's `add_subparsers` returned."""
    description = summary[0].upper() + summary[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description, **options
    )
    return parser


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from nexus_auth import __version__

        print(f"nexus-auth {__version__}")
        parser.exit(exit_codes.DONE)
