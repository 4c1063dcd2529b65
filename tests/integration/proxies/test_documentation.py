from __future__ import annotations

import pytest

from nexus_auth.adapters.proxies.table import CONFIGURABLE, PROXIES
from tests.integration.proxies.documentation import (
    PAGE,
    REWRITE,
    configuration_section,
    documented_results,
    section,
    with_section,
)
from tests.integration.proxies.scenarios import SCENARIOS
from tests.integration.proxies.stack import PROGRAMS


@pytest.mark.parametrize("proxy", CONFIGURABLE)
def test_the_page_shows_the_configuration_that_is_generated(proxy: str) -> None:
    """What is read is what is printed."""
    page, expected = PAGE.read_text(encoding="utf-8"), configuration_section(proxy)
    if REWRITE:
        PAGE.write_text(with_section(proxy, expected, page), "utf-8")
        return
    assert section(proxy, page) == expected


def test_the_page_names_every_preset() -> None:
    """The table of headers is the table in the code."""
    page = PAGE.read_text(encoding="utf-8")
    for name, proxy in PROXIES.items():
        assert f"| `{name}` | `{proxy.header.name}` | `{proxy.header.format}` |" in page


def test_the_page_has_a_result_for_every_scenario() -> None:
    """The table of results is complete, and holds nothing else."""
    if REWRITE:
        pytest.skip("the page is being written")
    outcomes, versions = documented_results(PAGE.read_text(encoding="utf-8"))
    assert set(versions) == set(PROGRAMS)
    assert set(outcomes) == {(proxy, s.name) for proxy in PROGRAMS for s in SCENARIOS}
