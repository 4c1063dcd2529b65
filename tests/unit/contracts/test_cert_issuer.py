"""What the port `CertIssuer` promises, held against the fake and every issuer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.credentials.local_issuer import LocalIssuer, Publication
from nexus_auth.adapters.pylon.api import IdentityApi
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.domain.errors import IssuerUnavailable, IssuingRefused, RegistryUnavailable
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import CertIssuer
from tests.builders import a_hotkey, public_bytes
from tests.fakes import FakeChain, FakeClock, FakeIssuer
from tests.unit.adapters.credentials.pairs import save

ALICE = a_hotkey("alice")


class Chain:
    """All issuers with the same chain behind them."""

    def __init__(self) -> None:
        self.fake = FakeIssuer(ALICE)

    async def publish(self, publication: Publication) -> None:
        """Plays the owner's tool."""
        self.fake.raise_if_told()
        self.fake.chain[publication.hotkey] = publication.public_key

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Plays Pylon on top of the fake."""
        status, document = await self._answer(request)
        content = json.dumps(document).encode()
        return httpx.Response(status, stream=httpx.ByteStream(content))

    async def _answer(self, request: httpx.Request) -> tuple[int, dict[str, object]]:
        try:
            self.fake.raise_if_told()
            if request.method == "POST":
                pair = await self.fake.generate(**json.loads(request.content))
                return 201, {
                    "algorithm": 1,
                    "public_key": pair.public_key.hex(),
                    "private_key": pair.private_key.hex(),
                }
        except IssuerUnavailable:
            return 503, {}
        except IssuingRefused:
            return 403, {}
        key = self.fake.chain.get(ALICE) if str(ALICE) in request.url.path else None
        if key is None:
            return 404, {"detail": "Certificate not found or error fetching."}
        return 200, {"algorithm": 1, "public_key": key.hex()}


@pytest.fixture
def chain() -> Chain:
    """An empty chain."""
    return Chain()


class LocalSource(FakeChain):
    """What the local issuer reads from: the fake's chain, in its own errors."""

    def __init__(self, chain: Chain) -> None:
        super().__init__({ALICE: Place(ip="192.0.2.7", port=8091)})
        self._fake = chain.fake
        self.keys = chain.fake.chain

    def _look(self) -> None:
        if isinstance(self._fake.error, IssuerUnavailable):
            self.error = RegistryUnavailable("told to")
        elif self._fake.error is not None:
            self.error = RefusedFetch("told to")
        super()._look()


class RefusedFetch(RegistryUnavailable):
    """The source wants another token."""

    cause = "refused"


@asynccontextmanager
async def waiting(_: str) -> AsyncIterator[None]:
    """Shows nothing."""
    yield


@pytest.fixture(params=["fake", "pylon", "local"])
async def issuer(
    request: pytest.FixtureRequest, chain: Chain, tmp_path: Path
) -> AsyncIterator[CertIssuer]:
    """Each issuer in turn."""
    if request.param == "fake":
        yield chain.fake
        return
    if request.param == "local":
        source = LocalSource(chain)
        yield LocalIssuer(
            hotkey=ALICE,
            netuid=1,
            directory=CredentialsDirectory(tmp_path),
            keys=source,
            places=source,
            publish=chain.publish,
            waiting=waiting,
            clock=FakeClock(),
            wait_seconds=0,
        )
        return
    async with PylonClient(
        endpoint="http://pylon.test",
        api=IdentityApi(netuid=1, name="dev", token="t"),
        transport=httpx.MockTransport(chain.answer),
    ) as client:
        yield client


async def test_pair_belongs_together_and_is_published(issuer: CertIssuer) -> None:
    """When it is returned, the chain has it."""
    assert await issuer.published_key(ALICE) is None
    pair = await issuer.generate(algorithm=1)
    key = Ed25519PrivateKey.from_private_bytes(pair.private_key)
    assert public_bytes(key) == pair.public_key
    assert await issuer.published_key(ALICE) == pair.public_key
    assert await issuer.published_key(a_hotkey("bob")) is None
    assert pair.private_key.hex() not in repr(pair)


async def test_each_pair_replaces_the_former(issuer: CertIssuer, tmp_path: Path) -> None:
    """It is not idempotent, once the pair is in its place."""
    first = await issuer.generate(algorithm=1)
    pending = CredentialsDirectory(tmp_path).load_pending()
    assert issuer.keeps_pairs is (pending is not None)
    if pending is not None:
        assert (await issuer.generate(algorithm=1)).public_key == first.public_key
        save(tmp_path, pending)
    second = await issuer.generate(algorithm=1)
    assert first.public_key != second.public_key
    assert await issuer.published_key(ALICE) == second.public_key


async def test_another_algorithm_is_refused(issuer: CertIssuer) -> None:
    """And nothing is published."""
    with pytest.raises(IssuingRefused):
        await issuer.generate(algorithm=2)
    assert await issuer.published_key(ALICE) is None


@pytest.mark.parametrize("error", [IssuerUnavailable, IssuingRefused])
async def test_failures_are_told_apart(
    issuer: CertIssuer, chain: Chain, error: type[IssuerUnavailable | IssuingRefused]
) -> None:
    """Nobody could be asked, or the answer was no; both for asking and for issuing."""
    chain.fake.error = error("told to")
    with pytest.raises(error):
        await issuer.generate(algorithm=1)
    with pytest.raises(error):
        await issuer.published_key(ALICE)
