"""Our client and the real one call the same miners, in one table: keys pinned, pairs shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import pytest
from pylon_client.artanis import PylonNotFound

from nexus_auth.adapters.devnet.records import Axon
from nexus_auth.client import HotkeyNotRegistered
from nexus_auth.entrypoints.demo.certificates import save_self_made
from nexus_auth.testing import Caller, Subnet
from tests.builders import a_key, public_bytes
from tests.integration.client.server import TlsServer, running_server, save_pair
from tests.integration.proxies.stack import PROGRAMS, open_folder
from tests.integration.pylon.running import RunningPylon
from tests.integration.real import wait_until_ready
from tests.integration.tls.miner import Miner, running_miner
from tests.integration.tls.neuron_clients import (
    CLIENTS,
    OURS,
    REFUSED,
    THEIRS,
    NeuronCall,
    calling,
)

pytestmark = [
    # The real client hands its pair to httpx in a way that httpx has deprecated.
    pytest.mark.filterwarnings("ignore:`cert=...` is deprecated:DeprecationWarning"),
    # It leaves the connections of a client that it forgets to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module", params=PROGRAMS)
def miner(request: pytest.FixtureRequest) -> Iterator[Miner]:
    """One miner a proxy for the tests of this module; each leaves it as it found it."""
    with open_folder() as folder, running_miner(folder, proxy=request.param) as running:
        yield running


def call_of(
    kind: str, miner: Miner, pair: Path | None = None
) -> AbstractContextManager[NeuronCall]:
    """A client of a kind, with the validator's identity and a pair: its own one by default."""
    return calling(
        kind,
        miner.pylon,
        identity=("validator", miner.token("validator")),
        pair=miner.directory / "validator" if pair is None else pair,
        hotkey=miner.hotkey("miner"),
    )


def assert_was_let_in(miner: Miner, response: httpx.Response) -> None:
    """And named to the application."""
    assert response.status_code == 200
    lines = response.json()["headers"]
    named = [line.partition(": ") for line in lines if line.lower().startswith("x-hotkey:")]
    assert [value for _, _, value in named] == [str(miner.hotkey("validator"))]


@pytest.mark.parametrize("kind", CLIENTS)
def test_registered_validator_is_let_in(miner: Miner, kind: str) -> None:
    """The server is pinned by its key, and told who is calling."""
    with call_of(kind, miner) as call:
        assert_was_let_in(miner, call("/synapse"))
        assert_was_let_in(miner, call("/synapse", method="POST", json={"question": "?"}))


@pytest.mark.parametrize("kind", CLIENTS)
def test_stranger_is_turned_away(miner: Miner, kind: str, tmp_path: Path) -> None:
    """A certificate around another's hotkey and another key reaches the proxy and no further."""
    reached = miner.backend.requests
    pair = save_self_made(tmp_path / "impostor", hotkey=miner.hotkey("validator"))
    with call_of(kind, miner, pair.path) as call:
        response = call("/synapse")
    assert response.status_code == 403
    assert response.headers["X-Nexus-Auth-Reason"] == "key-mismatch"
    assert miner.backend.requests == reached


@contextmanager
def another_key(miner: Miner) -> Iterator[None]:
    """The chain has another key for the miner than its server's."""
    name = miner.hotkey("miner")
    published = miner.pylon.store.certificate(name)
    assert published is not None
    miner.pylon.store.set_certificate(name, public_bytes(a_key("mallory")))
    try:
        yield
    finally:
        miner.pylon.store.set_certificate(name, published)


@pytest.mark.parametrize("kind", CLIENTS)
def test_server_with_another_key_is_not_called(miner: Miner, kind: str) -> None:
    """Another key on chain, no call."""
    reached = miner.backend.requests
    with another_key(miner), call_of(kind, miner) as call, pytest.raises(REFUSED):
        call("/synapse")
    assert miner.backend.requests == reached


def test_rotated_pair_is_let_in_at_once(miner: Miner) -> None:
    """`generate -force-recreate`, and the next client works; ours also where they are open."""
    with ExitStack() as stack:
        opened = [stack.enter_context(call_of(kind, miner)) for kind in OURS]
        for call in opened:
            assert_was_let_in(miner, call("/synapse"))
        miner.generate("validator", "-force-recreate")
        opened += [stack.enter_context(call_of(kind, miner)) for kind in CLIENTS]
        for call in opened:
            assert_was_let_in(miner, call("/synapse"))


def test_rotation_on_chain_ends_open_connections(miner: Miner) -> None:
    """The server has an open connection and the old key: no call, once that is known."""
    with ExitStack() as stack:
        opened = [stack.enter_context(call_of(kind, miner)) for kind in OURS]
        for call in opened:
            assert_was_let_in(miner, call("/synapse"))
        with another_key(miner):
            for call in opened:
                wait_until_ready(partial(is_refused, call), what="the new key to be known")
            reached = miner.backend.requests
            assert all(is_refused(call) for call in opened)
            assert miner.backend.requests == reached


def is_refused(call: NeuronCall) -> bool:
    """Whether a call ends in what the client raises for another key."""
    try:
        call("/synapse")
    except REFUSED:
        return True
    return False


@pytest.mark.parametrize("kind", CLIENTS)
def test_hotkey_without_a_key_is_not_called(miner: Miner, kind: str) -> None:
    """A neuron that has registered no key cannot prove to be itself."""
    nobody = Subnet().stranger("nobody").hotkey
    miner.pylon.store.set_neuron(nobody, axon=Axon(ip="127.0.0.1", port=miner.port))
    reached = miner.backend.requests
    with call_of(kind, miner) as call, pytest.raises((HotkeyNotRegistered, PylonNotFound)):
        call("/synapse", hotkey=nobody)
    assert miner.backend.requests == reached


# Where the two differ: a server that a test holds in its hands.


class World:
    """A Pylon that knows where a miner is, which key it has, and who asks."""

    def __init__(self, pylon: RunningPylon, directory: Path) -> None:
        self.pylon = pylon
        self.subnet = Subnet()
        self.miner = self.subnet.register("miner")
        self.pair = save_pair(directory / "certs", self.subnet.stranger("validator")).path

    def publish(self, neuron: Caller, server: TlsServer) -> None:
        """Says that a neuron is at a server, and has its key."""
        axon = Axon(ip="127.0.0.1", port=server.port)
        self.pylon.store.set_neuron(neuron.hotkey, axon=axon)
        self.pylon.store.set_certificate(neuron.hotkey, neuron.public_key)

    def client(self, kind: str) -> AbstractContextManager[NeuronCall]:
        """A client that calls the miner by default."""
        return calling(
            kind,
            self.pylon,
            identity=(self.pylon.identity_name, self.pylon.token),
            pair=self.pair,
            hotkey=self.miner.hotkey,
        )


@pytest.fixture
def world(pylon: RunningPylon, tmp_path: Path) -> World:
    """A subnet of its own for each test."""
    return World(pylon, tmp_path)


@pytest.mark.parametrize("kind", CLIENTS)
def test_impostor_at_the_right_address_is_sent_no_request(world: World, kind: str) -> None:
    """Its certificate names the miner's hotkey, around a key of its own."""
    with running_server(world.subnet.impostor(world.miner)) as server:
        world.publish(world.miner, server)
        with world.client(kind) as call, pytest.raises(REFUSED):
            call("/", method="POST", content=b"secret")
        assert server.requests == []


PROBES: Final = dict.fromkeys(OURS, 0) | dict.fromkeys(THEIRS, 1)


@pytest.mark.parametrize("kind", CLIENTS)
def test_connections_of_a_first_call(world: World, kind: str) -> None:
    """The real client opens one to read the certificate, and another to call; ours opens one."""
    with running_server(world.miner) as server:
        world.publish(world.miner, server)
        with world.client(kind) as call:
            assert call("/").status_code == 200
        carried = [len(each.requests) for each in server.connections]
        assert carried == [0] * PROBES[kind] + [1]


@pytest.mark.parametrize("kind", CLIENTS)
def test_certificate_of_another_hotkey_around_the_right_key(world: World, kind: str) -> None:
    """A hotkey may register another's key: ours refuses the other's server, the real one calls."""
    other = world.subnet.register("other")
    with running_server(other) as server:
        world.publish(world.miner, server)
        world.pylon.store.set_certificate(world.miner.hotkey, other.public_key)
        with world.client(kind) as call:
            if kind in THEIRS:
                assert call("/").status_code == 200
            else:
                with pytest.raises(REFUSED, match=other.hotkey.address):
                    call("/")
        assert len(server.requests) == (1 if kind in THEIRS else 0)


@pytest.mark.parametrize("kind", CLIENTS)
def test_key_that_is_replaced_while_a_client_is_open(world: World, kind: str) -> None:
    """The old server goes on: the real client keeps what it pinned, ours ends when it knows."""
    with running_server(world.miner) as server:
        world.publish(world.miner, server)
        with world.client(kind) as call:
            assert call("/").status_code == 200
            renewed = world.subnet.rotate(world.miner)
            world.publish(renewed, server)
            if kind in THEIRS:
                asked = len(world.pylon.requests)
                assert call("/").status_code == 200
                assert not any("certificate" in each.path for each in world.pylon.requests[asked:])
                return
            wait_until_ready(lambda: is_refused(call), what="the new key to be known")
            server.show(renewed)
            assert call("/").status_code == 200


@pytest.mark.parametrize("kind", CLIENTS)
def test_miner_that_has_rotated_is_called_by_an_open_client(world: World, kind: str) -> None:
    """Ours goes on. The real one keeps what it pinned, and refuses for as long as it is open.

    It forgets a client at an error of its own kind, which does not come out of httpx (2.3).
    """
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    with running_server(world.miner) as server:
        server.answers["/"] = closing
        world.publish(world.miner, server)
        with world.client(kind) as call:
            assert call("/").status_code == 200
            renewed = world.subnet.rotate(world.miner)
            world.publish(renewed, server)
            server.show(renewed)
            if kind in OURS:
                wait_until_ready(lambda: not is_refused(call), what="the new key to be known")
                return
            for _ in range(3):
                with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                    call("/")


@pytest.mark.parametrize("kind", CLIENTS)
def test_two_hotkeys_at_one_address(world: World, kind: str) -> None:
    """The real client keeps clients by address, and calls the first one's server as the second."""
    other = world.subnet.register("other")
    with running_server(world.miner) as server:
        world.publish(world.miner, server)
        world.publish(other, server)
        with world.client(kind) as call:
            assert call("/").status_code == 200
            if kind in THEIRS:
                assert call("/", hotkey=other.hotkey).status_code == 200
            else:
                with pytest.raises(REFUSED):
                    call("/", hotkey=other.hotkey)


@pytest.mark.parametrize("kind", CLIENTS)
def test_other_server_after_the_first_look(world: World, kind: str) -> None:
    """An impostor that takes the address between two connections is refused by both.

    The real client means to raise its own error then, and lets httpx's through (2.3).
    """
    with running_server(world.miner) as server:
        world.publish(world.miner, server)
        with world.client(kind) as call:
            server.answers["/"] = (
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            assert call("/").status_code == 200
            called = len(server.requests)
            server.show(world.subnet.impostor(world.miner))
            with pytest.raises((*REFUSED, httpx.ConnectError)):
                call("/")
            assert len(server.requests) == called
