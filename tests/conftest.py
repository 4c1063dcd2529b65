"""What holds for every test: a clean environment and patient, reproducible hypothesis profiles."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping

import hypothesis
import pytest

from tests.virtual_time import VirtualTimeLoop

# Whatever the developer's own is: an env file that others may write is not read.
os.umask(0o022)
# A shell that starts the tests in the background has them ignore Ctrl-C, and so what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a slow moment of a busy machine is not a defect. What matters most has tables and
# examples of its own; on a developer's machine new ones come with every run.
hypothesis.settings.register_profile("default", deadline=None, max_examples=40)
# Always the same examples: a build must not fail by chance.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=5_000)
# Few, always the same, and no search for the smallest: run once for each of thousands of mutants.
hypothesis.settings.register_profile(
    "mutants",
    deadline=None,
    derandomize=True,
    max_examples=20,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Runs the tests that are marked `virtual_time` in an event loop of that kind."""
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual time": VirtualTimeLoop}
    return {"real time": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the developer's own settings from the tests."""
    for name in [name for name in os.environ if name.startswith("NEXUS_")]:
        monkeypatch.delenv(name)
