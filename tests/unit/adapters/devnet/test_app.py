"""What the development Pylon does that no request over a real socket can bring about."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.devnet.app import build_devnet_app
from nexus_auth.adapters.devnet.store import DevnetStore
from tests.builders import a_hotkey, public_bytes

GENERATE = "/api/v1/identity/dev/subnet/1/certificates/self"


def client_of(app: Any) -> httpx.AsyncClient:
    """A client that calls the app without a socket."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://pylon")


async def test_an_unexpected_failure_is_500_in_pylons_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The log hears of it; the client learns nothing of the cause."""
    statuses: list[int] = []
    with DevnetStore(":memory:") as store:

        def fail() -> None:
            raise RuntimeError("the cause")

        monkeypatch.setattr(store, "identities", fail)
        app = build_devnet_app(store, request_log=lambda _, status, __: statuses.append(status))
        async with client_of(app) as client:
            answer = await client.get("/api/v1/identities")
    assert answer.status_code == 500
    assert answer.json() == {"status_code": 500, "detail": "Internal Server Error"}
    assert statuses == [500]


async def test_pairs_made_in_parallel_are_all_real_and_one_stays() -> None:
    """The last one to be published counts; none is mixed from two."""
    hotkey = a_hotkey("dev")
    with DevnetStore(":memory:") as store:
        store.add_identity("dev", hotkey=hotkey, token="t")
        async with client_of(build_devnet_app(store)) as client:
            answers = await asyncio.gather(
                *(
                    client.post(GENERATE, json={}, headers={"Authorization": "Bearer t"})
                    for _ in range(20)
                )
            )
        pairs = [answer.json() for answer in answers]
        for pair in pairs:
            key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(pair["private_key"]))
            assert public_bytes(key).hex() == pair["public_key"]
        kept = store.certificate(hotkey)
    assert kept is not None
    assert kept.hex() in {pair["public_key"] for pair in pairs}
    assert len({pair["public_key"] for pair in pairs}) == 20
