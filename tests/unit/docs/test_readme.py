from __future__ import annotations

import re
from pathlib import Path

from scripts.update_readme import help_block, settings_block
from tests.pages import ROOT

_README = (ROOT / "README.md").read_text(encoding="utf-8")

_HOW_TO_RENEW = "README.md is out of date; run: python scripts/update_readme.py --no-demo"


def _generated(name: str) -> str:
    found = re.search(rf"<!-- generated: {name} -->\n(.*?)<!-- end -->", _README, re.DOTALL)
    assert found is not None
    return found[1]


def test_settings_shown_are_those_that_exist() -> None:
    """Every setting with its flag, default and meaning; `scripts/update_readme.py` writes them."""
    assert _generated("settings") == settings_block(), _HOW_TO_RENEW


def test_help_shown_is_the_real_one() -> None:
    """Line breaks aside, which differ between Python versions."""
    assert _generated("help").split() == help_block().split(), _HOW_TO_RENEW


def test_first_paragraph_says_what_it_is_in_two_sentences() -> None:
    """A stranger knows after two sentences whether this is for them."""
    paragraph = _README.split("\n\n")[1]
    assert len(re.findall(r"[.?](?:\s|$)", paragraph)) == 2


def test_packaging_knows_the_readme() -> None:
    """The package index shows the same page."""
    assert 'readme = "README.md"' in Path(ROOT / "pyproject.toml").read_text(encoding="utf-8")
