"""Starts each proxy once for all the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.proxies.documentation import (
    PAGE,
    REWRITE,
    results_section,
    version_of,
    with_section,
)
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
        versions = {proxy: version_of(proxy) for proxy in PROGRAMS}
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_section("results", results_section(outcomes, versions), page), "utf-8")
