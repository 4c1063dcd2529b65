from __future__ import annotations

import pytest

from nexus_auth.adapters.proxies.table import CONFIGURABLE, PROXIES
from tests.integration.proxies.documentation import (
    OVERVIEW,
    REWRITE,
    configuration_section,
    documented_results,
    rewrite,
    section,
)
from tests.integration.proxies.scenarios import SCENARIOS
from tests.integration.proxies.stack import PROGRAMS


@pytest.mark.parametrize("proxy", CONFIGURABLE)
def test_the_page_shows_the_configuration_that_is_generated(proxy: str) -> None:
    """What is read is what is printed."""
    expected = configuration_section(proxy)
    if REWRITE:
        rewrite("configuration", proxy, expected)
    assert section("configuration", proxy) == expected


def test_the_overview_names_every_preset() -> None:
    """The table of headers is the table in the code, and leads to every page."""
    text = OVERVIEW.read_text(encoding="utf-8")
    for name, proxy in PROXIES.items():
        assert f"| `{name}` | `{proxy.header.name}` | `{proxy.header.format}` |" in text
    for name in CONFIGURABLE:
        assert f"](proxies/{name}.md)" in text


@pytest.mark.parametrize("proxy", PROGRAMS)
def test_the_page_has_a_result_for_every_scenario(proxy: str) -> None:
    """The table of results is complete, and holds nothing else."""
    if REWRITE:
        pytest.skip("the page is being written")
    assert set(documented_results(proxy)[0]) == {scenario.name for scenario in SCENARIOS}
