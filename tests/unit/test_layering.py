"""The arrows between the layers: entrypoints -> adapters -> domain, and never back."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import nexus_auth

PACKAGE: Final = Path(nexus_auth.__path__[0])
MODULES: Final = sorted(PACKAGE.rglob("*.py"))

DOMAIN_MAY_IMPORT: Final = {"cryptography"}
"""From outside the standard library."""

DOMAIN_MAY_NOT_IMPORT: Final = {
    *("asyncio", "http", "logging", "os", "pathlib", "shutil", "socket", "sqlite3", "ssl"),
    *("subprocess", "tempfile", "threading", "urllib.request"),
}
"""Parts of the standard library that do I/O, or start something that does."""

COMPOSITION_ROOT: Final = "nexus_auth.entrypoints.container"

WIRES_A_REGISTRY: Final = {COMPOSITION_ROOT, "nexus_auth.entrypoints.connecting"}
"""The service's container, and `connect` for applications, which must not load a container."""

TOO_HEAVY_FOR_A_LIBRARY: Final = {
    *("dependency_injector", "dotenv", "httpx", "redis", "stamina", "starlette", "structlog"),
    *("uvicorn", "uvloop", "nexus_auth.entrypoints.container"),
}

ADAPTERS_OF_THE_LIBRARY: Final = {
    *("nexus_auth.adapters", "nexus_auth.adapters.clock", "nexus_auth.adapters.synchronous"),
}
"""The only ones that come with it: the clocks, and the verifier for code that cannot await."""


def module_name(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere, with the level of a relative import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0
        elif isinstance(node, ast.ImportFrom):
            # `from package import module` names the module too.
            yield node.module or "", node.level
            for alias in node.names:
                yield f"{node.module or ''}.{alias.name}", node.level


def is_within(name: str, package: str) -> bool:
    """Tells whether a dotted name is a package or something in it."""
    return name == package or name.startswith(f"{package}.")


def layer(name: str) -> list[Path]:
    """The source files of one layer."""
    return sorted((PACKAGE / name).rglob("*.py"))


@pytest.mark.parametrize("path", layer("domain"), ids=module_name)
def test_domain_imports_itself_the_standard_library_and_cryptography(path: Path) -> None:
    """The domain cannot do I/O, and works without any framework."""
    for name, _ in find_imports(path):
        top = name.partition(".")[0]
        if top == "nexus_auth":
            assert name == "nexus_auth" or is_within(name, "nexus_auth.domain"), name
        else:
            assert top in sys.stdlib_module_names | DOMAIN_MAY_IMPORT, name
        assert not any(is_within(name, module) for module in DOMAIN_MAY_NOT_IMPORT), name


@pytest.mark.parametrize("path", layer("adapters"), ids=module_name)
def test_adapters_never_import_entrypoints(path: Path) -> None:
    """An adapter can be used without our service around it."""
    for name, _ in find_imports(path):
        assert not is_within(name, "nexus_auth.entrypoints"), name


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_are_absolute(path: Path) -> None:
    """`adapters/starlette` and the starlette package can never be confused."""
    for name, level in find_imports(path):
        assert level == 0, name


@pytest.mark.parametrize("path", layer("entrypoints"), ids=module_name)
def test_only_the_container_knows_dependency_injector(path: Path) -> None:
    """Everything is wired in one place."""
    if module_name(path) != COMPOSITION_ROOT:
        for name, _ in find_imports(path):
            assert not is_within(name, "dependency_injector"), name


@pytest.mark.parametrize("path", layer("domain") + layer("adapters"), ids=module_name)
def test_injection_stops_at_the_entrypoints(path: Path) -> None:
    """Domain and adapters take their collaborators as plain arguments."""
    for name, _ in find_imports(path):
        assert not is_within(name, "dependency_injector"), name


@pytest.mark.parametrize("path", layer("entrypoints"), ids=module_name)
def test_only_the_container_chooses_a_registry(path: Path) -> None:
    """Where keys come from is decided in one place, whatever command is run."""
    if module_name(path) not in WIRES_A_REGISTRY:
        for name, _ in find_imports(path):
            assert not is_within(name, "nexus_auth.adapters.registry"), name


def test_using_the_library_loads_no_service_parts() -> None:
    """Whoever embeds the verifier pays for cryptography alone."""
    script = """
import json, sys
import nexus_auth
for name in [*getattr(nexus_auth, "__all__", []), "__version__"]:
    getattr(nexus_auth, name)
print(json.dumps(sorted(sys.modules)))
"""
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    loaded = set(json.loads(finished.stdout))
    assert "nexus_auth" in loaded
    assert not loaded & TOO_HEAVY_FOR_A_LIBRARY
    adapters = {name for name in loaded if is_within(name, "nexus_auth.adapters")}
    assert adapters == ADAPTERS_OF_THE_LIBRARY
