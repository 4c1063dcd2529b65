"""Writes a configuration, and has the proxy itself check it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from nexus_auth.adapters.proxies.configuration import Configuration, build_configuration
from nexus_auth.adapters.proxies.site import Site
from nexus_auth.adapters.proxies.table import PROXIES

_TIMEOUT_SECONDS: Final = 60
"""A check takes a second; on a machine in trouble somewhat longer."""


def write_configuration(configuration: Configuration, directory: Path) -> None:
    """Writes files and links into an existing folder, over those of the same names.

    Raises:
        OSError: When that fails, or a link's name is taken by something that is no link.
    """
    for name, text in configuration.files:
        (directory / name).write_text(text, encoding="utf-8")
    for name, target in configuration.links:
        link = directory / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target)


def check_configuration(proxy: str, site: Site, *, for_existing: bool = False) -> tuple[bool, str]:
    """Runs the proxy's own check on the configuration for a site.

    The files are written to a temporary folder, which also stands in for the place where the
    proxy keeps its files; so the check shows nothing about the right to write there. What is
    `for_existing` proxies is included in a configuration that has nothing else.

    Returns:
        Whether the proxy accepts the configuration, and what it printed, or why it did not run.
    """
    command = PROXIES[proxy].check
    if not command:
        return False, f"{proxy} offers no check of its own"
    with TemporaryDirectory(prefix="nexus-auth-") as folder:
        program = find_program(command[0])
        if program is None:
            return False, f"{command[0]} is not installed here"
        here = replace(site, state_dir=folder)
        configuration = build_configuration(
            proxy, here, directory=folder, for_existing=for_existing, with_frame=True
        )
        write_configuration(configuration, Path(folder))
        arguments = [program, *command[1:], str(Path(folder, configuration.files[0][0]))]
        try:
            done = subprocess.run(  # noqa: S603 - a program of a fixed name, no shell
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_SECONDS,
                check=False,
                cwd=folder,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            return False, f"{program} did not check it: {exc}"
    return done.returncode == 0, done.stdout.decode("utf-8", "replace").strip()


def find_program(name: str) -> str | None:
    """Finds a program on PATH, beside this Python (as wheels put it there) or in system folders."""
    beside = str(Path(sys.executable).parent)
    folders = [os.environ.get("PATH", ""), beside, "/usr/sbin", "/sbin", "/usr/local/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))
