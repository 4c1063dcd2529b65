"""Callers whose keys come from a real Pylon or a node of the chain, and go stale as promised."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nexus_auth import RegistryUnavailable
from nexus_auth.client import HotkeyNotRegistered, ServerKeyMismatch, connect, connect_chain
from nexus_auth.testing import Caller, Subnet
from tests.integration.chain.node import NETUID, RunningNode, running_node
from tests.integration.client.programs import KINDS, Call, OpenCaller, running_client
from tests.integration.client.server import TlsServer, running_server, save_pair
from tests.integration.pylon.running import RunningPylon
from tests.integration.real import wait_until_ready

SUBNET = Subnet()
MINER = SUBNET.stranger("miner")
VALIDATOR = SUBNET.stranger("validator")
ROTATED = SUBNET.rotate(MINER)


@pytest.fixture
def server() -> Iterator[TlsServer]:
    """The miner's server."""
    with running_server(MINER, trusts=(VALIDATOR,)) as running:
        yield running


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Where the validator's pair is."""
    return save_pair(tmp_path / "certs", VALIDATOR).path


def of_pylon(pylon: RunningPylon, certificates: Path, **spans: Any) -> OpenCaller:
    """Opens a caller that asks a Pylon."""
    return partial(
        connect,
        pylon.url,
        netuid=pylon.netuid,
        open_access_token=pylon.open_access_token,
        certificates=certificates,
        **spans,
    )


def outcome(call: Call, server: TlsServer, of: Caller = MINER) -> object:
    """The status of a call, or the kind of its error."""
    try:
        return call(server.url, hotkey=of.hotkey).status_code
    except (ServerKeyMismatch, HotkeyNotRegistered, RegistryUnavailable) as exc:
        return next(
            each
            for each in (ServerKeyMismatch, HotkeyNotRegistered, RegistryUnavailable)
            if isinstance(exc, each)
        )


def wait_for(expected: object, call: Call, server: TlsServer) -> None:
    """Calls until that is the outcome."""
    wait_until_ready(lambda: outcome(call, server) == expected, what=str(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_rotation_in_pylon_is_followed(
    kind: str, pylon: RunningPylon, server: TlsServer, certificates: Path
) -> None:
    """The first call waits for the first snapshot; each later one uses the newest."""
    pylon.store.set_certificate(MINER.hotkey, MINER.public_key)
    opened = of_pylon(pylon, certificates, refresh_every=timedelta(seconds=1))
    with running_client(kind, opened) as call:
        assert outcome(call, server) == 200
        assert outcome(call, server, VALIDATOR) is HotkeyNotRegistered
        pylon.store.set_certificate(MINER.hotkey, ROTATED.public_key)
        wait_for(ServerKeyMismatch, call, server)
        server.show(ROTATED, trusts=(VALIDATOR,))
        assert outcome(call, server) == 200
        pylon.store.remove_neuron(MINER.hotkey)
        wait_for(HotkeyNotRegistered, call, server)
        wait_until_ready(
            lambda: not any(each.is_open for each in server.connections),
            what="the end of every connection",
        )
    assert {each.client for each in server.connections if each.requests} == {VALIDATOR.der}


@pytest.mark.parametrize("kind", KINDS)
def test_miner_that_has_just_rotated_is_reached_before_the_next_refresh(
    kind: str, pylon: RunningPylon, server: TlsServer, certificates: Path
) -> None:
    """The registry is asked for news in the call that meets the new key."""
    for number in range(20):  # A subnet in which most keys change at once is not believed at once.
        other = SUBNET.stranger(f"other {number}")
        pylon.store.set_certificate(other.hotkey, other.public_key)
    pylon.store.set_certificate(MINER.hotkey, MINER.public_key)
    opened = of_pylon(pylon, certificates, refresh_every=timedelta(hours=1))
    with running_client(kind, opened) as call:
        server.answers["/"] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        assert outcome(call, server) == 200
        pylon.store.set_certificate(MINER.hotkey, ROTATED.public_key)
        server.show(ROTATED, trusts=(VALIDATOR,))
        wait_for(200, call, server)
        assert len(server.requests) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_calls_go_on_while_pylon_is_away_and_not_for_longer_than_max_age(
    kind: str, pylon: RunningPylon, server: TlsServer, certificates: Path
) -> None:
    """On the open connection neither; and they go on when it is back."""
    pylon.store.set_certificate(MINER.hotkey, MINER.public_key)
    opened = of_pylon(
        pylon,
        certificates,
        refresh_every=timedelta(seconds=1),
        max_age=timedelta(seconds=4),
    )
    with running_client(kind, opened) as call:
        assert outcome(call, server) == 200
        pylon.stop()
        assert outcome(call, server) == 200
        wait_for(RegistryUnavailable, call, server)
        wait_until_ready(lambda: not server.connections[0].is_open, what="the end of a connection")
        pylon.start()
        wait_for(200, call, server)


@pytest.mark.parametrize("kind", KINDS)
def test_pylon_that_was_never_there(
    kind: str, pylon: RunningPylon, server: TlsServer, certificates: Path
) -> None:
    """Nothing is known, so nothing is called."""
    pylon.stop()
    with running_client(kind, of_pylon(pylon, certificates)) as call:
        assert outcome(call, server) is RegistryUnavailable
    assert server.connections == []


@pytest.fixture
def node() -> Iterator[RunningNode]:
    """A node of a chain that knows the miner and its key."""
    with running_node() as running:
        running.chain.register(MINER.hotkey)
        running.chain.publish(MINER.hotkey, MINER.public_key)
        running.advance()
        yield running


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transport", ["http", "ws"])
def test_rotation_on_chain_is_followed(
    kind: str, transport: str, node: RunningNode, server: TlsServer, certificates: Path
) -> None:
    """Without a Pylon."""
    opened = partial(
        connect_chain,
        node.url if transport == "http" else node.ws_url,
        netuid=NETUID,
        certificates=certificates,
        refresh_every=timedelta(seconds=1),
    )
    with running_client(kind, opened) as call:
        assert outcome(call, server) == 200
        node.chain.publish(MINER.hotkey, ROTATED.public_key)
        node.advance()
        wait_for(ServerKeyMismatch, call, server)
        server.show(ROTATED, trusts=(VALIDATOR,))
        assert outcome(call, server) == 200
