"""Makes key pairs on this machine, and has the owner's own tool publish their public halves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv6Address, ip_address
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.domain.errors import IssuerUnavailable, IssuingError, IssuingRefused, RegistryError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import Credentials, build_credentials, parse_private_key
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import Clock, IssuedKeyPair, KeySource, PlaceSource
from nexus_auth.domain.prospect import BLOCK

T = TypeVar("T")

POLL_SECONDS: Final = 3.0
"""A block of the chain takes twelve seconds; more often would be a load on a public node."""

_ED25519: Final = 1
_NO_AXON: Final = ("0.0.0.0", 1)  # noqa: S104 - nothing listens there, and nothing is to
"""The chain takes no certificate for port 0, but one for no address at all; `btcli axon reset`
serves the same."""
_CARRIER_VALIDITY: Final = timedelta(days=3650)
"""Of the certificate in the file of the pending key, which is never in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What the owner's tool is to publish: `serve_axon_tls` of subtensor's pallet `serving`.

    Attributes:
        hotkey: Signs it.
        netuid: The subnet; None where the source knows one subnet only, and not its number.
        ip: The address of the neuron's axon, to be kept as it is on chain.
        port: Its port, likewise.
        serves_axon: Whether there is an axon on chain; without one, they lead nowhere.
        public_key: The raw Ed25519 public key, 32 bytes.
        blocks_to_wait: For how many blocks the chain refuses it; None where that is not known.
    """

    hotkey: Hotkey
    netuid: int | None
    ip: str
    port: int
    serves_axon: bool
    public_key: bytes
    blocks_to_wait: int | None

    @property
    def certificate(self) -> str:
        """The certificate as the chain takes it, in hexadecimal: the algorithm, then the key."""
        return f"0x{_ED25519:02x}{self.public_key.hex()}"

    @property
    def minutes_to_wait(self) -> int:
        """How long the chain refuses it, rounded up; 0 where it does not, or that is not known."""
        return -(-(self.blocks_to_wait or 0) * BLOCK // timedelta(minutes=1))


class LocalIssuer:
    """A `CertIssuer` whose private keys never leave this machine.

    A key pair is on disk before its public half is shown to anything, and stays there until the
    chain has it and the pair is in its place. So an interrupted `generate` is taken up again by the
    next call.
    """

    keeps_pairs: Final = True

    def __init__(
        self,
        *,
        hotkey: Hotkey,
        netuid: int | None,
        directory: CredentialsDirectory,
        keys: KeySource,
        places: PlaceSource,
        publish: Callable[[Publication], Awaitable[None]],
        waiting: Callable[[str], AbstractAsyncContextManager[None]],
        clock: Clock,
        wait_seconds: float,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Prepares an issuer; nothing is read or written yet.

        Args:
            hotkey: For which pairs are made.
            netuid: The subnet; see `Publication`.
            directory: Keeps the pending key. The caller has opened it for writing.
            keys: Says which key the chain has.
            places: Says which axon is to be kept.
            publish: Has the owner's tool publish a key, or asks the owner to. It may raise
                `IssuingError`.
            waiting: Shows that something is being waited for.
            clock: The wall clock.
            wait_seconds: How long to wait until the chain has the key; 0 looks once.
            poll_seconds: The pause between two lookups.
        """
        self._hotkey = hotkey
        self._netuid = netuid
        self._directory = directory
        self._keys = keys
        self._places = places
        self._publish = publish
        self._waiting = waiting
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._poll_seconds = poll_seconds

    async def generate(self, *, algorithm: int) -> IssuedKeyPair:
        """See `CertIssuer.generate`. Goes on with the pending key where there is one.

        Raises:
            CredentialsUnusable: If the pending key cannot be read or written.
        """
        if algorithm != _ED25519:
            raise IssuingRefused("only algorithm 1 (Ed25519) is known here")
        pending = self._directory.load_pending()
        if pending is not None and pending.certificate.hotkey != self._hotkey:
            raise IssuingRefused(
                f"{str(self._directory.pending_key_path)!r} was made for "
                f"{pending.certificate.hotkey}; move it away first"
            )
        if pending is None or not await self._is_published(pending):
            # What keeps the chain from taking a key is found out before there is one.
            place = await _issuing(self._places.fetch_place(self._hotkey))
            if place is None:
                raise IssuingRefused(
                    f"{self._hotkey} has no place on the subnet, so that the chain takes no key "
                    "of it: register it first"
                )
            pending = pending or self._make()
            await self._publish(self._publication(place, pending))
            await self._wait_until_published(pending)
        return IssuedKeyPair(
            public_key=pending.certificate.public_key,
            private_key=parse_private_key(pending.key_pem).private_bytes_raw(),
        )

    async def published_key(self, hotkey: Hotkey) -> bytes | None:
        """See `CertIssuer.published_key`."""
        return await _issuing(self._keys.fetch_key(hotkey))

    def _make(self) -> Credentials:
        pending = build_credentials(
            hotkey=self._hotkey,
            private_key=Ed25519PrivateKey.generate().private_bytes_raw(),
            now=self._clock(),
            valid_for=_CARRIER_VALIDITY,
        )
        self._directory.save_pending(pending)
        return pending

    def _publication(self, place: Place, pending: Credentials) -> Publication:
        ip, port = (place.ip, place.port) if place.port else _NO_AXON
        try:
            address = ip_address(ip)
        except ValueError:
            raise IssuingRefused("the source says no address of the neuron's axon") from None
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            # A zone is free text, and means nothing on chain.
            raise IssuingRefused("the address of the neuron's axon has a zone")
        return Publication(
            hotkey=self._hotkey,
            netuid=self._netuid,
            ip=str(address),
            port=port,
            serves_axon=place.port != 0,
            public_key=pending.certificate.public_key,
            blocks_to_wait=place.blocks_to_wait,
        )

    async def _is_published(self, pending: Credentials) -> bool:
        return await self.published_key(self._hotkey) == pending.certificate.public_key

    async def _wait_until_published(self, pending: Credentials) -> None:
        deadline = time.monotonic() + self._wait_seconds
        text = f"Waiting until the chain has the key for {self._hotkey}; Ctrl-C loses nothing"
        async with self._waiting(text):
            while True:
                error: IssuingError = IssuingRefused(
                    f"the chain does not have the key for {self._hotkey} so far"
                )
                try:
                    if await self._is_published(pending):
                        return
                except IssuerUnavailable as exc:
                    error = exc  # Nothing depends on this lookup; the next may succeed.
                if time.monotonic() + self._poll_seconds > deadline:
                    raise error
                await asyncio.sleep(self._poll_seconds)


async def _issuing(request: Awaitable[T]) -> T:
    """Raises the errors of a source as errors of the issuing port."""
    try:
        return await request
    except RegistryError as exc:
        problem, is_refusal = str(exc), exc.cause == "refused"
    if is_refusal:
        raise IssuingRefused(problem)
    raise IssuerUnavailable(problem, key_may_have_changed=False)
