"""Finds the keys that servers must hold, in any registry."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nexus_auth.adapters.tls.context import PinnedContext
from nexus_auth.domain.errors import HotkeyNotRegistered, NexusAuthError

if TYPE_CHECKING:
    from nexus_auth.adapters.tls.pair import ClientPair
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.ports import Clock, KeyRegistry, Registration

_NOTHING_PRESENTED = b""
"""For `lookup`: no key equals it, so that what is known never ends the wait for news."""


class ServerKeys:
    """What is registered for the hotkeys that are called, and the pair that they are shown."""

    def __init__(self, *, registry: KeyRegistry, pair: ClientPair | None, clock: Clock) -> None:
        self.pair, self.clock = pair, clock
        self._registry = registry

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """What is known now, without waiting."""
        return self._registry.peek(hotkey)

    async def find(self, hotkey: Hotkey) -> Registration:
        """What is registered for a hotkey; waits only where nothing is known.

        Raises:
            HotkeyNotRegistered: When no key is.
            RegistryError: When that is not known now.
        """
        known = self._registry.peek(hotkey)
        return await self._lookup(hotkey) if known is None else known

    async def find_other(self, hotkey: Hotkey, known: Registration) -> bool:
        """Whether another key than the known one is found, where a server does not hold that.

        The registry limits by itself how often it fetches.
        """
        try:
            found = await self._lookup(hotkey)
        except NexusAuthError:
            return False
        return found.public_key != known.public_key

    async def _lookup(self, hotkey: Hotkey) -> Registration:
        known = await self._registry.lookup(hotkey, presented=_NOTHING_PRESENTED)
        if known is None:
            raise HotkeyNotRegistered(hotkey.address)
        return known

    def stamp(self) -> object:
        """A value that is another one when the pair has changed."""
        return None if self.pair is None else self.pair.stamp()

    async def context(self, hotkey: Hotkey) -> PinnedContext:
        """Makes a context that may live long: each handshake uses what is registered then.

        Raises:
            HotkeyNotRegistered: When no key is.
            RegistryError: When that is not known now.
            CredentialsError: If the caller's own pair cannot be used.
        """
        found = await self.find(hotkey)
        # A registry that has keys at hand has the last word. Another one is not asked again, so
        # that its answer counts for as long as it said.
        fallback = found if self._registry.peek(hotkey) is None else None
        # Reads files.
        return await asyncio.to_thread(
            PinnedContext,
            hotkey=hotkey,
            expected=lambda: self._registry.peek(hotkey) or fallback,
            pair=self.pair,
            clock=self.clock,
        )
