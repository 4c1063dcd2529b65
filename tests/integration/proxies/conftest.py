"""Starts each proxy once for all the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.proxies.documentation import REWRITE, results_section, rewrite
from tests.integration.proxies.stack import PROGRAMS, Stack, open_folder, running_stack


@pytest.fixture(scope="session", params=PROGRAMS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """One proxy with everything around it."""
    proxy: str = request.param
    with open_folder() as folder, running_stack(proxy, folder) as running:
        yield running


@pytest.fixture(scope="session")
def recorded() -> Iterator[dict[tuple[str, str], str]]:
    """What came of each scenario; written into the documentation where that is wanted."""
    outcomes: dict[tuple[str, str], str] = {}
    yield outcomes
    if REWRITE:
        for proxy in {name for name, _ in outcomes}:
            mine = {scenario: what for (name, scenario), what in outcomes.items() if name == proxy}
            rewrite("results", proxy, results_section(proxy, mine))
