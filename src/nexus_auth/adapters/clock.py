"""The system's clock."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time by the system's clock (aware, UTC)."""
    return datetime.now(UTC)
