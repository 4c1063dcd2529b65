"""How many connections may be open at once: as many as the system lets this process have."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

ENOUGH: Final = 65_536
"""More than any proxy opens; where the system knows no bound, this is one."""


def allow_many() -> None:
    """Raises the soft limit of open files to the hard one; keeps it where that cannot be.

    The soft limit is 1024 nearly everywhere, for the sake of programs that call `select`, and each
    connection takes one. Programs in Go, the original among them, raise it by themselves.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # some systems have a lower limit of their own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
