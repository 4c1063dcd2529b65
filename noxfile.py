"""The project's tasks; `make` and CI call these and nothing else.

Tasks run in the environment that nox itself is installed in (`.venv`), on that one Python:
that is quick, and what a commit needs. The sessions `compatibility` and `oldest` make
environments of their own and answer the wider question: every Python we claim, and the
oldest packages we claim.
"""

from __future__ import annotations

import logging
import os
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
    "nexus_auth.adapters.starlette.middleware",
)

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
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=False)
def integration(session: nox.Session) -> None:
    """Runs only the tests that drive real programs."""
    _summary_comes_last()
    session.run("python", "-m", "pytest", "tests/integration", *session.posargs)


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
def bench(session: nox.Session) -> None:
    """Measures speed against a yardstick; arguments go to the benchmark."""
    session.run("python", "-m", "bench", *session.posargs)


@nox.session(python=False)
def build(session: nox.Session) -> None:
    """Builds both archives, then installs the wheel somewhere else and uses it."""
    session.run("python", "-m", "build", "--outdir", "dist", silent=True)
    wheel = _newest_wheel()
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "venv", folder)
        python = f"{folder}/bin/python"
        session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
        # -P and another working directory: the checkout must not be what is imported.
        with session.chdir(folder):
            session.run(
                *(python, "-P", "-c"),
                "import nexus_auth; print('nexus_auth', nexus_auth.__version__, 'works')",
                external=True,
            )
            session.run(f"{folder}/bin/nexus-auth", "--version", external=True)


@nox.session(python=PYTHONS)
def compatibility(session: nox.Session) -> None:
    """Runs the tests against the installed package, on every Python we claim to support."""
    session.install(".[dev]")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Runs the tests with the oldest packages we claim to support."""
    constraints = Path(session.create_tmp()) / "oldest.txt"
    lowest = [
        requirement.partition(";")[0].replace(">=", "==")
        for requirement in PYPROJECT["project"]["dependencies"]
    ]
    constraints.write_text("\n".join(lowest), encoding="utf-8")
    session.install(".[dev]", "--constraint", str(constraints))
    session.run("pytest", *session.posargs)


def _newest_wheel() -> Path:
    wheels = Path("dist").glob("*.whl")
    return max(wheels, key=lambda wheel: wheel.stat().st_mtime).resolve()


def _summary_comes_last() -> None:
    """Keeps nox from writing below pytest's summary: people and machines look for it there."""
    logging.getLogger("nox").setLevel(logging.WARNING)
