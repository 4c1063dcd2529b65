"""Keys and places from real nodes, over both of their transports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from nexus_auth.adapters.chain.endpoints import node_name
from nexus_auth.adapters.chain.rpc import NodeFailed, NodeUnreachable
from nexus_auth.adapters.chain.source import BEHIND_SECONDS, ChainSource
from nexus_auth.domain.errors import RegistryError
from nexus_auth.domain.neuron import Place
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.authority import PrivateAuthority
from tests.integration.chain.node import NETUID, Chain, RunningNode, running_node, running_nodes

ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
CAROL: Final = a_hotkey("carol")
KEY: Final = public_bytes(a_key("alice"))
OTHER_KEY: Final = public_bytes(a_key("bob"))

Address = Callable[[RunningNode], str]


def over_http(node: RunningNode) -> str:
    """A node's address for HTTP."""
    return node.url


def over_websocket(node: RunningNode) -> str:
    """A node's address for WebSocket."""
    return node.ws_url


BOTH: Final = pytest.mark.parametrize("address", [over_http, over_websocket])


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def a_source(*endpoints: str, genesis: str | None = None) -> ChainSource:
    """With the time limits that it has by default."""
    return ChainSource(endpoints=endpoints, netuid=NETUID, clock=now, genesis=genesis)


def fill(chain: Chain) -> None:
    """A key and an axon in the next block."""
    for hotkey in (ALICE, BOB):
        chain.register(hotkey, validator_permit=True)
    chain.publish(ALICE, KEY)
    chain.serve_axon(BOB, ip="192.0.2.9", port=8091)
    chain.advance()


@pytest.fixture
def nodes() -> Iterator[list[RunningNode]]:
    """Two nodes of one chain."""
    with running_nodes(2) as both:
        fill(both[0].chain)
        yield both


@BOTH
async def test_everything_is_read_from_a_node(nodes: list[RunningNode], address: Address) -> None:
    """Keys, one key, places and neurons, by the transport that the address names."""
    node, _ = nodes
    seen: list[int | None] = []
    async with ChainSource(
        endpoints=[address(node)],
        netuid=NETUID,
        clock=now,
        observe=lambda status, _: seen.append(status),
    ) as source:
        found = await source.fetch_keys()
        assert dict(found.keys) == {ALICE: KEY}
        assert found.block is not None
        assert (found.block.number, found.block.hash) == (node.head.number, node.head.hash)
        assert await source.fetch_key(ALICE) == KEY
        assert await source.fetch_key(BOB) is None
        bobs = await source.fetch_place(BOB)
        assert bobs == Place(ip="192.0.2.9", port=8091, blocks_to_wait=50)
        assert await source.fetch_place(CAROL) is None
        neurons, rejected = await source.fetch_neurons(at=found.block)
        assert (set(neurons), rejected) == ({ALICE, BOB}, 0)
    transport = "http" if address is over_http else "ws"
    assert {request.transport for request in node.requests} == {transport}
    assert seen == [200] * len(node.requests)


@BOTH
async def test_as_many_keys_as_a_subnet_may_have_are_read(address: Address) -> None:
    """In pages of what a node gives at once."""
    with running_node() as node:
        for number in range(4096):
            node.chain.publish(a_hotkey(f"number {number}"), KEY)
        node.advance()
        async with a_source(address(node)) as source:
            assert len((await source.fetch_keys()).keys) == 4096
        assert node.methods().count("state_getKeysPaged") == 5


@BOTH
async def test_node_that_goes_away_is_replaced_by_the_next(
    nodes: list[RunningNode], address: Address
) -> None:
    """And stays replaced until the next one fails in its turn."""
    one, other = nodes
    async with a_source(address(one), address(other)) as source:
        assert await source.fetch_key(ALICE) == KEY
        assert not other.requests
        one.stop()
        assert await source.fetch_key(ALICE) == KEY
        one.start()
        one.requests.clear()
        assert await source.fetch_key(ALICE) == KEY
        assert not one.requests
        other.stop()
        assert await source.fetch_key(ALICE) == KEY
        one.stop()
        with pytest.raises(NodeUnreachable) as raised:
            await source.fetch_keys()
        assert node_name(address(one)) in str(raised.value)
        assert node_name(address(other)) in str(raised.value)


async def test_transports_can_be_mixed(nodes: list[RunningNode]) -> None:
    """One node by HTTP, the next one by WebSocket."""
    one, other = nodes
    async with a_source(one.url, other.ws_url) as source:
        one.stop()
        assert await source.fetch_key(ALICE) == KEY


def is_behind(node: RunningNode) -> None:
    """Stays where it is while the chain has gone on, for longer than is believed."""
    node.chain = node.chain.fork(0)
    node.advance(at=now() - timedelta(seconds=BEHIND_SECONDS + 30))


def is_on_another_chain(node: RunningNode) -> None:
    """Serves a chain of another name."""
    node.chain = Chain(name="Other")
    node.advance()


FAULTS: Final[dict[str, tuple[Callable[[RunningNode], object], str]]] = {
    "refusing": (lambda node: node.fail_with(503), "answered with the status"),
    "pruned": (lambda node: setattr(node, "keeps", 0), "pruned"),
    "behind": (is_behind, "is behind: its head, block 1"),
    "another chain": (is_on_another_chain, "is on another chain"),
    "no JSON": (lambda node: node.answer_with("chain_getHeader", b"<html>"), "than JSON-RPC"),
    "too large": (
        lambda node: node.answer_with("state_queryStorageAt", b" " * 700_000),
        "longer than",
    ),
    "null": (lambda node: node.lie("state_getKeysPaged", lambda *_: None), "no page of keys"),
}


@BOTH
@pytest.mark.parametrize(("fault", "text"), FAULTS.values(), ids=FAULTS)
async def test_faulty_node_is_passed_over(
    nodes: list[RunningNode],
    address: Address,
    fault: Callable[[RunningNode], object],
    text: str,
) -> None:
    """By either transport: alone it is an error that names it, beside another it is none."""
    faulty, honest = nodes
    genesis = honest.chain.genesis
    fault(faulty)
    async with a_source(address(faulty), genesis=genesis) as source:
        with pytest.raises(RegistryError, match=text) as raised:
            await source.fetch_keys()
        assert str(raised.value).startswith(f"the node {node_name(address(faulty))} ")
    async with a_source(address(faulty), address(honest), genesis=genesis) as source:
        assert (await source.fetch_keys()).keys == {ALICE: KEY}


@BOTH
async def test_old_key_never_comes_back(nodes: list[RunningNode], address: Address) -> None:
    """Neither by a node that is behind, nor by one on a fork."""
    one, other = nodes
    fork = one.chain.fork(one.head.number)
    other.stick()
    one.chain.publish(ALICE, OTHER_KEY)
    one.advance()
    async with a_source(address(one), address(other)) as source:
        assert (await source.fetch_keys()).keys[ALICE] == OTHER_KEY
        one.stop()
        with pytest.raises(NodeFailed, match="is behind: at block 2, and 3 is known"):
            await source.fetch_keys()
        other.behave()
        fork.advance()
        other.chain = fork
        with pytest.raises(NodeFailed, match="is on a fork"):
            await source.fetch_key(ALICE)


@BOTH
async def test_node_of_a_private_authority_is_trusted_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: Address
) -> None:
    """And otherwise refused, with the remedy."""
    authority = PrivateAuthority(tmp_path)
    with running_node(tls=authority.issue()) as node:
        fill(node.chain)
        async with a_source(address(node)) as source:
            with pytest.raises(NodeUnreachable, match=r"is not trusted.*SSL_CERT_FILE"):
                await source.fetch_keys()
        assert not node.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        async with a_source(address(node)) as source:
            assert (await source.fetch_keys()).keys == {ALICE: KEY}
