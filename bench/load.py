"""Puts load on a listener with wrk: one thread, 32 connections, 256 certificates in rotation."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.programs import BenchError, find_program

CONNECTIONS: Final = 32
_UNITS_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What wrk saw.

    Attributes:
        per_second: Requests answered in a second.
        p50_ms: Median latency, milliseconds.
        p99_ms: 99th percentile of latency, milliseconds.
    """

    per_second: float
    p50_ms: float
    p99_ms: float


NAMES: Final = 24
"""How many requests of one certificate bear different names: with 256 certificates several times
more heads than the service knows again, so that none of them ever is."""


def write_script(path: Path, header: str, values: Sequence[str], *, named: bool = False) -> Path:
    """Writes a wrk script that sends each header value in turn; no values mean no header.

    Args:
        path: Where to.
        header: The header's name.
        values: Its values.
        named: Whether each request bears an `X-Request-ID` too, 32 digits as nginx makes them.
    """
    if not values:
        path.write_text("")
        return path
    lines = ",\n".join(f'  "{value}"' for value in values)
    names = f'["X-Request-ID"] = string.format("%032x", name * {len(values)} + i)' if named else ""
    path.write_text(
        f"local values = {{\n{lines}\n}}\n"
        "local requests, at = {}, 0\n"
        "init = function(args)\n"
        f"  for name = 1, {NAMES if named else 1} do\n"
        "    for i, value in ipairs(values) do\n"
        f'      local fields = {{["{header}"] = value, {names}}}\n'
        '      requests[#requests + 1] = wrk.format("GET", nil, fields)\n'
        "    end\n"
        "  end\n"
        "end\n"
        "request = function()\n"
        "  at = at % #requests + 1\n"
        "  return requests[at]\n"
        "end\n"
    )
    return path


def put_load(url: str, script: Path, *, seconds: int) -> Load:
    """Runs wrk once.

    Raises:
        BenchError: When it failed, or when not every answer was a success: a fast refusal must
            not pass for a fast grant.
    """
    done = subprocess.run(
        [
            *(find_program("wrk"), "--threads", "1", "--connections", str(CONNECTIONS)),
            *("--duration", f"{seconds}s", "--latency", "--script", str(script), url),
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if done.returncode != 0 or rate is None:
        raise BenchError(f"wrk failed on {url}: {done.stdout}{done.stderr}")
    for trouble in ("Non-2xx", "Socket errors"):
        if trouble in done.stdout:
            raise BenchError(f"not every request to {url} was granted:\n{done.stdout}")
    return Load(
        per_second=float(rate[1]),
        p50_ms=_percentile(done.stdout, "50"),
        p99_ms=_percentile(done.stdout, "99"),
    )


def _percentile(report: str, percent: str) -> float:
    match = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", report, re.MULTILINE)
    if match is None:
        raise BenchError(f"wrk reported no latency:\n{report}")
    return float(match[1]) * _UNITS_MS[match[2]]
