"""The memory in which the workers of one service see each other's reports.

Plain shared memory that is made before the workers fork: no file, no socket, nothing to clean up,
and a report outlives the worker that wrote it.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from typing import Final

SLOT_BYTES: Final = 256 * 1024
"""A report has some 80 KB at most (see the bounds in `report`). Unwritten pages take no memory."""

_HEAD: Final = struct.Struct("<QII")  # sequence number, length, checksum


class SharedReports:
    """One slot for each worker. Only its own worker writes to a slot; all workers read all slots.

    A slot has two halves, written alternately, each with a checksum: a reader gets the newest
    complete report, whatever a writer is doing at that moment.
    """

    def __init__(self, slots: int, *, slot_bytes: int = SLOT_BYTES) -> None:
        """Makes the memory; to be called before forking."""
        self.slots = slots
        self._half = slot_bytes
        self._memory = mmap.mmap(-1, 2 * slots * slot_bytes)

    def publish(self, slot: int, report: bytes) -> bool:
        """Replaces a slot's report; False where it is too long, which leaves the old one."""
        if len(report) > self._half - _HEAD.size:
            return False
        sequence = max(self._head(slot, half)[0] for half in (0, 1)) + 1
        start = self._start(slot, sequence % 2)
        self._memory[start + _HEAD.size : start + _HEAD.size + len(report)] = report
        _HEAD.pack_into(self._memory, start, sequence, len(report), _checksum(sequence, report))
        return True

    def read(self, slot: int) -> bytes | None:
        """A slot's newest complete report; None where there is none."""
        for half in sorted((0, 1), key=lambda half: self._head(slot, half)[0], reverse=True):
            sequence, length, checksum = self._head(slot, half)
            start = self._start(slot, half) + _HEAD.size
            report = self._memory[start : start + min(length, self._half - _HEAD.size)]
            if sequence and checksum == _checksum(sequence, report):
                return report
        return None

    def _start(self, slot: int, half: int) -> int:
        if not 0 <= slot < self.slots:
            raise IndexError(f"there is no slot {slot}")
        return (2 * slot + half) * self._half

    def _head(self, slot: int, half: int) -> tuple[int, int, int]:
        sequence, length, checksum = _HEAD.unpack_from(self._memory, self._start(slot, half))
        return sequence, length, checksum


def _checksum(sequence: int, report: bytes) -> int:
    return zlib.crc32(report, zlib.crc32(sequence.to_bytes(8, "little")))
