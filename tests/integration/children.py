"""Which processes a process has started, whether they are still there, and what they hold."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """The process ids of the children of a process, and of theirs."""
    parents = {child: parent for child, (parent, _) in _processes().items()}
    found: set[int] = set()
    while True:
        more = {child for child, parent in parents.items() if parent in found | {pid}} - found
        if not more:
            return found
        found |= more


def running(pids: set[int]) -> set[int]:
    """Those of some processes that have not ended."""
    processes = _processes()
    return {pid for pid in pids if pid in processes and processes[pid][1] not in {"Z", "X"}}


def command_line(pid: int) -> str:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def resident_bytes(pid: int) -> int:
    """The memory that a process holds; 0 when it is gone."""
    with contextlib.suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and state of every process, by process id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold spaces and parentheses of its own.
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(path.parent.name)] = (int(parent), state)
    return found
