"""Keys, neurons and places from the nodes of the chain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import MappingProxyType
from typing import Final, Self, TypeVar

import httpx

from nexus_auth.adapters.bounded_http import MAX_CONNECTIONS, BoundedTransport, trusted_servers
from nexus_auth.adapters.chain import storage
from nexus_auth.adapters.chain.endpoints import node_name
from nexus_auth.adapters.chain.http import connect_http
from nexus_auth.adapters.chain.neurons import NeuronReader
from nexus_auth.adapters.chain.rpc import (
    Call,
    Connect,
    NodeAnswerInvalid,
    NodeFailed,
    NodeUnreachable,
    Observe,
    build_call,
)
from nexus_auth.domain.errors import ConfigurationError, RegistryError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron, Place
from nexus_auth.domain.ports import Clock, KeyMap
from nexus_auth.domain.snapshot import Block

T = TypeVar("T")

MAX_ENTRIES: Final = 8192
"""Twice the 4,096 neurons that a subnet may grow to; subnets have 256 today."""

PAGE_KEYS: Final = 1000
"""Substrate gives no more at once. Public nodes limit how often they are
asked."""

BEHIND_SECONDS: Final = 120
"""Ours: a head that is older is not believed. Blocks come every 12 s and are final some three
blocks later; this is three times that, and may be the error of this machine's clock too."""

AHEAD_SECONDS: Final = 60
"""Ours: no head is further in the future. The chain itself allows 30 s."""

BELIEVED_SPAN: Final = timedelta(minutes=15)
"""Ours: how long after its own time a block still refuses others. A node that lied about its
height, or a chain that was reset, is over after that; nothing known is in use for longer without
news, unless a setting says so."""

NODE_SECONDS: Final = 20.0
"""How long all calls of one node may take for one fetch. Then the next node is asked."""

TOTAL_SECONDS: Final = 50.0
"""The same for all nodes; the registry gives up after 60 s."""

_ENTRIES_AT_ONCE: Final = 64
"""So many certificates are read before other tasks run: 0.5 ms."""

_INSTALL: Final = "pip install 'nexus-auth[chain]'"


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    connect: Connect
    neurons: NeuronReader


@dataclass(frozen=True, slots=True)
class _Head:
    """The finalised head of a node, before its time is known."""

    genesis: str
    hash: str
    number: int


class ChainSource:
    """A `KeySource`, a `NeuronSource` and a `PlaceSource` over the RPC of subtensor's nodes.

    Everything is read at one finalised block. Where a node fails, or says what cannot be, the next
    one is asked; the one that answered last is asked first. A node is trusted with what it says of
    keys: no proof of the chain is checked. It is not trusted with memory or time, nor to go back
    behind a block that was believed.

    Concurrent calls are fine. Its creator closes it.
    """

    name: Final = "chain"

    def __init__(
        self,
        *,
        endpoints: Sequence[str],
        netuid: int,
        clock: Clock,
        genesis: str | None = None,
        connect_timeout_seconds: float = 2.0,
        read_timeout_seconds: float = 10.0,
        observe: Observe | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepares a source; nothing is opened before the first request.

        Args:
            endpoints: The nodes, the preferred one first; see `parse_endpoints`.
            netuid: The subnet.
            clock: The wall clock.
            genesis: The hash of the chain's block 0; where it is None, the first node that
                answers says which chain is meant.
            connect_timeout_seconds: How long a connection may take to open.
            read_timeout_seconds: How long all of an answer may take.
            observe: Called with the status and the seconds of every request; the status is None
                where no whole answer came. Must not raise.
            transport: Replaces the network of nodes at `http(s)://` in tests.

        Raises:
            ConfigurationError: If a node is at `ws(s)://` and the package for that is missing.
        """
        self._netuid = netuid
        self._clock = clock
        self._genesis = genesis
        self._observe = observe
        self._best: Block | None = None
        self._preferred = 0
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)
        tls = trusted_servers(*endpoints)
        self._http = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            transport=transport or BoundedTransport(tls=tls),
        )
        over_http = partial(connect_http, self._http)
        is_websocket = [endpoint.startswith("ws") for endpoint in endpoints]
        over_websocket = partial(_websocket(), tls) if any(is_websocket) else over_http
        self._nodes = tuple(
            _Node(
                node_name(endpoint),
                (over_websocket if is_ws else over_http)(
                    endpoint,
                    connect_timeout_seconds=connect_timeout_seconds,
                    read_timeout_seconds=read_timeout_seconds,
                ),
                NeuronReader(netuid),
            )
            for endpoint, is_ws in zip(endpoints, is_websocket, strict=True)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def genesis(self) -> str | None:
        """The hash of block 0 of the chain that is meant; None before a node has said one."""
        return self._genesis

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def fetch_keys(self) -> KeyMap:
        """See `KeySource.fetch_keys`. All certificates of the subnet at one block."""
        return await self._ask(self._read_keys)

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """See `KeySource.fetch_key`. A certificate of another kind counts as none."""
        return await self._ask(partial(self._read_key, hotkey))

    async def fetch_neurons(
        self, *, at: Block | None = None
    ) -> tuple[Mapping[Hotkey, Neuron], int]:
        """See `NeuronSource.fetch_neurons`."""
        return await self._ask(partial(self._read_neurons, at))

    async def fetch_place(self, hotkey: Hotkey) -> Place | None:
        """See `PlaceSource.fetch_place`."""
        return await self._ask(partial(self._read_place, hotkey))

    async def _ask(self, read: Callable[[_Node, Call], Awaitable[T]]) -> T:
        """Reads from the first node that gives a usable answer."""
        failures: list[RegistryError] = []
        begin = self._preferred
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TOTAL_SECONDS
        for step in range(len(self._nodes)):
            number = (begin + step) % len(self._nodes)
            node = self._nodes[number]
            try:
                answer = await self._read(node, read, min(deadline, loop.time() + NODE_SECONDS))
            except RegistryError as exc:
                # Without its frames, which hold megabytes.
                failures.append(type(exc)(f"the node {node.name} {exc}"))
            except TimeoutError:
                failures.append(NodeUnreachable(f"the node {node.name} did not answer in time"))
            else:
                self._preferred = number
                return answer
            # Where time is up before all were asked, the next fetch begins with the others.
            self._preferred = (number + 1) % len(self._nodes)
            if loop.time() >= deadline:
                break
        text = "; ".join(str(failure) for failure in failures)
        raise type(failures[-1])(text)

    async def _read(
        self, node: _Node, read: Callable[[_Node, Call], Awaitable[T]], deadline: float
    ) -> T:
        async with (
            asyncio.timeout_at(deadline),
            self._connections,
            node.connect() as exchange,
        ):
            return await read(node, build_call(exchange, self._observe))

    async def _read_keys(self, _: _Node, call: Call) -> KeyMap:
        head = await self._read_head(call)
        block, values = await self._read_state(call, head, await self._read_names(call, head))
        found: dict[Hotkey, bytes] = {}
        rejected = 0
        for number, (name, value) in enumerate(values.items()):
            if number % _ENTRIES_AT_ONCE == 0:
                await asyncio.sleep(0)
            if value is None:
                raise NodeAnswerInvalid("named a certificate that it does not have")
            key = storage.parse_certificate(value)
            if key is None:
                rejected += 1
            else:
                found[storage.hotkey_of(name)] = key
        self._believe(head, block)
        return KeyMap(keys=MappingProxyType(found), rejected=rejected, block=block)

    async def _read_key(self, hotkey: Hotkey, _: _Node, call: Call) -> bytes | None:
        head = await self._read_head(call)
        name = storage.certificate_key(self._netuid, hotkey)
        block, values = await self._read_state(call, head, [name])
        self._believe(head, block)
        value = values[name]
        return None if value is None else storage.parse_certificate(value)

    async def _read_place(self, hotkey: Hotkey, _: _Node, call: Call) -> Place | None:
        head = await self._read_head(call)
        uid = storage.uid_key(self._netuid, hotkey)
        axon = storage.axon_key(self._netuid, hotkey)
        limit = storage.rate_limit_key(self._netuid)
        block, values = await self._read_state(call, head, [uid, axon, limit])
        place = storage.parse_place(values[axon], values[limit], height=head.number)
        self._believe(head, block)
        return None if values[uid] is None else place

    async def _read_neurons(
        self, at: Block | None, node: _Node, call: Call
    ) -> tuple[Mapping[Hotkey, Neuron], int]:
        if at is not None:
            # Its hash says which block of which chain is meant; it was believed with its keys.
            return await node.neurons.fetch(call, at=at.hash)
        head = await self._read_head(call)
        block, _ = await self._read_state(call, head, [])
        neurons = await node.neurons.fetch(call, at=head.hash)
        self._believe(head, block)
        return neurons

    async def _read_head(self, call: Call) -> _Head:
        """Finds out which block a node has as its finalised head, and refuses one of the past."""
        genesis = storage.parse_hash(await call("chain_getBlockHash", [0]))
        if self._genesis not in {None, genesis}:
            raise NodeFailed(f"is on another chain: its block 0 is {genesis}")
        said = storage.parse_hash(await call("chain_getFinalizedHead", []))
        head = _Head(genesis, said, storage.parse_height(await call("chain_getHeader", [said])))
        self._check_order(head)
        return head

    def _check_order(self, head: _Head) -> None:
        """A node that is behind, or on a fork, must not bring an old key back."""
        best = self._standing_best()
        if best is None:
            return
        if head.number < best.number:
            raise NodeFailed(f"is behind: at block {head.number}, and {best.number} is known")
        if head.number == best.number and head.hash != best.hash:
            raise NodeFailed(f"is on a fork: its block {head.number} is not the known one")

    def _check_time(self, head: _Head, now: bytes | None) -> Block:
        """Holds the time of a block against the wall clock."""
        if now is None:
            milliseconds = int(self._first_seen(head).timestamp() * 1000)
        else:
            milliseconds = storage.parse_milliseconds(now)
        seconds = self._clock().timestamp() - milliseconds / 1000
        if seconds > BEHIND_SECONDS:
            age = f"{seconds:.0f} s old" if seconds < 10**9 else "from another time"
            raise NodeFailed(
                f"is behind: its head, block {head.number}, is {age}; or this machine's clock is "
                "wrong"
            )
        if seconds < -AHEAD_SECONDS:
            raise NodeFailed(
                f"is ahead of the time: its head, block {head.number}, is of the future; or this "
                "machine's clock is wrong"
            )
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
        return Block(number=head.number, hash=head.hash, time=time)

    def _first_seen(self, head: _Head) -> datetime:
        """Stands for the time of a block where a private chain keeps none: it grows old too."""
        best = self._best
        return self._clock() if best is None or best.hash != head.hash else best.time

    def _believe(self, head: _Head, block: Block) -> None:
        """Takes note of a block all of whose answers were usable."""
        if self._genesis not in {None, head.genesis}:  # named by another fetch meanwhile
            raise NodeFailed(f"is on another chain: its block 0 is {head.genesis}")
        self._genesis = head.genesis
        best = self._standing_best()
        if best is None or block.number > best.number:
            self._best = block

    def _standing_best(self) -> Block | None:
        """The highest block that was believed, while it still counts."""
        best = self._best
        return best if best is not None and self._clock() - best.time < BELIEVED_SPAN else None

    async def _read_names(self, call: Call, head: _Head) -> list[bytes]:
        """Where the certificates of the subnet are, page by page."""
        prefix = storage.certificates_prefix(self._netuid)
        keys: list[bytes] = []
        while True:
            start = storage.to_hex(keys[-1]) if keys else None
            params = [storage.to_hex(prefix), PAGE_KEYS, start, head.hash]
            page = storage.parse_page(
                await call("state_getKeysPaged", params),
                netuid=self._netuid,
                after=keys[-1] if keys else prefix,
                limit=PAGE_KEYS,
            )
            keys += page
            if len(keys) > MAX_ENTRIES:
                raise NodeAnswerInvalid(f"names more than {MAX_ENTRIES} certificates")
            if len(page) < PAGE_KEYS:
                return keys
            await asyncio.sleep(0)

    async def _read_state(
        self, call: Call, head: _Head, keys: Sequence[bytes]
    ) -> tuple[Block, Mapping[bytes, bytes | None]]:
        """What is stored under keys at the head, and when that was."""
        asked = [storage.NOW_KEY, *keys]
        values: dict[bytes, bytes | None] = {}
        for begin in range(0, len(asked), PAGE_KEYS):
            page = asked[begin : begin + PAGE_KEYS]
            params = [[storage.to_hex(key) for key in page], head.hash]
            answer = await call("state_queryStorageAt", params)
            values |= storage.parse_values(answer, keys=page, block_hash=head.hash)
        return self._check_time(head, values.pop(storage.NOW_KEY)), values


def _websocket() -> Callable[..., Connect]:
    try:
        from nexus_auth.adapters.chain.websocket import connect_websocket  # noqa: PLC0415 - an extra.
    except ImportError:
        raise ConfigurationError(
            setting="NEXUS_CHAIN_ENDPOINT",
            problem=f"ws:// and wss:// need the package websockets: {_INSTALL}",
        ) from None
    return connect_websocket
