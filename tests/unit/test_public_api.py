"""What `import nexus_auth` offers, and what it costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import nexus_auth

SOURCE = Path(nexus_auth.__file__)


def test_all_is_sorted_and_complete() -> None:
    """`__all__` names what the type checker sees imported, in order."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    shown = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nexus_auth")
        for alias in node.names
    }
    assert nexus_auth.__all__ == sorted(shown)
    assert set(nexus_auth.__all__) == set(nexus_auth._HOMES)


@pytest.mark.parametrize("name", nexus_auth.__all__)
def test_every_name_is_there_and_lives_where_it_is_typed(name: str) -> None:
    """What is fetched at run time is what the type checker promised."""
    value = getattr(nexus_auth, name)
    module = sys.modules[nexus_auth._HOMES[name]]
    assert value is getattr(module, name)
    assert name in dir(nexus_auth)
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    imported_from = [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}
    ]
    assert imported_from == [nexus_auth._HOMES[name]]


@pytest.mark.parametrize("name", ["nexus_auth.asgi", "nexus_auth.client", "nexus_auth.wsgi"])
def test_doors_name_all_that_they_show(name: str) -> None:
    """`__all__` is what the module imports of ours, in order."""
    module = importlib.import_module(name)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    shown = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nexus_auth")
        for alias in node.names
    ]
    assert sorted(module.__all__) == sorted(shown)
    assert all(hasattr(module, each) for each in module.__all__)


def test_star_import_brings_the_public_names() -> None:
    """`from nexus_auth import *` works, lazily fetched names or not."""
    namespace: dict[str, object] = {}
    exec("from nexus_auth import *", namespace)  # noqa: S102 - the statement is the point
    assert set(nexus_auth.__all__) <= namespace.keys()


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import nexus_auth", ["cryptography", "asyncio", "httpx", "nexus_auth.domain"]),
        (
            "from nexus_auth import CertificateVerifier, Hotkey, connect, utc_now",
            ["httpx", "starlette", "uvicorn", "structlog", "dependency_injector", "base58"],
        ),
        (
            "import nexus_auth.client",
            ["httpx", "anyio", "starlette", "uvicorn", "structlog", "dependency_injector"],
        ),
        ("import nexus_auth.testing", ["pytest", "httpx", "starlette"]),
    ],
)
def test_import_loads_no_more_than_is_used(statement: str, absent: list[str]) -> None:
    """The package itself weighs nothing, and the verifier only what it needs."""
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30
    )
    assert not set(done.stdout.split()) & set(absent)
