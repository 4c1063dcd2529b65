"""What can go wrong with a key pair on disk.

CredentialsError
├── CredentialsUnusable   a file or directory cannot be read or written as it should
└── CredentialsNotPlaced  a new pair is safe in a journal, but not yet in its two files
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus_auth.domain.errors import CredentialsError

if TYPE_CHECKING:
    from pathlib import Path


class CredentialsUnusable(CredentialsError):
    """A file or directory cannot be used.

    Attributes:
        path: Which.
        problem: Why, and what to do; nothing of its content.
    """

    def __init__(self, *, path: Path, problem: str) -> None:
        super().__init__(f"{str(path)!r}: {problem}")
        self.path = path
        self.problem = problem


class CredentialsNotPlaced(CredentialsError):
    """A new pair is on disk, but its two files could not be replaced.

    Attributes:
        path: The journal that holds both halves.
        problem: Why it stayed there.
    """

    def __init__(self, *, path: Path, problem: str) -> None:
        super().__init__(
            f"the new pair could not be put in its place ({problem}); it is safe in "
            f"{str(path)!r}, and the next run finishes the work"
        )
        self.path = path
        self.problem = problem
