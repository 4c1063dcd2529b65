from __future__ import annotations

from importlib.metadata import version

import pytest

import nexus_auth


def test_version_is_that_of_the_installed_package() -> None:
    """`nexus_auth.__version__` is what pip shows."""
    assert nexus_auth.__version__ == version("nexus-auth")


def test_unknown_attribute_is_refused() -> None:
    """Nothing but the version is made up on demand."""
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(nexus_auth, "no_such_name")  # noqa: B009 - the type checker would refuse it
