"""What can keep the demo from going on."""

from __future__ import annotations

from nexus_auth.domain.errors import NexusAuthError


class DemoFailed(NexusAuthError):
    """A part of the demo is missing, did not start, or ended before its time."""
