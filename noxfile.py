"""The project's tasks; `make` and CI call these and nothing else.

Tasks run in the environment that nox itself is installed in (`.venv`), on that one Python:
that is quick, and what a commit needs. The sessions `compatibility` and `oldest` make
environments of their own and answer the wider question: every Python we claim, and the
oldest packages we claim.
"""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
import tomllib
from pathlib import Path

import nox

PYPROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = [
    classifier.rpartition(" ")[2]
    for classifier in PYPROJECT["project"]["classifiers"]
    if classifier.startswith("Programming Language :: Python :: 3.")
]

# What users may import; every other module may change.
PUBLIC_MODULES = (
    "nexus_auth",
    "!nexus_auth.domain",
    "!nexus_auth.adapters",
    "!nexus_auth.entrypoints",
    "nexus_auth.asgi",
    "nexus_auth.client",
    "nexus_auth.wsgi",
)

# Tests wait for other programs most of the time. A file of tests stays in one process.
PARALLEL = ("--numprocesses", "2", "--dist", "loadfile")

nox.options.sessions = ["lint", "types", "docs", "build", "tests"]
nox.options.error_on_missing_interpreters = False


@nox.session(python=False)
def format(session: nox.Session) -> None:  # noqa: A001 - the name of the make target.
    """Rewrites the code in the house format."""
    session.run("ruff", "format")
    session.run("ruff", "check", "--fix-only")


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """Checks format and lint rules."""
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """Checks types, strictly."""
    session.run("mypy")
    # What users copy, by pyright as well.
    session.run("python", "scripts/check_examples.py")


@nox.session(python=False)
def docs(session: nox.Session) -> None:
    """Checks every link between the pages, and builds the API reference into site/api/."""
    session.run("python", "scripts/check_links.py")
    # A docstring that cannot be rendered, or names what is not there, is an error.
    session.run(
        *("python", "-W", "error", "-m", "pdoc", "--docformat", "google"),
        *("--no-show-source", "--output-directory", "site/api"),
        *PUBLIC_MODULES,
    )


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """Runs all tests; arguments go to pytest."""
    _summary_comes_last()
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs)


@nox.session(python=False)
def integration(session: nox.Session) -> None:
    """Runs only the tests that drive real programs."""
    _summary_comes_last()
    session.run("python", "-m", "pytest", *PARALLEL, "tests/integration", *session.posargs)


@nox.session(python=False)
def coverage(session: nox.Session) -> None:
    """Runs all tests and reports what they reach, and the domain by itself."""
    _summary_comes_last()
    session.run(
        "python", "-m", "pytest", "--cov", "--cov-report=html", "--cov-report=", *session.posargs
    )
    session.run("coverage", "report", "--include=*/nexus_auth/domain/*")
    session.run("coverage", "report")


@nox.session(python=False)
def mutants(session: nox.Session) -> None:
    """Measures which small mistakes the unit tests notice; arguments name modules of src."""
    session.run("python", "-m", "scripts.mutants", *session.posargs)


@nox.session(python=False)
def soak(session: nox.Session) -> None:
    """Runs the soak tests for two minutes, or for SOAK_SECONDS."""
    _summary_comes_last()
    seconds = os.environ.get("SOAK_SECONDS", "120")
    session.run(
        *("python", "-m", "pytest", "-m", "soak", "--timeout", str(float(seconds) + 120), "-s"),
        *session.posargs,
        env={"SOAK_SECONDS": seconds},
    )


@nox.session(python=False)
def fuzz(session: nox.Session) -> None:
    """Fuzzes for FUZZ_SECONDS, over all targets; arguments go to `python -m fuzz`."""
    seconds = ("--seconds", os.environ["FUZZ_SECONDS"]) if "FUZZ_SECONDS" in os.environ else ()
    session.run("python", "-m", "fuzz", *seconds, *session.posargs)


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Measures speed against a yardstick; arguments go to the benchmark."""
    session.run("python", "-m", "bench", *session.posargs)


@nox.session(python=False)
def build(session: nox.Session) -> None:
    """Builds both archives, checks them, and uses the wheel in an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "dist"
        # From here to the source archive, and from that to the wheel: what is missing is missed.
        session.run("python", "-m", "build", "--outdir", str(built), silent=True)
        (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
        session.run("python", "-m", "twine", "--no-color", "check", "--strict", wheel, sdist)
        session.run("python", "scripts/check_archives.py", str(wheel), str(sdist))
        _try_wheel(session, wheel, Path(folder) / "environment")
        _try_sdist(session, sdist, Path(folder) / "source")
        Path("dist").mkdir(exist_ok=True)
        for archive in (wheel, sdist):
            shutil.copy(archive, "dist")


def _try_wheel(session: nox.Session, wheel: Path, environment: Path) -> None:
    """Installs the wheel with what it asks for, and uses it."""
    session.run("python", "-m", "venv", str(environment))
    python = str(environment / "bin" / "python")
    session.run(
        *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *(f"{wheel}[chain,redis]",),
        external=True,
    )
    script = Path("scripts/try_installed.py").resolve()
    # -P and another working directory: the checkout must not be what is imported.
    with session.chdir(environment):
        session.run(python, "-P", str(script), external=True)


def _try_sdist(session: nox.Session, sdist: Path, folder: Path) -> None:
    """Finds all tests in the unpacked source archive, and runs those about the project's files."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    with session.chdir(source):
        environment = {"PYTHONPATH": str(source / "src")}
        pytest = ("python", "-m", "pytest", "--quiet", "-p", "no:cacheprovider")
        session.run(*pytest, "--collect-only", "tests", silent=True, env=environment)
        session.run(*pytest, "tests/unit/test_house.py", "tests/unit/docs", env=environment)


@nox.session(python=False)
def audit(session: nox.Session) -> None:
    """Asks for known vulnerabilities of installed packages; AUDIT_REQUIRED=1 insists on answers."""
    session.run("python", "scripts/audit.py")


@nox.session(python=PYTHONS)
def compatibility(session: nox.Session) -> None:
    """Runs the tests against the installed package, on every Python we claim to support."""
    session.install(".[dev]")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Runs the tests with the oldest packages we claim to support."""
    constraints = Path(session.create_tmp()) / "oldest.txt"
    project = PYPROJECT["project"]
    # The oldest OpenTelemetry would need a FastAPI older than that of the tests.
    extras = project["optional-dependencies"]
    claimed = [*project["dependencies"], *extras["chain"], *extras["redis"]]
    lowest = [each.partition(";")[0].replace(">=", "==") for each in claimed]
    constraints.write_text("\n".join(lowest), encoding="utf-8")
    session.install(".[dev]", "--constraint", str(constraints))
    session.run("pytest", *session.posargs)


def _summary_comes_last() -> None:
    """Keeps nox from writing below pytest's summary: people and machines look for it there."""
    logging.getLogger("nox").setLevel(logging.WARNING)
