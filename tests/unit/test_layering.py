"""The arrows between the layers: entrypoints -> adapters -> domain, and never back."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
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

HOLD_PROTOCOLS: Final = {
    "nexus_auth.domain.ports",
    # A rule of a policy: pure, and made by whoever writes policies.
    "nexus_auth.domain.policy",
}

TOO_HEAVY_FOR_A_LIBRARY: Final = {
    *("dependency_injector", "dotenv", "httpx", "redis", "starlette", "structlog"),
    *("uvicorn", "uvloop", "nexus_auth.entrypoints.container"),
}

ADAPTERS_OF_THE_LIBRARY: Final = {
    *("nexus_auth.adapters", "nexus_auth.adapters.background"),
    *("nexus_auth.adapters.clock", "nexus_auth.adapters.synchronous"),
}
"""The only ones that come with it: the clocks, and the verifier for code that cannot await."""


def module_name(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def find_imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Every module that a file imports anywhere, with the level of a relative import."""
    return tuple(_walk_imports(path))


def _walk_imports(path: Path) -> Iterator[tuple[str, int]]:
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


SHARED_BY_ADAPTERS: Final = {
    *("nexus_auth.adapters.addresses", "nexus_auth.adapters.background"),
    *("nexus_auth.adapters.clock", "nexus_auth.adapters.files"),
    *("nexus_auth.adapters.bounded_http", "nexus_auth.adapters.log_throttle"),
    *("nexus_auth.adapters.server_trust", "nexus_auth.adapters.synchronous"),
}
"""Small modules beside the packages of adapters, which each of them may use."""

SIBLINGS: Final = {
    # Whoever reads or writes a request needs the wire names.
    "observability": {"headers"},
    "proxies": {"headers"},
    # Reads certificate headers, and draws the picture of the whole.
    "starlette": {"headers", "observability"},
    # Shows the pair on disk.
    "tls": {"credentials"},
    # Serves the auth app: the gate's types, and how answers are written.
    "uvicorn": {"headers", "starlette"},
    # Reads requests by the same gate, and answers in the same words.
    "wsgi": {"headers", "starlette"},
}
"""Which package of adapters may import which others; a package that is not named here, none."""

ADAPTERS_OF: Final = {
    "settings": {"chain", "headers", "policy", "proxies", "pylon", "starlette"},
    "container": {"ALL"},
    "caller": {"tls"},
    "connecting": {"chain", "pylon", "registry"},
    "service": {"observability", "starlette", "uvicorn"},
    "issuing": {"credentials"},
    "diagnostics": {"chain", "credentials", "headers", "proxies", "pylon"},
    "devnet": {"devnet"},
    "demo": {"credentials", "headers", "proxies"},
    "calling": {"headers", "tls"},
    "commands": {"credentials", "devnet", "headers", "policy", "proxies", "pylon", "tls"},
    "sidecar": {"credentials", "headers", "proxies"},
}
"""Which entry points may import which adapters: the composition roots choose and connect them, and
a use case with effects names the outside things that it is about."""


def adapter_package(name: str) -> str | None:
    """The package of adapters that a dotted name is in; None outside, and for shared modules."""
    parts = name.split(".")
    if parts[:2] != ["nexus_auth", "adapters"] or len(parts) == 2:
        return None
    return parts[2] if (PACKAGE / "adapters" / parts[2]).is_dir() else None


@pytest.mark.parametrize("path", layer("adapters"), ids=module_name)
def test_adapters_import_no_sibling_but_those_that_are_declared(path: Path) -> None:
    """An outside thing can be replaced without touching the adapter of another."""
    own = adapter_package(module_name(path))
    allowed = {own} | SIBLINGS.get(own or "", set())
    for name, _ in find_imports(path):
        package = adapter_package(name)
        assert package is None or package in allowed, name
        if own is not None and package is None and is_within(name, "nexus_auth.adapters"):
            shared = name == "nexus_auth.adapters" or any(
                is_within(name, each) for each in SHARED_BY_ADAPTERS
            )
            assert shared, name


@pytest.mark.parametrize("path", layer("entrypoints"), ids=module_name)
def test_entrypoints_import_the_adapters_of_their_list(path: Path) -> None:
    """What an entry point may know of the outside is written down."""
    place = path.relative_to(PACKAGE / "entrypoints").with_suffix("").parts[0]
    allowed = ADAPTERS_OF.get(place, set())
    for name, _ in find_imports(path):
        package = adapter_package(name)
        assert package is None or package in allowed or "ALL" in allowed, name


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_ports_stand_in_the_domain_alone(path: Path) -> None:
    """What one part needs of another is said in one place, or is the part itself."""
    protocols = [
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    ]
    if module_name(path) not in HOLD_PROTOCOLS:
        assert protocols == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not even for the type checker: two modules that need each other are one idea, or three."""
    names = {module_name(path): path for path in MODULES}
    arrows = {
        name: {
            imported
            for each, _ in find_imports(path)
            for imported in (each,)
            if imported in names and imported != name
        }
        for name, path in names.items()
    }
    # A package's own __init__ is no arrow to it from below.
    for name, reached in arrows.items():
        arrows[name] = {each for each in reached if not is_within(name, each)}
    settled: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in settled:
            for each in sorted(arrows[name]):
                visit(each, (*way, name))
            settled.add(name)

    for name in sorted(arrows):
        visit(name, ())


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
