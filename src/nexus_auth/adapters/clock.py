"""The system's clock."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nexus_auth.domain.ports import Clock

utc_now: Final[Clock] = partial(datetime.now, UTC)
"""The time by the system's clock (aware, UTC). No function of ours: it is called several times for
each request."""
