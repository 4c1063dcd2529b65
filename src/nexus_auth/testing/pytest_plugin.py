"""The fixture `subnet`, for `pytest_plugins = ["nexus_auth.testing.pytest_plugin"]`.

Not registered as a plugin by itself: then every test run on a machine that has nexus-auth
installed would load it.
"""

from __future__ import annotations

import pytest

from nexus_auth.testing import Subnet


@pytest.fixture
def subnet() -> Subnet:
    """A subnet without any registration."""
    return Subnet()
