"""Where a snapshot is kept beyond one process, as a Protocol."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from nexus_auth.domain.errors import NexusAuthError

if TYPE_CHECKING:
    from datetime import datetime

MAX_RECORD_BYTES: Final = 4 * 1024 * 1024
"""A full subnet takes 40 KB, with neurons 80 KB. More is not read, whoever put it there."""


LONGEST_TURN: Final = timedelta(seconds=60)
"""A turn that claims to last longer is no turn of ours."""


class StoreUnavailable(NexusAuthError):
    """The store could not be read or written. The text never holds a password."""


class RecordRejected(NexusAuthError):
    """A record is damaged, foreign, or not to be believed. The next one takes its place."""


class SnapshotStore(Protocol):
    """Keeps one record for the processes that share it, and gives them turns.

    A record is bytes here; what it means, and whether it is believed, is `record`'s business.
    Concurrent calls are fine. Every method ends within a second or so, and raises
    `StoreUnavailable` and nothing else, but for `load`. A call that is cancelled ends as cancelled.
    """

    async def version(self) -> str | None:
        """Names the record that is kept now, cheaply; None when there is none."""

    async def load(self) -> bytes | None:
        """Reads the record; None when there is none.

        Raises:
            RecordRejected: If it is too large, or not in a state to be read.
            StoreUnavailable: If the store is away.
        """

    async def save(self, record: bytes, *, said_at: datetime, keep_for: timedelta) -> str | None:
        """Replaces the record in one step, for others to see all of it or nothing.

        Args:
            record: What to keep.
            said_at: When the source said it; a record said later may be left in place.
            keep_for: After how long nobody can use it any more.

        Returns:
            The version that it has now; None when another record was left in place.
        """

    async def claim(self, holder: str, span: timedelta) -> bool:
        """Takes the turn to ask the source, or keeps it, for a span from now.

        Returns:
            Whether the turn is the holder's now. It is not while another holds it; a turn that is
            not claimed again ends by itself, so nobody can take it into his grave.
        """

    async def turn_left(self) -> timedelta | None:
        """Says for how long the turn is somebody's from now, if it is not claimed again.

        None when it is nobody's.
        """

    async def aclose(self) -> None:
        """Lets go of connections."""
