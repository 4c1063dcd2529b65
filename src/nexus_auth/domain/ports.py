"""What the domain needs from outside, as Protocols.

Each docstring is the contract; one contract test suite per port runs against every adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from nexus_auth.domain.ed25519 import is_usable_public_key

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron

Clock = Callable[[], datetime]
"""Tells the time: aware, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a registry knows of one hotkey.

    Attributes:
        public_key: The raw Ed25519 public key, 32 bytes.
        expires_at: Until when all of this may be used without news (aware, UTC).
        neuron: What the chain says of the hotkey on the subnet; None when it has no place there,
            or when nobody asked for neurons to be fetched.
    """

    public_key: bytes
    expires_at: datetime
    neuron: Neuron | None = None

    def __post_init__(self) -> None:
        if not is_usable_public_key(self.public_key):
            raise ValueError("a registered key is 32 bytes and not of small order")


class KeyRegistry(Protocol):
    """Knows which key belongs to which registered hotkey.

    Concurrent calls are fine. Whoever creates a registry closes it.
    """

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """Says what is known of a hotkey right now, without waiting and without asking anybody.

        Returns:
            A registration that may be used now (`expires_at` not passed), or None when there is
            none at hand; that is no statement about whether the hotkey is registered.
        """

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        """Says which key is registered for a hotkey, asking others where that is worth it.

        Called when `peek` gave nothing, or a key other than the one the caller presented.
        May wait, for at most a few seconds, and limits by itself how often it asks.

        Args:
            hotkey: Whose key.
            presented: The raw public key that the caller showed: a key known to be another one
                may be out of date.

        Returns:
            The registration (the key may still differ from `presented`), or None when the hotkey
            is not registered.

        Raises:
            RegistryError: When that is not known now: `RegistryUnavailable` or
                `RegistryAnswerInvalid`. Nothing else is raised.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKeyPair:
    """A key pair whose public half was just published on chain.

    Attributes:
        public_key: The raw Ed25519 public key, 32 bytes.
        private_key: The 32-byte seed. Proven to belong to `public_key` by whoever builds this.
    """

    public_key: bytes
    private_key: bytes = field(repr=False)


class CertIssuer(Protocol):
    """Has a new key pair made and published for the hotkey that it stands for."""

    async def generate(self, *, algorithm: int) -> IssuedKeyPair:
        """Replaces the key on chain by a new one and returns the pair.

        Not idempotent: each successful call makes the previous key worthless.

        Args:
            algorithm: 1 is Ed25519, the only one known.

        Raises:
            IssuingError: `IssuerUnavailable` when nobody could be asked or could answer (the key
                on chain may have changed all the same), `IssuingRefused` when the answer was no
                or nonsense (`key_may_have_changed` tells them apart).
        """

    async def published_key(self, hotkey: Hotkey) -> bytes | None:
        """Reads back which key the chain has for a hotkey, or None.

        Raises:
            IssuingError: As above.
        """
