"""Measures how many mistakes the unit tests notice: `nox -s mutants -- domain/evaluate.py`.

Each mutant of a module (see `mutations`) is put into a copy of the sources, and the module's own
tests are run with it. What no test notices is printed, and is a failure where more than 3 % of the
mutants are noticed by none. A mutant that changes nothing that counts stands in `survivors.txt`,
with the reason, and is not run.

Ours, since mutmut 3.8 mutates functions alone, and no decorated ones: neither a property nor a
constant, such as whether a rule needs neurons. One process is forked for each mutant from one that
has imported all but the code under test, so that a mutant costs little more than its tests.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import deque
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final

import pytest

from scripts.mutants.mutations import Mutant, find_mutants

SOURCES: Final = Path("src/nexus_auth")
LISTED: Final = Path(__file__).with_name("survivors.txt")
AIM: Final = 97.0
"""Of 100 mutants that are not equivalent, so many are noticed."""

_UNIT: Final = Path("tests/unit")
_STARLETTE: Final = (
    "adapters/starlette/test_gate.py",
    "adapters/starlette/test_auth_app.py",
    "adapters/starlette/test_answers.py",
)
_VERIFIER: Final = ("domain/test_verifier.py",)
_CONTRACT: Final = ("contracts/test_key_registry.py",)

TESTS: Final[dict[str, tuple[str, ...]]] = {
    "domain/certificate.py": ("domain/test_hostile_certificates.py",),
    "domain/decision.py": (),
    "domain/ed25519.py": (),
    "domain/errors.py": (),
    "domain/evaluate.py": _VERIFIER,
    "domain/health.py": (),
    "domain/hotkey.py": (),
    "domain/issuance.py": ("entrypoints/issuing",),
    "domain/prospect.py": (),
    "domain/issuing.py": (),
    "domain/neuron.py": (),
    "domain/policy.py": ("adapters/policy",),
    "domain/ports.py": (),
    "domain/reasons.py": (),
    "domain/server_name.py": (),
    "domain/snapshot.py": (
        *("adapters/registry/test_plausibility.py", "adapters/registry/test_snapshot.py"),
    ),
    "domain/verifier.py": ("domain/test_evaluate.py",),
    "adapters/headers/formats.py": (),
    "adapters/headers/names.py": ("adapters/headers/test_grant_headers.py",),
    "adapters/starlette/answers.py": _STARLETTE,
    "adapters/starlette/auth_app.py": _STARLETTE,
    "adapters/starlette/gate.py": (
        *(*_STARLETTE, "adapters/starlette/test_middleware.py", "adapters/wsgi"),
    ),
    "adapters/starlette/middleware.py": (),
    "adapters/starlette/trusted_peers.py": (
        *("adapters/starlette/test_middleware.py", "adapters/starlette/test_auth_app.py"),
    ),
    "adapters/wsgi/middleware.py": (),
    "adapters/wsgi/request.py": ("adapters/wsgi",),
    "adapters/proxies/decoding.py": (),
    "adapters/uvicorn/head_protocol.py": (),
    "adapters/uvicorn/known_heads.py": ("adapters/uvicorn/test_head_protocol.py",),
    "adapters/registry/allowance.py": ("adapters/registry/test_lookup_floods.py",),
    "adapters/registry/backoff.py": (),
    "adapters/registry/fetch.py": ("adapters/registry",),
    "adapters/registry/lease.py": ("adapters/registry",),
    "adapters/registry/lookup.py": ("adapters/registry", *_CONTRACT),
    "adapters/registry/plausibility.py": ("adapters/registry",),
    "adapters/registry/refresh.py": ("adapters/registry", *_CONTRACT),
    "adapters/registry/snapshot.py": ("adapters/registry", *_CONTRACT),
    "adapters/store/record.py": ("adapters/store",),
    "adapters/pylon/answers.py": ("adapters/pylon/test_client.py",),
    "adapters/credentials/directory.py": ("entrypoints/issuing",),
}
"""Of each module that is measured: the tests, below tests/unit, that are run beside its own."""

# Only the plugins that the tests need: the others take time in each of thousands of runs.
_PLUGINS: Final = ("pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin")
_PYTEST: Final = (
    *("-x", "-q", "-p", "no:cacheprovider", "--override-ini=timeout=20"),
    *(argument for plugin in _PLUGINS for argument in ("-p", plugin)),
)
_NOT_IMPORTED_BEFORE: Final = {
    *("nexus_auth", "tests", "conftest", "scripts", "bench", "__main__"),
    *("pytest_asyncio", "pytest_timeout", "_hypothesis_pytestplugin"),
}
_MEMORY_BYTES: Final = 4 * 1024**3
_WALL_SECONDS: Final = 600
"""No mutant runs for longer, even one that waits for something outside of the tests."""


def paths_of(module: str) -> list[str]:
    """The test files and folders to run for a module: its own come first."""
    path = Path(module)
    own = _UNIT / path.parent / f"test_{path.name}"
    others = [_UNIT / each for each in TESTS[module]]
    return [*dict.fromkeys(str(each) for each in ([own] if own.exists() else []) + others)]


def read_listed() -> dict[str, str]:
    """The mutants that need no test, each with its reason: the line without indent above it."""
    listed: dict[str, str] = {}
    reason = ""
    for line in LISTED.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            listed[line.strip()] = reason
        elif line and not line.startswith("#"):
            reason = line
    return listed


class Workshop:
    """Copies of the sources, one for each process that runs at the same time."""

    def __init__(self, folder: Path, count: int) -> None:
        self.free = [folder / str(number) for number in range(count)]
        self.running: dict[int, tuple[Path, Mutant | None, float]] = {}
        # The tests that noticed a mutant, the latest first: they are likely to notice the next one.
        self.alert: dict[str, None] = {}
        for each in self.free:
            shutil.copytree(SOURCES, each / SOURCES.name)
            compileall.compile_dir(each, quiet=1)

    def start(self, module: str, mutant: Mutant | None, cpu_seconds: int) -> None:
        """Starts a module's tests, with a mutant or, for None, as it is."""
        copy = self.free.pop()
        pid = os.fork()
        if pid == 0:
            try:
                order = LatestFirst([*self.alert], copy / "noticed")
                status = _run_tests(copy, module, mutant, cpu_seconds, order)
            except BaseException:  # noqa: BLE001 - whatever it is, this process must end here
                status = 3
            os._exit(status)
        self.running[pid] = copy, mutant, time.monotonic()

    def wait(self) -> tuple[Mutant | None, bool]:
        """Waits until one has ended; says which, and whether all tests passed."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                for late in self.running:
                    if time.monotonic() - self.running[late][2] > _WALL_SECONDS:
                        os.kill(late, signal.SIGKILL)
                time.sleep(0.01)
                continue
            copy, mutant, _ = self.running.pop(pid)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what its tests have started
            self.free.append(copy)
            if (copy / "noticed").exists():
                test = (copy / "noticed").read_text()
                self.alert.pop(test, None)
                self.alert = {test: None, **self.alert}
            return mutant, status == 0


class LatestFirst:
    """A plugin of pytest: puts some tests first, and writes down which one fails."""

    def __init__(self, first: list[str], noticed: Path) -> None:
        self._places = {name: place for place, name in enumerate(first)}
        self._noticed = noticed
        noticed.unlink(missing_ok=True)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """See pytest."""
        items.sort(key=lambda item: self._places.get(item.nodeid, len(self._places)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest."""
        if report.failed:
            self._noticed.write_text(report.nodeid)


def _run_tests(
    copy: Path, module: str, mutant: Mutant | None, cpu_seconds: int, order: LatestFirst
) -> int:
    """Runs a module's tests in this process, which is one of its own, and ends with it."""
    os.setsid()
    # Processor time, so that a busy machine makes no difference: a mutant may loop for ever.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    target = copy / SOURCES.name / module
    # No compiled file of it: two mutants of one second and one size would share it.
    Path(cache_from_source(str(target))).unlink(missing_ok=True)
    target.write_bytes((SOURCES / module).read_bytes() if mutant is None else mutant.source)
    output = os.open(copy / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Programs that tests start find the copy as well.
    os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = mutant is not None  # The first run compiles the tests for the others.
    sys.path.insert(0, str(copy))
    arguments = [*_PYTEST, "--basetemp", str(copy / "tmp"), *paths_of(module)]
    status = int(pytest.main(arguments, plugins=[order]))
    if mutant is None:
        (copy / "modules").write_text("\n".join(sys.modules))
        Path(cache_from_source(str(target))).unlink(missing_ok=True)
    # What the tests wrote, and no mutant must find.
    target.write_bytes((SOURCES / module).read_bytes())
    return status


def _prepare(workshop: Workshop, module: str) -> int:
    """Runs a module's tests as they are, and imports what they need; gives the time they take."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    copy = workshop.free[-1]
    workshop.start(module, None, 600)
    if not workshop.wait()[1]:
        print((copy / "output").read_text(), file=sys.stderr)
        raise SystemExit(f"the tests of {module} fail without a mutant")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (copy / "modules").read_text().splitlines():
            if name.partition(".")[0] not in _NOT_IMPORTED_BEFORE:
                with suppress(Exception):
                    importlib.import_module(name)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 5 + 5 * int(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def measure(workshop: Workshop, module: str, listed: dict[str, str]) -> tuple[int, list[Mutant]]:
    """Gives how many mutants a module has, without the listed ones, and which survive."""
    found = list(find_mutants(module, (SOURCES / module).read_bytes()))
    for name in listed.keys() - {each.name for each in found}:
        if name.startswith(f"{module} "):
            print(f"    listed, and no longer a mutant: {name}", flush=True)
    mutants = [each for each in found if each.name not in listed]
    cpu_seconds = _prepare(workshop, module)
    left, survivors = deque(mutants), []
    while left or workshop.running:
        while left and workshop.free:
            workshop.start(module, left.popleft(), cpu_seconds)
        mutant, survived = workshop.wait()
        if survived and mutant is not None:
            survivors.append(mutant)
    return len(mutants), sorted(survivors, key=lambda each: each.line)


def main() -> int:
    """Measures the modules that are named, or all of the table."""
    parser = argparse.ArgumentParser(prog="nox -s mutants --", description=__doc__)
    parser.add_argument("modules", nargs="*", help="such as domain/evaluate.py; all by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--all", action="store_true", help="run the listed ones as well")
    arguments = parser.parse_args()
    modules = arguments.modules or [*TESTS]
    unknown = [each for each in modules if each not in TESTS]
    if unknown:
        parser.error(f"not measured: {', '.join(unknown)}")
    os.environ.update(HYPOTHESIS_PROFILE="mutants", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    listed = {} if arguments.all else read_listed()
    total = total_survived = 0
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder), arguments.jobs)
        for module in modules:
            started = time.monotonic()
            count, survivors = measure(workshop, module, listed)
            seconds = time.monotonic() - started
            noticed = count - len(survivors)
            print(
                f"{_score(count, len(survivors)):5.1f} %  {noticed:4} of {count:4}  {module}"
                f"  ({seconds:.0f} s)",
                flush=True,
            )
            for each in survivors:
                print(f"    {each.name}  [line {each.line}]", flush=True)
            total, total_survived = total + count, total_survived + len(survivors)
    score = _score(total, total_survived)
    print(f"{score:.1f} % of {total} mutants are noticed; the aim is {AIM:.0f} %")
    return 0 if score >= AIM else 1


def _score(count: int, survived: int) -> float:
    return 100.0 if not count else 100.0 * (count - survived) / count


if __name__ == "__main__":
    sys.exit(main())
