"""Has pytest-benchmark time the verifier, several times over, and takes the medians."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.programs import BenchError
from bench.verifier import YARDSTICK

ROUNDS: Final = 5
"""Whole passes over everything, so that a slow moment of the machine hits few of them."""

_SECONDS_EACH: Final = 0.2

Figures = dict[str, dict[str, dict[str, float]]]


def measure(rounds: int = ROUNDS) -> Figures:
    """Microseconds, and the ratio to the yardstick of the same pass, by group and name."""
    passes = [_one_pass() for _ in range(rounds)]
    return {
        group: {name: _figures(passes, group, name) for name in names}
        for group, names in passes[0].items()
    }


def _figures(passes: list[dict[str, dict[str, float]]], group: str, name: str) -> dict[str, float]:
    times = [each[group][name] for each in passes]
    yardstick = [each["verifier"][YARDSTICK] for each in passes]
    ratios = [time / unit for time, unit in zip(times, yardstick, strict=True)]
    return {
        "us": round(statistics.median(times), 2),
        "ratio": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
    }


def _one_pass() -> dict[str, dict[str, float]]:
    """Medians of one run of pytest-benchmark, in microseconds."""
    with tempfile.TemporaryDirectory(prefix="nexus-auth-bench-") as name:
        report = Path(name) / "report.json"
        options = (
            *("--benchmark-only", "--benchmark-disable-gc", "--benchmark-warmup=on"),
            *("--benchmark-warmup-iterations=20", f"--benchmark-max-time={_SECONDS_EACH}"),
            f"--benchmark-json={report}",
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
                *(str(Path(__file__).with_name("test_verifier.py")), *options),
            ],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise BenchError(f"pytest-benchmark failed:\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(report.read_text())
    groups: dict[str, dict[str, float]] = {}
    for each in found["benchmarks"]:
        group = groups.setdefault(each["group"], {})
        group[each["params"]["name"]] = each["stats"]["median"] * 1e6
    return groups
