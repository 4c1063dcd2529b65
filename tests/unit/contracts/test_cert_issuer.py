"""What the port `CertIssuer` promises, held against the fake and against Pylon's client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.pylon.api import IdentityApi
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.domain.errors import IssuerUnavailable, IssuingRefused
from nexus_auth.domain.ports import CertIssuer
from tests.builders import a_hotkey, public_bytes
from tests.fakes import FakeIssuer

ALICE = a_hotkey("alice")


class Chain:
    """Both issuers with the same chain behind them."""

    def __init__(self) -> None:
        self.fake = FakeIssuer(ALICE)

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


@pytest.fixture(params=["fake", "pylon"])
async def issuer(request: pytest.FixtureRequest, chain: Chain) -> AsyncIterator[CertIssuer]:
    """Each issuer in turn."""
    if request.param == "fake":
        yield chain.fake
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


async def test_each_pair_replaces_the_former(issuer: CertIssuer) -> None:
    """It is not idempotent."""
    first = await issuer.generate(algorithm=1)
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
