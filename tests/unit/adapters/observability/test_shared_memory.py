"""The memory that workers share."""

from __future__ import annotations

import os

import pytest

from nexus_auth.adapters.observability.shared_memory import SharedReports


def test_empty_slot_has_no_report() -> None:
    """A worker that has not started yet says nothing."""
    assert SharedReports(2).read(1) is None


def test_newest_report_is_read() -> None:
    """Each slot has its own worker's last word."""
    shared = SharedReports(2)
    for number in range(5):
        assert shared.publish(0, b"zero %d" % number)
    assert shared.publish(1, b"one")
    assert (shared.read(0), shared.read(1)) == (b"zero 4", b"one")


def test_half_written_report_leaves_the_one_before() -> None:
    """A worker may be killed at any byte."""
    shared = SharedReports(1, slot_bytes=128)
    shared.publish(0, b"whole")
    shared.publish(0, b"broken")
    at = shared._memory.find(b"broken")
    shared._memory[at : at + 1] = b"B"
    assert shared.read(0) == b"whole"


def test_report_that_is_too_long_leaves_the_old_one() -> None:
    """A slot has its bound."""
    shared = SharedReports(1, slot_bytes=128)
    shared.publish(0, b"old")
    assert not shared.publish(0, bytes(128))
    assert shared.read(0) == b"old"


def test_report_of_another_process_is_read() -> None:
    """What a worker published stays, whatever becomes of it."""
    shared = SharedReports(2)
    pid = os.fork()
    if not pid:
        shared.publish(1, b"from the child")
        os._exit(0)
    os.waitpid(pid, 0)
    assert shared.read(1) == b"from the child"


@pytest.mark.parametrize("slot", [-1, 2])
def test_there_are_no_other_slots(slot: int) -> None:
    """No worker can write beyond the memory."""
    with pytest.raises(IndexError):
        SharedReports(2).publish(slot, b"")
