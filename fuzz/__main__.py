"""Runs the fuzz targets under coverage guidance: `python -m fuzz`, or `make fuzz`.

Each target runs in a process of its own (atheris ends its process), one after another. A run by
time keeps what it learns in `.fuzz`, and goes on from there the next time. A run by count begins
with the seeds alone and draws from a fixed source, so that CI does the same every time.

An input that breaks a promise is left in `.fuzz/<target>/findings`; mend the code, and copy the
input to `fuzz/corpus/<target>` and into the unit tests.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from fuzz import NAMES
from fuzz.targets import load_target

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / ".fuzz"

DEFAULT_SECONDS: Final = 70
_LONGEST_INPUT_SECONDS: Final = 120
_MEMORY_MB: Final = 2048

_SHOWN_CHARACTERS: Final = 4000
_EXECUTED: Final = re.compile(r"^stat::number_of_executed_units: ([0-9]+)$", re.MULTILINE)

_FIRST_PYTHON_WITHOUT: Final = (3, 14)
_MISSING: Final = (
    "!!! NOT RUN: fuzzing needs atheris, which is not installed here (it exists for Python 3.11 "
    "to 3.13; see the extra `dev` in pyproject.toml). The seeds are replayed by the unit tests."
)


def main() -> int:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}")
    parser.add_argument(
        *("--seconds", "-s"),
        type=float,
        default=DEFAULT_SECONDS,
        help=f"for all targets together (default {DEFAULT_SECONDS})",
    )
    parser.add_argument("--runs", type=int, help="inputs for each target, instead of a time")
    parser.add_argument("--replay", type=Path, help="run one target on one file, without atheris")
    args = parser.parse_args()
    names: list[str] = args.targets or list(NAMES)
    unknown = sorted(set(names) - set(NAMES))
    if unknown or (args.replay is not None and len(args.targets) != 1):
        parser.error(f"no such target: {', '.join(unknown)}" if unknown else "name one target")
    if args.replay is not None:
        load_target(names[0]).check(args.replay.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print(_MISSING, file=sys.stderr)
        is_required = os.environ.get("NEXUS_AUTH_REQUIRE_REAL") == "1"
        return 1 if is_required and sys.version_info < _FIRST_PYTHON_WITHOUT else 0
    failed = [
        name for name in names if _run(name, runs=args.runs, seconds=args.seconds / len(names))
    ]
    print(f"fuzz: {len(names)} targets, {len(failed)} broken {' '.join(failed)}".rstrip())
    return 1 if failed else 0


def _run(name: str, *, runs: int | None, seconds: float) -> int:
    """Runs one target in a process of its own; returns its exit code."""
    findings = WORK / name / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nexus-auth-fuzz-") as folder:
        corpus = WORK / name / "corpus" if runs is None else Path(folder)
        corpus.mkdir(parents=True, exist_ok=True)
        bound = (
            ["-seed=1", f"-runs={runs}"]
            if runs is not None
            else [f"-max_total_time={max(1, round(seconds))}"]
        )
        command = [
            *(sys.executable, "-m", "fuzz.one", name, str(corpus), *bound),
            *(f"-artifact_prefix={findings}/", f"-timeout={_LONGEST_INPUT_SECONDS}"),
            *(f"-rss_limit_mb={_MEMORY_MB}", "-print_final_stats=1"),
        ]
        # Dictionaries and sets have one order, so that the same count is the same run.
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    if done.returncode:
        print(done.stdout[-_SHOWN_CHARACTERS:], file=sys.stderr)
        print(f"!!! {name} is broken; the input is in {findings}", file=sys.stderr, flush=True)
    else:
        counted = _EXECUTED.search(done.stdout)
        print(f"fuzz: {name}: {counted[1] if counted else 'no'} inputs", flush=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
