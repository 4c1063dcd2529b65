"""The real Pylon client reads from the development Pylon what it would read from the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from pylon_client import artanis
from pylon_client.artanis import AsyncConfig, AsyncPylonClient, Config, PylonClient
from pylon_client.artanis.v1 import Neuron
from tenacity import AsyncRetrying, Retrying, stop_after_attempt

from nexus_auth.adapters.devnet.records import Axon
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.pylon.running import RunningPylon

ALICE = a_hotkey("alice")
ALICE_KEY = public_bytes(a_key("alice"))
BOB = a_hotkey("bob")
ALICE_NAME = artanis.Hotkey(str(ALICE))
BOB_NAME = artanis.Hotkey(str(BOB))
NETUID = artanis.NetUid(1)


@pytest.fixture(autouse=True)
def _subnet(pylon: RunningPylon) -> None:
    """Two neurons, one of which may validate and has a key."""
    pylon.store.set_neuron(
        ALICE, uid=7, validator_permit=True, alpha=10, tao=2.5, axon=Axon(ip="192.0.2.7", port=8091)
    )
    pylon.store.set_neuron(BOB, uid=8, active=False)
    pylon.store.set_certificate(ALICE, ALICE_KEY)


@pytest.fixture
def client(pylon: RunningPylon) -> Iterator[PylonClient]:
    """The synchronous client, without retries."""
    config = Config(
        address=pylon.url,
        identity_name=artanis.IdentityName(pylon.identity_name),
        identity_token=artanis.PylonAuthToken(pylon.token),
        open_access_token=artanis.PylonAuthToken(pylon.open_access_token),
        retry=Retrying(stop=stop_after_attempt(1)),
    )
    with PylonClient(config) as opened:
        yield opened


@pytest.fixture
async def async_client(pylon: RunningPylon) -> AsyncIterator[AsyncPylonClient]:
    """The asynchronous client, without retries."""
    config = AsyncConfig(
        address=pylon.url,
        identity_name=artanis.IdentityName(pylon.identity_name),
        identity_token=artanis.PylonAuthToken(pylon.token),
        open_access_token=artanis.PylonAuthToken(pylon.open_access_token),
        retry=AsyncRetrying(stop=stop_after_attempt(1)),
    )
    async with AsyncPylonClient(config) as opened:
        yield opened


def assert_is_alice(neuron: object) -> None:
    """Every value of the neuron arrives as it was set."""
    assert isinstance(neuron, Neuron)
    assert (neuron.hotkey, neuron.uid, neuron.active) == (str(ALICE), 7, True)
    assert neuron.validator_permit
    assert (str(neuron.axon_info.ip), neuron.axon_info.port) == ("192.0.2.7", 8091)
    assert neuron.axon_info.protocol.name == "HTTP"
    assert neuron.axon_info.is_serving
    assert (neuron.stakes.alpha, neuron.stakes.tao, neuron.stakes.total) == (10, 2.5, 12.5)
    assert neuron.stake == 12.5


class TestSync:
    """The synchronous client."""

    def test_reads_a_certificate(self, client: PylonClient) -> None:
        """By hotkey, through both APIs."""
        for answer in (
            client.v1.identity.get_certificate(ALICE_NAME),
            client.v1.open_access.get_certificate(NETUID, ALICE_NAME),
        ):
            assert answer.algorithm.name == "ED25519"
            assert answer.public_key == ALICE_KEY.hex()

    def test_finds_no_certificate(self, client: PylonClient) -> None:
        """A hotkey without a key is not found, with Pylon's own words."""
        with pytest.raises(artanis.PylonNotFound, match="Certificate not found or error"):
            client.v1.identity.get_certificate(BOB_NAME)
        with pytest.raises(artanis.PylonNotFound):
            client.v1.open_access.get_certificate(NETUID, BOB_NAME)

    def test_reads_neurons(self, pylon: RunningPylon, client: PylonClient) -> None:
        """Latest and recent, through both APIs."""
        for answer in (
            client.v1.identity.get_latest_neurons(),
            client.v1.identity.get_recent_neurons(),
            client.v1.open_access.get_latest_neurons(NETUID),
            client.v1.open_access.get_recent_neurons(NETUID),
        ):
            assert set(answer.neurons) == {str(ALICE), str(BOB), str(pylon.hotkey)}
            assert_is_alice(answer.neurons[ALICE_NAME])
            assert not answer.neurons[BOB_NAME].axon_info.is_serving
            assert answer.block.number > 0

    def test_reads_validators(self, client: PylonClient) -> None:
        """The neurons with a permit."""
        for answer in (
            client.v1.identity.get_latest_validators(),
            client.v1.open_access.get_latest_validators(NETUID),
        ):
            assert [each.hotkey for each in answer.validators] == [str(ALICE)]
            assert_is_alice(answer.validators[0])

    def test_reads_the_latest_block(self, pylon: RunningPylon, client: PylonClient) -> None:
        """What the Nexus Framework's validator polls, in every form that the client has."""
        before = pylon.store.block()
        for answer in (
            client.v1.open_access.get_latest_block_info(),
            client.v1.identity.get_latest_block_info(),
            client.unstable.open_access.get_latest_block_info(),
        ):
            assert before <= answer.number <= pylon.store.block()
            assert answer.timestamp == answer.number * 12

    def test_sets_weights_and_reads_their_status(
        self, pylon: RunningPylon, client: PylonClient
    ) -> None:
        """As the framework's `SetWeightsBeat` and `WeightSetter` do, each epoch."""
        block = artanis.BlockNumber(pylon.store.block())
        assert not client.unstable.identity.get_weights_status(block).weights_submitted
        client.v1.identity.put_weights({BOB_NAME: artanis.Weight(1.0)})
        later = artanis.BlockNumber(pylon.store.block())
        assert any(
            client.unstable.identity.get_weights_status(each).weights_submitted
            for each in {block, later}  # an epoch may have ended in between
        )
        second = artanis.MechanismId(1)
        client.unstable.identity.put_weights({BOB_NAME: artanis.Weight(1.0)}, second)
        assert pylon.store.has_set_weights(
            pylon.hotkey, netuid=1, mechanism=1, block=pylon.store.block()
        )

    def test_reads_the_unstable_api_too(self, client: PylonClient) -> None:
        """It has the same neurons and certificates under other paths."""
        for neurons in (
            client.unstable.identity.get_recent_neurons(),
            client.unstable.open_access.get_latest_neurons(NETUID),
        ):
            assert_is_alice(neurons.neurons[ALICE_NAME])
        answer = client.unstable.open_access.get_certificate(NETUID, ALICE_NAME)
        assert answer.public_key == ALICE_KEY.hex()

    def test_learns_its_netuid_first(self, pylon: RunningPylon, client: PylonClient) -> None:
        """The identity client asks for the identities before anything else."""
        client.v1.identity.get_latest_neurons()
        assert [each.path for each in pylon.requests] == [
            "/api/v1/identities",
            "/api/v1/identity/dev/subnet/1/block/latest/neurons",
        ]

    def test_follows_an_identity_to_another_subnet(
        self, pylon: RunningPylon, client: PylonClient
    ) -> None:
        """The 308 makes the client ask for the identities again."""
        client.v1.identity.get_latest_neurons()
        pylon.store.add_identity("dev", hotkey=pylon.hotkey, token=pylon.token, netuid=2)
        assert set(client.v1.identity.get_latest_neurons().neurons) == {str(pylon.hotkey)}
        assert [each.status for each in pylon.requests[2:]] == [308, 200, 200]

    def test_wrong_token_is_forbidden(self, pylon: RunningPylon) -> None:
        """In the client's own terms, through both APIs."""
        config = Config(
            address=pylon.url,
            identity_name=artanis.IdentityName("dev"),
            identity_token=artanis.PylonAuthToken("wrong"),
            open_access_token=artanis.PylonAuthToken("wrong"),
            retry=Retrying(stop=stop_after_attempt(1)),
        )
        with PylonClient(config) as client:
            with pytest.raises(artanis.PylonForbidden, match="Invalid authorization token"):
                client.v1.identity.get_latest_neurons()
            with pytest.raises(artanis.PylonForbidden, match="Invalid authorization token"):
                client.v1.open_access.get_latest_neurons(NETUID)

    def test_unknown_identity_is_a_misconfiguration(self, pylon: RunningPylon) -> None:
        """The client sees it from the list of identities."""
        config = Config(
            address=pylon.url,
            identity_name=artanis.IdentityName("nope"),
            identity_token=artanis.PylonAuthToken("t"),
            retry=Retrying(stop=stop_after_attempt(1)),
        )
        with PylonClient(config) as client, pytest.raises(artanis.PylonMisconfigured):
            client.v1.identity.get_latest_neurons()

    def test_sends_how_long_it_will_wait(self, pylon: RunningPylon, client: PylonClient) -> None:
        """And the development Pylon understands it."""
        client.v1.open_access.get_latest_neurons(NETUID)
        assert pylon.requests[-1].timeout == "60.0"


class TestAsync:
    """The asynchronous client."""

    async def test_reads_a_certificate(self, async_client: AsyncPylonClient) -> None:
        """By hotkey, through both APIs."""
        mine = await async_client.v1.identity.get_certificate(ALICE_NAME)
        everybodys = await async_client.v1.open_access.get_certificate(NETUID, ALICE_NAME)
        assert mine.public_key == everybodys.public_key == ALICE_KEY.hex()

    async def test_finds_no_certificate(self, async_client: AsyncPylonClient) -> None:
        """A hotkey without a key is not found."""
        with pytest.raises(artanis.PylonNotFound):
            await async_client.v1.identity.get_certificate(BOB_NAME)

    async def test_reads_neurons(self, async_client: AsyncPylonClient) -> None:
        """Latest and recent, through both APIs."""
        for answer in (
            await async_client.v1.identity.get_latest_neurons(),
            await async_client.v1.identity.get_recent_neurons(),
            await async_client.v1.open_access.get_latest_neurons(NETUID),
            await async_client.v1.open_access.get_recent_neurons(NETUID),
        ):
            assert_is_alice(answer.neurons[ALICE_NAME])

    async def test_reads_validators(self, async_client: AsyncPylonClient) -> None:
        """The neurons with a permit."""
        for answer in (
            await async_client.v1.identity.get_latest_validators(),
            await async_client.v1.open_access.get_latest_validators(NETUID),
        ):
            assert [each.hotkey for each in answer.validators] == [str(ALICE)]
