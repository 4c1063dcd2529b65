"""Runs every benchmark and writes the results: `python -m bench`, or `make bench`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench import callers, end_to_end, footprint, micro, report, subjects
from bench.comparisons import BEHIND_NGINX, BY_ITSELF, comparisons
from bench.load import Load, put_load, write_script
from bench.programs import BenchError
from bench.regressions import regressions

RESULTS: Final = Path(__file__).parent / "results.json"


def main() -> int:
    """Measures, writes, compares."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--original", type=Path, help="binary of the Go original, for comparison")
    parser.add_argument(
        "--before", type=Path, help="another checkout of this project, measured beside this one"
    )
    parser.add_argument("--seconds", type=int, default=4, help="length of one load (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="loads per subject (default 5)")
    parser.add_argument("--quick", action="store_true", help="one short round; writes nothing")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.rounds = 1, 1
    try:
        results = measure(args)
    except BenchError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    print(report.as_text(results))
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else None
    worse = regressions(before, results) if before else []
    for line in worse:
        print(f"!!! WORSE THAN COMMITTED: {line}", file=sys.stderr)
    if not args.quick:
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        report.write_documents(results)
    return 1 if worse else 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Takes every measurement."""
    with tempfile.TemporaryDirectory(prefix="nexus-auth-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's workers may be another user
        everybody = callers.callers()
        stage = subjects.Stage(folder=folder)
        with stage.stack:
            pylon = stage.start_pylon(everybody)
            service = subjects.our_service(stage, pylon, name="nexus-auth", env={})
            two_workers = subjects.our_service(
                stage, pylon, name="nexus-auth two workers", env={"NEXUS_AUTH_WORKERS": "2"}
            )
            direct = [
                subjects.yardstick(stage),
                service,
                subjects.named(service),
                two_workers,
                subjects.named(two_workers),
                subjects.our_service(
                    stage,
                    pylon,
                    name="nexus-auth every grant logged",
                    env={"NEXUS_AUTH_LOG_GRANTS": "all"},
                ),
                subjects.bare_asgi(stage),
            ]
            original = None
            if args.original is not None:
                original = subjects.original_service(stage, pylon, args.original.resolve())
                direct += [original, subjects.named(original)]
            if args.before is not None:
                before = subjects.our_service(
                    stage,
                    pylon,
                    name="the checkout before",
                    env={"PYTHONPATH": str(args.before.resolve() / "src")},
                )
                direct += [before, subjects.named(before)]
            through = end_to_end.subjects(stage, service, original)
            by_itself = _load_in_turn(args, folder, everybody, direct)
            for each in direct:
                subjects.look_at_everything(each)
            memory = {
                each.name: footprint.memory_mb(each.pid)
                for each in direct
                if each.pid is not None and not each.names_requests
            }
            behind_nginx = _load_in_turn(args, folder, everybody, [direct[0], *through])
            ready = {
                "nexus-auth": footprint.service_ready_seconds(
                    [sys.executable, "-m", "nexus_auth", "run"], folder, pylon
                )
            }
            if args.original is not None:
                ready["the original"] = footprint.service_ready_seconds(
                    [str(args.original.resolve()), "run"], folder, pylon
                )
    return {
        "machine": {
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "direct": {each.name: _summary(by_itself, each.name) for each in direct},
        "through nginx": {each.name: _summary(behind_nginx, each.name) for each in through},
        "side by side": [
            *comparisons(by_itself, BY_ITSELF),
            *comparisons(behind_nginx, BEHIND_NGINX),
        ],
        **micro.measure(1 if args.quick else micro.ROUNDS),
        "start-up": _medians(footprint.start_up_seconds(), digits=4),
        "ready": {name: round(seconds, 3) for name, seconds in ready.items()},
        "memory": {name: round(mb, 1) for name, mb in memory.items()},
    }


def _load_in_turn(
    args: argparse.Namespace,
    folder: Path,
    everybody: list[callers.Caller],
    targets: list[subjects.Subject],
) -> dict[str, list[Load]]:
    """Loads the subjects in turn, round by round, so that a slow moment hits all of them."""
    headers = [caller.header for caller in everybody]
    scripts: Mapping[tuple[str | None, bool], Path] = {
        (header, named): write_script(
            folder / f"{header}-{named}.lua", header or "", headers if header else [], named=named
        )
        for header, named in {(each.header, each.names_requests) for each in targets}
    }
    loads: dict[str, list[Load]] = {each.name: [] for each in targets}
    for each in targets:
        put_load(each.url, scripts[each.header, each.names_requests], seconds=1)  # warm every cache
    for number in range(args.rounds):
        for each in targets:
            load = put_load(
                each.url, scripts[each.header, each.names_requests], seconds=args.seconds
            )
            loads[each.name].append(load)
            print(f"round {number + 1}: {each.name}: {load.per_second:,.0f}/s", file=sys.stderr)
    return loads


def _summary(loads: dict[str, list[Load]], name: str) -> dict[str, float]:
    """Medians of one subject, its rate as a ratio of the yardstick's in the same round."""
    yardstick = loads["nginx return 200"]
    ratios = [
        load.per_second / reference.per_second
        for load, reference in zip(loads[name], yardstick, strict=True)
    ]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "per_second": round(statistics.median(load.per_second for load in loads[name])),
        "p50_ms": round(statistics.median(load.p50_ms for load in loads[name]), 3),
        "p99_ms": round(statistics.median(load.p99_ms for load in loads[name]), 3),
    }


def _medians(times: dict[str, list[float]], *, digits: int = 2) -> dict[str, float]:
    return {name: round(statistics.median(values), digits) for name, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
