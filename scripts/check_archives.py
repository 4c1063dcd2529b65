"""Checks that the built archives in dist hold what they must, and nothing else.

usage: python scripts/check_archives.py WHEEL SDIST
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

MADE_BY_THE_BUILD: Final = {"PKG-INFO"}


def find_tracked() -> set[str]:
    """The files of the project: those that git knows, or in a source archive all there are."""
    if not (ROOT / ".git").exists():
        return set()
    command = ["git", "ls-files", "--cached"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def find_faults_of_wheel(path: Path) -> Iterator[str]:
    """The wheel holds the package whole, its metadata, its licence, and no tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    information = f"nexus_auth-{project['version']}.dist-info"
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(f"{information}/METADATA").decode())
    package = {
        str(file.relative_to(ROOT / "src"))
        for file in (ROOT / "src" / "nexus_auth").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    wanted = package | {f"{information}/licenses/LICENSE", f"{information}/entry_points.txt"}
    yield from (f"missing: {name}" for name in sorted(wanted - names))
    if "nexus_auth/py.typed" not in names:
        yield "missing: py.typed; the types would not be seen"
    yield from (
        f"not ours to ship: {name}"
        for name in sorted(names - wanted)
        if not name.startswith(f"{information}/")
    )
    for field in ("Name", "Version", "Summary", "License-Expression", "Requires-Python"):
        if not metadata[field]:
            yield f"the metadata lacks {field}"


def find_faults_of_sdist(path: Path) -> Iterator[str]:
    """The source archive holds every file of the project: its tests run as in a checkout."""
    with tarfile.open(path) as archive:
        names = {
            member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()
        }
    tracked = find_tracked() or names
    for name in sorted(names - tracked - MADE_BY_THE_BUILD):
        # Work in progress for a developer; a release is built from a clone, where there is none.
        print(f"note: {path.name} holds {name}, which git does not know")
    yield from (f"missing: {name}" for name in sorted(tracked - names))


def main() -> int:
    """Prints what is wrong with either archive."""
    wheel, sdist = (Path(argument) for argument in sys.argv[1:3])
    faults = [f"{wheel.name}: {fault}" for fault in find_faults_of_wheel(wheel)]
    faults += [f"{sdist.name}: {fault}" for fault in find_faults_of_sdist(sdist)]
    print("\n".join(faults) or f"{wheel.name} and {sdist.name} hold what they must")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
