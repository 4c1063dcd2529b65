"""Files that somebody named, and what they may turn out to be."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from nexus_auth.adapters.files import load_bytes


def count_bytes_in(pipe: int) -> int:
    """How much is in a pipe that nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    """Whatever the file holds."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert load_bytes(path, 4) == b"0123"
    assert load_bytes(path, 100) == b"0123456789"


def test_pipe_that_nobody_writes_to_is_empty(tmp_path: Path) -> None:
    """It is not waited for."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert load_bytes(path, 100) == b""


def test_writer_of_a_pipe_is_waited_for(tmp_path: Path) -> None:
    """All that it writes is read, however late it comes."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # Opened for both, a pipe needs no other end.
    writer = os.open(path, os.O_RDWR)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(load_bytes(path, 10)))
    reader.start()
    os.write(writer, b"01234")
    deadline = time.monotonic() + 10
    while count_bytes_in(writer) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.write(writer, b"56789")
    reader.join(10)
    os.close(writer)
    assert found == [b"0123456789"]


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    """With the system's own words."""
    with pytest.raises(OSError, match=r"No such file|Is a directory"):
        load_bytes(tmp_path / name, 100)
