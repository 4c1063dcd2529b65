"""The memory that workers share."""

from __future__ import annotations

import os

import pytest

from nexus_auth.adapters.observability.board import Board


def test_empty_slot_has_no_report() -> None:
    """A worker that has not started yet says nothing."""
    assert Board(2).read(1) is None


def test_newest_report_is_read() -> None:
    """Each slot has its own worker's last word."""
    board = Board(2)
    for number in range(5):
        assert board.publish(0, b"zero %d" % number)
    assert board.publish(1, b"one")
    assert (board.read(0), board.read(1)) == (b"zero 4", b"one")


def test_half_written_report_leaves_the_one_before() -> None:
    """A worker may be killed at any byte."""
    board = Board(1, slot_bytes=128)
    board.publish(0, b"whole")
    board.publish(0, b"broken")
    at = board._memory.find(b"broken")
    board._memory[at : at + 1] = b"B"
    assert board.read(0) == b"whole"


def test_report_that_is_too_long_leaves_the_old_one() -> None:
    """A slot has its bound."""
    board = Board(1, slot_bytes=128)
    board.publish(0, b"old")
    assert not board.publish(0, bytes(128))
    assert board.read(0) == b"old"


def test_other_process_is_heard() -> None:
    """What a worker published stays, whatever becomes of it."""
    board = Board(2)
    pid = os.fork()
    if not pid:
        board.publish(1, b"from the child")
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.read(1) == b"from the child"


@pytest.mark.parametrize("slot", [-1, 2])
def test_there_are_no_other_slots(slot: int) -> None:
    """No worker can write beyond the board."""
    with pytest.raises(IndexError):
        Board(2).publish(slot, b"")
