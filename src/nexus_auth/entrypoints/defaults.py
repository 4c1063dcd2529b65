"""Values that the service and `connect` both start from. Light: the settings read this."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from nexus_auth.domain.evaluate import DEFAULT_LEEWAY

MAX_AGE: Final = timedelta(minutes=15)
"""How long keys may be used without news from the source."""

REFRESH_EVERY: Final = timedelta(seconds=30)
"""How often all keys are fetched again."""

LEEWAY: Final = DEFAULT_LEEWAY
"""How far the clocks of a certificate's issuer and of the verifier may differ."""
