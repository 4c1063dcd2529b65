from __future__ import annotations

import importlib
import sys

import pytest

from nexus_auth.entrypoints.hidden_packages import hidden


def test_hidden_package_cannot_be_imported_until_the_block_ends() -> None:
    """It looks as if it were not installed; afterwards it is there as ever."""
    sys.modules.pop("this", None)
    with hidden("this"), pytest.raises(ImportError):
        importlib.import_module("this")
    assert "this" not in sys.modules


def test_emptied_package_can_be_imported_and_has_nothing() -> None:
    """For those who look a package up themselves."""
    sys.modules.pop("this", None)
    with hidden(emptied=["this"]):
        assert not hasattr(importlib.import_module("this"), "d")
    assert "this" not in sys.modules


def test_loaded_package_stays_as_it_is() -> None:
    """Code that uses it already goes on doing so."""
    with hidden("importlib", emptied=["sys"]):
        assert importlib.import_module("importlib") is importlib
        assert importlib.import_module("sys") is sys
