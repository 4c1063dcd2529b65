from __future__ import annotations

import resource

import pytest

from nexus_auth.entrypoints.open_files import ENOUGH, allow_many

UNBOUND = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1024, 4096), (4096, 4096)),
        ((1024, 1_000_000), (ENOUGH, 1_000_000)),
        ((1024, UNBOUND), (ENOUGH, UNBOUND)),
        ((4096, 4096), None),
        ((100_000, UNBOUND), None),
        ((UNBOUND, UNBOUND), None),
    ],
)
def test_soft_limit_is_raised_and_never_lowered(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    """Up to the hard limit, which is nobody's to change, or to what is enough."""
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: set_to.append(pair))
    allow_many()
    assert set_to == ([] if expected is None else [expected])


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_system_that_does_not_allow_it_is_no_problem(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """The service then starts with what it has."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_many()
