"""Uses an installed nexus-auth: run it with the interpreter of the environment that has it.

Needs nothing but the package and what it depends on. Asks nobody: no network, no registry.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Final

from nexus_auth import Denied, Granted
from nexus_auth.adapters.proxies.table import CONFIGURABLE
from nexus_auth.entrypoints.cli import COMMANDS
from nexus_auth.testing import Subnet

OPTIONAL: Final = {
    "nexus_auth.__main__",  # runs when imported
    "nexus_auth.testing.pytest_plugin",  # for those who have pytest
    "nexus_auth.adapters.observability.traces",  # for those who have the extra otel
}


def nexus_auth(*arguments: str) -> str:
    """Runs the installed program and gives what it printed."""
    program = Path(sys.executable).parent / "nexus-auth"
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        sys.exit(f"nexus-auth {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def try_modules() -> int:
    """Imports every module, from where packages are installed."""
    package = importlib.import_module("nexus_auth")
    if not Path(str(package.__file__)).is_relative_to(sys.prefix):
        sys.exit(f"this is not the installed package: {package.__file__}")
    names = [each.name for each in pkgutil.walk_packages(package.__path__, "nexus_auth.")]
    for name in names:
        if name not in OPTIONAL:
            importlib.import_module(name)
    return len(names)


def try_package_data() -> None:
    """What is not Python code came along as well."""
    if not files("nexus_auth").joinpath("py.typed").is_file():
        sys.exit("py.typed is missing")
    installed = [str(each) for each in distribution("nexus-auth").files or ()]
    if not any(each.endswith("licenses/LICENSE") for each in installed):
        sys.exit("the licence is missing")


def try_commands() -> int:
    """Every command explains itself; every proxy's template is there."""
    nexus_auth("--version")
    for name in COMMANDS:
        nexus_auth(name, "--help")
    for proxy in CONFIGURABLE:
        with tempfile.TemporaryDirectory() as folder:
            nexus_auth("proxy-config", proxy, "-output", folder)
    return len(COMMANDS) + len(CONFIGURABLE)


def try_verifier() -> None:
    """A registered caller is granted, and a stranger is not."""
    subnet = Subnet()
    alice, mallory = subnet.register("alice"), subnet.stranger("mallory")

    async def decide() -> None:
        granted = await subnet.verifier.verify(alice.pem)
        denied = await subnet.verifier.verify(mallory.pem)
        if not isinstance(granted, Granted) or not isinstance(denied, Denied):
            sys.exit(f"wrong decisions: {granted}, {denied}")

    asyncio.run(decide())


def main() -> None:
    """Tries everything."""
    modules = try_modules()
    try_package_data()
    commands = try_commands()
    try_verifier()
    print(f"installed: {modules} modules, {commands} commands and templates, a grant, a denial")


if __name__ == "__main__":
    main()
