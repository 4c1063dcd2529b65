"""The real client calls a miner: its key pinned, the caller's certificate checked by nexus-auth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pylon_client import artanis
from pylon_client.artanis import AsyncConfig, AsyncPylonClient, Config, PylonClient
from pylon_client.artanis.v1 import Neuron
from pylon_client.exceptions import MtlsVerificationError
from tenacity import AsyncRetrying, Retrying, stop_after_attempt

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.entrypoints.demo.certificates import save_self_made
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.proxies.stack import PROGRAMS, open_folder
from tests.integration.tls.miner import Miner, running_miner

# The real client hands its pair to httpx in a way that httpx has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`cert=...` is deprecated:DeprecationWarning")


@pytest.fixture(scope="module", params=PROGRAMS)
def miner(request: pytest.FixtureRequest) -> Iterator[Miner]:
    """One miner a proxy for all tests of this module; each leaves it as it found it."""
    with open_folder() as folder, running_miner(folder, proxy=request.param) as running:
        yield running


def _config(miner: Miner, pair: CredentialsDirectory) -> Config:
    return Config(
        address=miner.pylon.url,
        identity_name=artanis.IdentityName("validator"),
        identity_token=artanis.PylonAuthToken(miner.token("validator")),
        retry=Retrying(stop=stop_after_attempt(1)),
        mtls_cert_path=str(pair.certificate_path),
        mtls_key_path=str(pair.key_path),
    )


def _pair(miner: Miner, name: str) -> CredentialsDirectory:
    return CredentialsDirectory(miner.directory / name)


def _find(client: PylonClient, miner: Miner) -> Neuron:
    """The miner as its callers find it: among the neurons that Pylon knows."""
    neurons = client.v1.identity.get_latest_neurons().neurons
    return neurons[artanis.Hotkey(str(miner.hotkey("miner")))]


def _assert_was_let_in(miner: Miner, response: httpx.Response) -> None:
    assert response.status_code == 200
    lines = response.json()["headers"]
    named = [line.partition(": ") for line in lines if line.lower().startswith("x-hotkey:")]
    assert [value for _, _, value in named] == [str(miner.hotkey("validator"))]


def test_registered_validator_is_let_in(miner: Miner) -> None:
    """Found through Pylon, pinned by its key, and told who is calling."""
    with PylonClient(_config(miner, _pair(miner, "validator"))) as client:
        neuron = _find(client, miner)
        with client.get_neuron_client(neuron) as calls:
            _assert_was_let_in(miner, calls.get("/synapse"))
            _assert_was_let_in(miner, calls.post("/synapse", json={"question": "?"}))


async def test_registered_validator_is_let_in_asynchronously(miner: Miner) -> None:
    """The same with the asynchronous client."""
    pair = _pair(miner, "validator")
    config = AsyncConfig(
        address=miner.pylon.url,
        identity_name=artanis.IdentityName("validator"),
        identity_token=artanis.PylonAuthToken(miner.token("validator")),
        retry=AsyncRetrying(stop=stop_after_attempt(1)),
        mtls_cert_path=str(pair.certificate_path),
        mtls_key_path=str(pair.key_path),
    )
    async with AsyncPylonClient(config) as client:
        answer = await client.v1.identity.get_latest_neurons()
        neuron = answer.neurons[artanis.Hotkey(str(miner.hotkey("miner")))]
        async with client.get_neuron_client(neuron) as calls:
            _assert_was_let_in(miner, await calls.get("/synapse"))


def test_stranger_is_turned_away(miner: Miner, tmp_path: Path) -> None:
    """A certificate around somebody's hotkey and another key reaches the proxy and no further."""
    reached = miner.backend.requests
    pair = save_self_made(tmp_path / "impostor", hotkey=miner.hotkey("validator"))
    with (
        PylonClient(_config(miner, pair)) as client,
        client.get_neuron_client(_find(client, miner)) as calls,
    ):
        response = calls.get("/synapse")
    assert response.status_code == 403
    assert response.headers["X-Nexus-Auth-Reason"] == "key-mismatch"
    assert miner.backend.requests == reached


def test_server_with_another_key_is_not_called(miner: Miner) -> None:
    """The client's pinning works on the pairs that we make: another key on chain, no call."""
    name = miner.hotkey("miner")
    published = miner.pylon.store.certificate(name)
    assert published is not None
    reached = miner.backend.requests
    miner.pylon.store.set_certificate(name, public_bytes(a_key("mallory")))
    try:
        with PylonClient(_config(miner, _pair(miner, "validator"))) as client:
            neuron = _find(client, miner)
            with pytest.raises(MtlsVerificationError), client.get_neuron_client(neuron):
                pytest.fail("the server's key is another one")
    finally:
        miner.pylon.store.set_certificate(name, published)
    assert miner.backend.requests == reached


def test_rotated_pair_is_let_in_at_once(miner: Miner) -> None:
    """`generate -force-recreate`, and the next call works."""
    miner.generate("validator", "-force-recreate")
    with (
        PylonClient(_config(miner, _pair(miner, "validator"))) as client,
        client.get_neuron_client(_find(client, miner)) as calls,
    ):
        _assert_was_let_in(miner, calls.get("/synapse"))


def test_unknown_neuron_has_no_key(miner: Miner) -> None:
    """Whoever is not registered cannot be called either: there is no key to pin."""
    with PylonClient(_config(miner, _pair(miner, "validator"))) as client:
        neuron = _find(client, miner).model_copy(update={"hotkey": str(a_hotkey("nobody"))})
        with pytest.raises(artanis.PylonNotFound), client.get_neuron_client(neuron):
            pytest.fail("nobody registered this hotkey")
