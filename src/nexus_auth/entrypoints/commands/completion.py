"""`nexus-auth completion SHELL`: a completion script."""

from __future__ import annotations

import argparse

from nexus_auth.entrypoints import exit_codes

_EPILOG = """\
examples:
  nexus-auth completion bash \\
      > ~/.local/share/bash-completion/completions/nexus-auth
  nexus-auth completion zsh > ~/.zfunc/_nexus-auth
      (with ~/.zfunc in fpath)
  nexus-auth completion tcsh > ~/.nexus-auth.csh
      (and source it in ~/.tcshrc)

For the running bash alone:
  eval "$(nexus-auth completion bash)"

exit codes: 0 printed; 2 wrong usage
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell")
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Prints the script."""
    import shtab

    from nexus_auth.entrypoints.cli import build_parser

    print(shtab.complete(build_parser(only="*"), shell=args.shell))
    return exit_codes.DONE
