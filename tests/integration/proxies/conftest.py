"""Starts each proxy once for all the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.integration.proxies.stack import PROGRAMS, Stack, running_stack


@pytest.fixture(scope="session", params=PROGRAMS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """One proxy with everything around it."""
    proxy: str = request.param
    # Not pytest's own folder: nobody but its owner can enter that, and a proxy that was started by
    # root works under another name.
    with TemporaryDirectory(prefix=f"nexus-auth-{proxy}-") as folder:
        Path(folder).chmod(0o755)
        with running_stack(proxy, Path(folder)) as running:
            yield running
