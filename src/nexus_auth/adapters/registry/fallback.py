"""Looks up each hotkey while the source cannot give all keys at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from nexus_auth.adapters.registry.lookup import LookupRegistry

_log = structlog.get_logger(__name__)


class LookupFallback:
    """Holds the registry that stands in for a snapshot, while there is one.

    Args:
        build: Makes the registry, which this closes.
        needs_neurons: Whether a policy needs neurons now. They come with all keys at once, so
            that a lookup of each hotkey is of no use then.
        is_active: Whether it stands in from the beginning.
    """

    def __init__(
        self,
        build: Callable[[], LookupRegistry],
        *,
        needs_neurons: Callable[[], bool],
        is_active: bool,
    ) -> None:
        self._build = build
        self._needs_neurons = needs_neurons
        self._registry = build() if is_active else None

    @property
    def registry(self) -> LookupRegistry | None:
        """The registry to use where there is no snapshot; None where it is of no use."""
        return None if self._registry is None or self._needs_neurons() else self._registry

    def begin(self) -> None:
        """Stands in from now on."""
        if self._registry is None:
            _log.warning("bulk_not_offered", instead="asking for each hotkey")
            self._registry = self._build()

    def end(self) -> None:
        """Ends it: there is a snapshot. Does not wait until fetches in flight have ended."""
        registry, self._registry = self._registry, None
        if registry is not None:
            _log.info("bulk_offered_again")
            registry.close()

    async def aclose(self) -> None:
        """Ends the fetches in flight. What is known stays usable."""
        if self._registry is not None:
            await self._registry.aclose()
