"""What the domain needs from outside, as Protocols: every port stands here.

Each docstring is the contract; one contract test suite per port runs against every adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from nexus_auth.domain.ed25519 import is_usable_public_key

if TYPE_CHECKING:
    from datetime import timedelta

    from nexus_auth.domain.decision import Decision
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron, Place
    from nexus_auth.domain.snapshot import Block, StoredSnapshot, SubnetSnapshot

Clock = Callable[[], datetime]
"""The wall clock: gives the time, aware, UTC."""

MonotonicClock = Callable[[], float]
"""Gives seconds since some moment in the past; never goes back, never jumps."""

Headers = Sequence[tuple[bytes, bytes]]
"""The headers of a request, names and values as they were written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a registry knows of one hotkey.

    Attributes:
        public_key: The raw Ed25519 public key, 32 bytes.
        expires_at: Until when all of this may be used without news (aware, UTC).
        neuron: What the chain says of the hotkey on the subnet; None when it has no place there,
            or when neurons are not fetched.
    """

    public_key: bytes
    expires_at: datetime
    neuron: Neuron | None = None

    def __post_init__(self) -> None:
        if not is_usable_public_key(self.public_key):
            raise ValueError("a registered key is 32 bytes, canonical, not of small order")


class KeyRegistry(Protocol):
    """Knows which key belongs to which registered hotkey.

    Concurrent calls are fine. The creator of a registry closes it.
    """

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """Says what is known of a hotkey right now, without waiting and without a fetch.

        Returns:
            A registration that may be used now (`expires_at` not passed), or None when there is
            none at hand; that is no statement about whether the hotkey is registered.
        """

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        """Says which key is registered for a hotkey, fetching it where that is worth it.

        Called when `peek` gave nothing, or a key other than the one the caller presented.
        May wait, for at most a few seconds, and limits by itself how often it fetches.

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
class KeyMap:
    """All the keys of a subnet, as a source gave them in one answer.

    Attributes:
        keys: The good entries: raw Ed25519 public keys.
        rejected: How many entries were unusable and left out.
        block: The block that says so; None where the source names none.
    """

    keys: Mapping[Hotkey, bytes]
    rejected: int
    block: Block | None = None


class KeySource(Protocol):
    """Fetches which keys are registered. Concurrent calls are fine; its creator closes it.

    Both methods end by themselves, in time and in memory, whatever the other side does.
    """

    @property
    def name(self) -> str:
        """What the source is called in the log, such as `pylon`."""

    async def fetch_keys(self) -> KeyMap:
        """Fetches all the keys of the subnet, in one request.

        Raises:
            BulkNotOffered: If the source cannot give all keys at once.
            RegistryError: If no usable answer came. Nothing else is raised.
        """

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """Fetches one hotkey's key; None when there is none.

        Raises:
            RegistryError: If no usable answer came. Nothing else is raised.
        """


class NeuronSource(Protocol):
    """Fetches the neurons of the subnet. Concurrent calls are fine; its creator closes it."""

    async def fetch_neurons(
        self, *, at: Block | None = None
    ) -> tuple[Mapping[Hotkey, Neuron], int]:
        """Fetches all of them; ends by itself, in time and in memory.

        Args:
            at: The block that the keys came from, so that both belong together; None for the
                latest. A source that names no blocks passes it over.

        Returns:
            The good entries, and how many were unusable and left out.

        Raises:
            RegistryError: If no usable answer came. Nothing else is raised.
        """


class PlaceSource(Protocol):
    """Fetches a hotkey's place on the subnet. Concurrent calls are fine; its creator closes it."""

    async def fetch_place(self, hotkey: Hotkey) -> Place | None:
        """Fetches it; None where the hotkey has no place on the subnet.

        Raises:
            RegistryError: If no usable answer came. Nothing else is raised.
        """


class SnapshotStore(Protocol):
    """Keeps one record for the processes that share it, and the lease to fetch for all of them.

    A record is bytes here; a `SnapshotCodec` says what it means, and whether it is believed.
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
        """Replaces the record in one step: readers see all of it or nothing.

        Args:
            record: What to keep.
            said_at: When the source said it; a record said later may be left in place.
            keep_for: After how long it cannot be used any more.

        Returns:
            The version that it has now; None when another record was left in place.
        """

    async def acquire_lease(self, holder: str, span: timedelta) -> bool:
        """Acquires or renews the lease to fetch, for a span from now.

        Returns:
            Whether the lease is the holder's now. It is not while another holds it. An unrenewed
            lease expires, so a dead holder blocks no other process.
        """

    async def lease_remaining(self) -> timedelta | None:
        """How long the lease is held from now on, if it is not renewed; None when it is free."""

    async def aclose(self) -> None:
        """Closes connections."""


class SnapshotCodec(Protocol):
    """Writes snapshots as records for a store, and reads them back."""

    def build(self, snapshot: SubnetSnapshot, *, fetched_at: float) -> bytes:
        """Makes the record of a snapshot whose fetch began at a moment of the monotonic clock."""

    def parse(self, record: bytes) -> StoredSnapshot:
        """Reads a record as input from outside.

        Raises:
            RecordRejected: If it is not to be believed. Nothing else is raised.
        """


class DecisionObserver(Protocol):
    """Is called with every decision: counters, log, traces. Must return at once."""

    def decided(
        self, decision: Decision, *, seconds: float, method: bytes, target: bytes, headers: Headers
    ) -> None:
        """Takes note of a decision.

        Args:
            decision: What was decided.
            seconds: How long it took.
            method: The request's own method, as it was written.
            target: The request's own target, as it was written.
            headers: The request's headers, in any case. All three come from outside.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKeyPair:
    """A key pair whose public half was just published on chain.

    Attributes:
        public_key: The raw Ed25519 public key, 32 bytes.
        private_key: The 32-byte seed. Its creator has proven that it belongs to `public_key`.
    """

    public_key: bytes
    private_key: bytes = field(repr=False)


class CertIssuer(Protocol):
    """Has a new key pair made and published for the hotkey that it stands for."""

    @property
    def keeps_pairs(self) -> bool:
        """Whether a pair outlives a `generate` that is interrupted.

        If so, the private key is on disk before its public half leaves this machine, and the next
        call goes on with the same pair, until that is in its place. Otherwise the answer of
        `generate` is the only copy of the private key.
        """

    async def generate(self, *, algorithm: int) -> IssuedKeyPair:
        """Replaces the key on chain by a new one and returns the pair.

        Not idempotent: each successful call makes the previous key worthless.

        Args:
            algorithm: 1 is Ed25519, the only one known.

        Raises:
            IssuingError: `IssuerUnavailable` when the issuer could not be reached or could not
                answer (the key on chain may have changed all the same), `IssuingRefused` when the
                answer was no, or no key pair (`key_may_have_changed` says which).
        """

    async def published_key(self, hotkey: Hotkey) -> bytes | None:
        """Reads back which key the chain has for a hotkey, or None.

        Raises:
            IssuingError: As above.
        """
