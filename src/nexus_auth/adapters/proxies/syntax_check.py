"""Has a proxy check the configuration that was made for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

from nexus_auth.adapters.proxies.configuration import Configuration, build_configuration
from nexus_auth.adapters.proxies.site import Site

_TIMEOUT_SECONDS: Final = 60
"""A check takes a second; on a machine in trouble somewhat longer."""

_COMMANDS: Final[Mapping[str, Callable[[str], list[str]]]] = MappingProxyType(
    {
        "nginx": lambda file: ["nginx", "-t", "-e", "stderr", "-c", file],
        "envoy": lambda file: ["envoy", "--mode", "validate", "-l", "warning", "-c", file],
        "caddy": lambda file: ["caddy", "validate", "--adapter", "caddyfile", "--config", file],
        "haproxy": lambda file: ["haproxy", "-c", "-f", file],
    }
)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check said.

    Attributes:
        passed: Whether the proxy accepts the configuration.
        output: What it printed, or why it could not be asked.
    """

    passed: bool
    output: str


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


def check_configuration(proxy: str, site: Site) -> CheckResult:
    """Runs the proxy's own check on the configuration for a site.

    The files are written to a temporary folder, which also stands in for the place where the
    proxy keeps its files; so the check shows nothing about the right to write there.
    """
    command = _COMMANDS.get(proxy)
    if command is None:
        return CheckResult(passed=False, output=f"{proxy} offers no check of its own")
    with TemporaryDirectory(prefix="nexus-auth-") as folder:
        arguments = command("")
        program = find_program(arguments[0])
        if program is None:
            return CheckResult(passed=False, output=f"{arguments[0]} is not installed here")
        here = replace(site, state_dir=folder)
        configuration = build_configuration(proxy, here, directory=folder)
        write_configuration(configuration, Path(folder))
        arguments = [program, *command(str(Path(folder, configuration.files[0][0])))[1:]]
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
            return CheckResult(passed=False, output=f"{program} did not check it: {exc}")
    output = done.stdout.decode("utf-8", "replace").strip()
    return CheckResult(passed=done.returncode == 0, output=output)


def find_program(name: str) -> str | None:
    """Finds a program on PATH, beside this Python (as wheels put it there) or in system folders."""
    beside = str(Path(sys.executable).parent)
    folders = [os.environ.get("PATH", ""), beside, "/usr/sbin", "/sbin", "/usr/local/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))
