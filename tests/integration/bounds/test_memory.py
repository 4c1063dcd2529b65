"""What parsers of outside data take in memory, at the worst."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.integration.bounds.worst_cases import PARSERS

TIMES: Final = 8
"""A text of four bytes a character takes four times its size, and its parser may hold it twice."""

AT_LEAST_BYTES: Final = 4_000_000
"""Python asks for memory in pieces of a megabyte, and the shortest inputs need a few."""

ROOT: Final = Path(__file__).parents[3]


def parse_the_worst(name: str, room: int) -> subprocess.CompletedProcess[str]:
    """Has a parser read the worst, in a process with so much room."""
    # Large pieces come from the system and go back to it, so that none that was freed is room.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "tests.integration.bounds.worst_cases", name, str(room)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as Linux does it")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(PARSERS.keys() - {"greedy"}))
def test_worst_input_takes_a_small_multiple_of_its_size(name: str) -> None:
    """Whatever is sent within the bound of bytes: depths, numbers of values, texts, digits."""
    room = TIMES * PARSERS[name].limit + AT_LEAST_BYTES
    finished = parse_the_worst(name, room)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as Linux does it")
def test_parser_that_builds_everything_is_noticed() -> None:
    """The test above tests something: Python's own parser takes more."""
    finished = parse_the_worst("greedy", TIMES * PARSERS["greedy"].limit + AT_LEAST_BYTES)
    assert "more than" in finished.stderr
