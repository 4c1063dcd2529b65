"""Type-checks what users copy, as strictly as mypy and pyright can: examples, pages, public names.

Checked are every file of `examples`, every Python block of a page that is no fragment, and
`tests/typing`. Then pyright says how completely the public names are typed. Nothing is fetched from
anywhere.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for a script, the first entry is its own folder

from tests.pages import blocks, pages  # noqa: E402 - see above

PACKAGE: Final = ROOT / "src" / "nexus_auth"
DOORS: Final = (
    "nexus_auth",
    "nexus_auth.testing",
    *(f"nexus_auth.{path.stem}" for path in sorted(PACKAGE.glob("[!_]*.py"))),
)
"""The modules that users import from."""

_PYRIGHT: Final = (sys.executable, "-m", "pyright", "--pythonpath", sys.executable)

_OFFLINE: Final = {
    # Asks for the newest release otherwise, and for another Node.js than the package's own.
    "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    "PYRIGHT_PYTHON_GLOBAL_NODE": "0",
}


def is_fragment(code: str) -> bool:
    """Says whether a block leaves something out, and says so in its last line."""
    return code.rstrip().endswith("...")


def write_blocks(folder: Path) -> None:
    """Writes every Python block of a page that is no file of `examples` into a file of its own."""
    examples = {path.read_text(encoding="utf-8") for path in ROOT.glob("examples/*.py")}
    for page in pages():
        for block in blocks(page):
            left_out = block.code in examples or is_fragment(block.code)
            if block.language == "python" and not left_out:
                name = f"{page.stem.replace('-', '_').lower()}_{block.line}.py"
                (folder / name).write_text(block.code, encoding="utf-8")


def run_mypy(folder: Path) -> int:
    """Runs mypy with the project's settings, which are strict; gives its exit code."""
    paths = [str(ROOT / "examples"), str(folder)]
    environment = {**os.environ, "MYPYPATH": str(folder)}
    command = [sys.executable, "-m", "mypy", *paths]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def run_pyright(folder: Path) -> int:
    """Runs pyright in its strict mode; gives its exit code."""
    for source in (ROOT / "examples", ROOT / "tests" / "typing"):
        shutil.copytree(source, folder / source.name)
    settings = {
        "include": ["."],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "extraPaths": [str(ROOT)],
        # The real Pylon client has annotations but no py.typed.
        "reportMissingTypeStubs": "none",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [*_PYRIGHT, "--project", str(folder)]
    return subprocess.run(command, env={**os.environ, **_OFFLINE}, check=False).returncode


def find_public_names() -> Iterator[str]:
    """Finds the public names that have a module of their own, spelt with that module."""
    for door in DOORS:
        module = importlib.import_module(door)
        for name in module.__all__:
            home = getattr(getattr(module, name), "__module__", None)
            if home is not None and home.partition(".")[0] == "nexus_auth":
                yield f"{home}.{name}"


def find_untyped() -> Iterator[str]:
    """Finds public names, and what belongs to them, whose type a checker would have to guess."""
    command = [*_PYRIGHT, "--ignoreexternal", "--outputjson", "--verifytypes", "nexus_auth"]
    done = subprocess.run(
        command, env={**os.environ, **_OFFLINE}, capture_output=True, text=True, check=False
    )
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    public = {*find_public_names()}
    for symbol in symbols:
        name = symbol["name"]
        parents = {name[:end] for end, mark in enumerate(name) if mark == "."} | {name}
        if parents & public and (symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]):
            yield f"{name}: a checker has to guess its type"


def main() -> int:
    """Prints what a checker objects to; the exit code says whether one does."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory).resolve()
        write_blocks(folder)
        codes = run_mypy(folder), run_pyright(folder)
    untyped = [*find_untyped()]
    for line in untyped:
        print(line)
    return int(any(codes) or bool(untyped))


if __name__ == "__main__":
    sys.exit(main())
