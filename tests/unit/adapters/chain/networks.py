"""Nodes without sockets: what is asked of them over HTTP reaches the test node itself."""

from __future__ import annotations

from typing import Final

import httpx

from nexus_auth.adapters.chain.source import ChainSource
from tests.builders import a_hotkey, a_key, public_bytes
from tests.fakes import FakeClock
from tests.integration.chain.node import NETUID, Chain, RunningNode

ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
CAROL: Final = a_hotkey("carol")
KEY: Final = public_bytes(a_key("alice"))
BOBS_KEY: Final = public_bytes(a_key("bob"))


class Network(httpx.AsyncBaseTransport):
    """Some nodes by the names of their hosts; the one at `gone` is not there."""

    def __init__(self, **nodes: RunningNode) -> None:
        self.nodes = nodes
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.host)
        node = self.nodes.get(request.url.host)
        if node is None:
            raise httpx.ConnectError("All connection attempts failed")
        status = node._failing_status or 200
        body = await node._answer("http", await request.aread())
        return httpx.Response(status, stream=httpx.ByteStream(body))


def a_chain(clock: FakeClock) -> Chain:
    """With the keys of two hotkeys in its second block."""
    chain = Chain(clock=clock)
    for hotkey, key in ((ALICE, KEY), (BOB, BOBS_KEY)):
        chain.register(hotkey)
        chain.publish(hotkey, key)
    chain.advance(2)
    return chain


def a_source(
    network: Network, clock: FakeClock, *hosts: str, genesis: str | None = None
) -> ChainSource:
    """A source of the nodes with these names; of all nodes where none is named."""
    return ChainSource(
        endpoints=[f"http://{host}/?token=secret" for host in hosts or network.nodes],
        netuid=NETUID,
        clock=clock,
        genesis=genesis,
        transport=network,
    )
