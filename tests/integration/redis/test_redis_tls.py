"""The Redis store over TLS, against a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.store import redis_store
from nexus_auth.adapters.store.redis_store import RedisStore
from nexus_auth.domain.errors import StoreUnavailable
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.integration.authority import PrivateAuthority, strict_python
from tests.integration.proxies.stack import make_server_certificate
from tests.integration.real import Process
from tests.integration.redis.server import rediss_url, running_redis
from tests.unit.contracts.snapshot_store import KEEP, LONG, SnapshotStoreContract

__all__ = ["strict_python"]

SCOPE = "http://pylon:8000 netuid=12"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Process, str]]:
    """A Redis that speaks TLS alone, and its URL, which says whom to trust."""
    certificate, key = make_server_certificate(tmp_path)
    with running_redis(tmp_path, tls=(certificate, key)) as (process, port):
        yield process, rediss_url(port, trust=certificate)


@contextlib.asynccontextmanager
async def a_store(url: str) -> AsyncIterator[RedisStore]:
    """A store that is closed at the end."""
    store = RedisStore(url, scope=SCOPE, clock=utc_now)
    yield store
    await store.aclose()


@pytest_asyncio.fixture
async def stores(server: tuple[Process, str]) -> AsyncIterator[tuple[RedisStore, RedisStore]]:
    """Two processes' views of one store."""
    _, url = server
    pair = tuple(RedisStore(url, scope=SCOPE, clock=FakeClock()) for _ in range(2))
    yield pair[0], pair[1]
    for store in pair:
        await store.aclose()


class TestRedisStoreOverTls(SnapshotStoreContract):
    """The contract that the other stores keep as well."""

    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The contract is about answers. Twenty connections at once may take a moment to open."""
        monkeypatch.setattr(redis_store, "TIMEOUT_SECONDS", 20.0)


async def test_server_that_nobody_vouches_for_is_unavailable(server: tuple[Process, str]) -> None:
    """Without saying whom to trust, it is whom this machine trusts. Cause and remedy are said."""
    _, url = server
    async with a_store(url.partition("?")[0]) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await store.acquire_lease("me", LONG)
    assert str(caught.value) == (
        "Redis: its certificate is refused: self-signed certificate; name the file of the "
        "authority that signed it in ssl_ca_certs behind the ? of the URL, or in SSL_CERT_FILE"
    )


async def test_authority_of_the_operator_counts_whatever_its_form(
    tmp_path: Path,
    strict_python: None,
) -> None:
    """One that says nothing of its key usage, as Python 3.13 by itself refuses; as for Pylon.

    Flags in the URL are the operator's own choice.
    """
    authority = PrivateAuthority(tmp_path)
    with running_redis(tmp_path, tls=authority.issue()) as (_, port):
        url = rediss_url(port, trust=authority.file)
        async with a_store(url) as store:
            assert await store.acquire_lease("me", LONG)
        async with a_store(f"{url}&ssl_include_verify_flags=VERIFY_X509_STRICT") as store:
            with pytest.raises(StoreUnavailable, match="its certificate is refused"):
                await store.acquire_lease("me", LONG)


async def test_server_of_another_name_is_unavailable(server: tuple[Process, str]) -> None:
    """A certificate that is trusted, but for another server, is refused."""
    _, url = server
    async with a_store(url.replace("localhost", "127.0.0.1")) as store:
        with pytest.raises(StoreUnavailable, match=r"mismatch.*NEXUS_AUTH_SNAPSHOT_STORE"):
            await store.acquire_lease("me", LONG)


async def test_plain_and_tls_do_not_understand_each_other(server: tuple[Process, str]) -> None:
    """Neither hangs for it."""
    _, url = server
    plain = url.partition("?")[0].replace("rediss://", "redis://")
    async with a_store(plain) as store:
        with pytest.raises(StoreUnavailable):
            await store.version()


async def test_server_that_falls_silent_holds_nobody_up(server: tuple[Process, str]) -> None:
    """Neither a call nor the end waits for it; when it goes on, so does the store."""
    process, url = server
    async with a_store(url) as lasting:
        await lasting.save(b"x", said_at=NOW, keep_for=KEEP)
        async with a_store(url) as store:
            assert await store.load() == b"x"
            process.send_signal(signal.SIGSTOP)
            try:
                async with asyncio.timeout(20):
                    with pytest.raises(StoreUnavailable):
                        await lasting.load()
                began = time.monotonic()
                await store.aclose()
                assert time.monotonic() - began < 20
            finally:
                process.send_signal(signal.SIGCONT)
        assert await lasting.load() == b"x"
