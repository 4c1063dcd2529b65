"""The tool that makes small mistakes in our modules, and the table that it goes by."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.mutants.__main__ import SOURCES, TESTS, paths_of, read_listed
from scripts.mutants.mutations import find_mutants


@pytest.mark.parametrize(
    ("source", "mutated"),
    [
        ("x = 3", {"x = 4"}),
        ("x: int = 0x10", {"x: int = 17"}),
        ('x = "name"', {"x = 'namex'"}),
        ('é, x = y, b"z"', {"é, x = y, b'zx'"}),
        ('x = "for people"', set()),
        ('x = f"{y}"', set()),
        ("__slots__ = (1, 2)", set()),
        ("class A(Enum):\n    B = 'b'", set()),
        ("class A(StrEnum):\n    B = 'b'", {"class A(StrEnum):\n    B = 'bx'"}),
        ("@a(1)\nclass A:\n    b: bool = False", {"@a(1)\nclass A:\n    b: bool = True"}),
        ("f(a < b)", {"pass", "f((a <= b))"}),
        ("x = a if b else c", {"x = a if (not b) else c"}),
        ("x = f(a, b=c, d='for people')", {"x = f(a, d='for people')"}),
        ("x = a and not b", {"x = (a or not b)", "x = (not b)", "x = (a)", "x = a and (b)"}),
        ("while a: break", {"while (not a): break", "while a: continue"}),
        ("for a in b: f()", {"for a in (): f()", "for a in b: pass"}),
        ("def f():\n    return g", {"def f():\n    return None"}),
        ("def f():\n    raise g", {"def f():\n    pass"}),
        ("try: a\nexcept B: c", {"try: pass\nexcept B: c", "try: a\nexcept B: pass"}),
        ("x = min(a)", {"x = max(a)"}),
        ("x = a.lower()", {"x = a.upper()"}),
        ("a += b", {"a -= b"}),
    ],
)
def test_every_kind_of_mistake_is_made_alone(source: str, mutated: set[str]) -> None:
    """One place is changed, and the rest of the module stays as it is."""
    made = {each.source.decode() for each in find_mutants("m.py", source.encode())}
    assert made >= mutated
    assert len(made) <= len(mutated) + ("except" in source)


@pytest.mark.parametrize("module", TESTS)
def test_measured_module_is_there_with_its_tests(module: str) -> None:
    """A file that is moved takes its row along."""
    assert (SOURCES / module).is_file()
    assert paths_of(module)
    assert all(Path(each).exists() for each in paths_of(module))


def test_every_mutant_is_python_and_has_a_name_of_its_own() -> None:
    """The list of survivors goes by the names."""
    found = list(find_mutants("m", (SOURCES / "domain/certificate.py").read_bytes()))
    for each in found:
        compile(each.source, each.name, "exec")
    assert len({each.name for each in found}) == len(found) > 100


def test_every_listed_survivor_has_a_reason_and_a_module_that_is_measured() -> None:
    """Nothing is put aside without a word."""
    for name, reason in read_listed().items():
        assert reason
        assert name.partition(" ")[0] in TESTS
