"""Our client against the development Pylon, and against servers that mean it badly."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from nexus_auth.adapters.pylon.api import (
    FirstGenerationApi,
    IdentityApi,
    OpenAccessApi,
    PylonAnswerInvalid,
    PylonApi,
    PylonFailed,
    PylonRefused,
    PylonUnreachable,
)
from nexus_auth.adapters.pylon.client import MAX_NEURONS_BYTES, PylonClient
from nexus_auth.domain.errors import IssuerUnavailable, IssuingRefused, RegistryError
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.proxies.stack import make_server_certificate
from tests.integration.pylon.running import (
    IDENTITY_NAME,
    OPEN_ACCESS_TOKEN,
    TOKEN,
    RunningPylon,
)
from tests.integration.real import free_port

ALICE = a_hotkey("alice")
KEY = public_bytes(a_key("alice"))
IDENTITY = IdentityApi(netuid=1, name=IDENTITY_NAME, token=TOKEN)
APIS: list[PylonApi] = [
    IDENTITY,
    OpenAccessApi(netuid=1, token=OPEN_ACCESS_TOKEN),
    FirstGenerationApi(),
]


@pytest.mark.parametrize("api", APIS, ids=lambda api: type(api).__name__)
async def test_every_dialect_reads_keys(pylon: RunningPylon, api: PylonApi) -> None:
    """All at once, one, and none."""
    pylon.store.set_certificate(ALICE, KEY)
    async with PylonClient(endpoint=pylon.url, api=api) as client:
        assert dict((await client.fetch_keys()).keys) == {ALICE: KEY}
        assert await client.fetch_key(ALICE) == KEY
        assert await client.fetch_key(a_hotkey("nobody")) is None


async def test_neurons_are_read(pylon: RunningPylon) -> None:
    """With their stakes."""
    pylon.store.set_neuron(ALICE, uid=9, alpha=5, tao=1, validator_permit=True)
    async with PylonClient(endpoint=pylon.url, api=IDENTITY) as client:
        neurons, rejected = await client.fetch_neurons()
    assert rejected == 0
    assert (neurons[ALICE].uid, neurons[ALICE].validator_permit) == (9, True)
    assert (neurons[ALICE].alpha, neurons[ALICE].total) == (5, 6)


async def test_pair_is_generated_and_published(pylon: RunningPylon) -> None:
    """The answer is a pair, and the chain has its public half."""
    async with PylonClient(endpoint=pylon.url, api=IDENTITY) as client:
        pair = await client.generate(algorithm=1)
        assert await client.published_key(pylon.hotkey) == pair.public_key
    assert pylon.requests[0].timeout == "300"


async def test_refusals_are_told_apart(pylon: RunningPylon) -> None:
    """Wrong token, wrong name, wrong netuid, and a hotkey that is not registered."""
    cases: list[tuple[PylonApi, type[RegistryError], str]] = [
        (IdentityApi(netuid=1, name="dev", token="no"), PylonRefused, "IDENTITY_TOKEN"),
        (IdentityApi(netuid=1, name="..", token="no"), PylonFailed, "IDENTITY_NAME"),
        (IdentityApi(netuid=2, name="dev", token=TOKEN), PylonFailed, "netuid"),
        (OpenAccessApi(netuid=1), PylonRefused, "OPEN_ACCESS_TOKEN"),
    ]
    for api, error, words in cases:
        async with PylonClient(endpoint=pylon.url, api=api) as client:
            with pytest.raises(error, match=words):
                await client.fetch_key(ALICE)
            with pytest.raises(error, match=words):
                await client.fetch_keys()
    pylon.store.remove_neuron(pylon.hotkey)
    async with PylonClient(endpoint=pylon.url, api=IDENTITY) as client:
        with pytest.raises(IssuingRefused, match="did not take it"):
            await client.generate(algorithm=1)


async def test_connections_are_kept_and_bounded(pylon: RunningPylon) -> None:
    """A hundred questions at once are all answered."""
    pylon.store.set_certificate(ALICE, KEY)
    async with PylonClient(endpoint=pylon.url, api=IDENTITY) as client:
        assert await asyncio.gather(*(client.fetch_key(ALICE) for _ in range(100))) == [KEY] * 100


async def test_nobody_listening_is_unreachable() -> None:
    """With the reason in the message."""
    port = free_port()
    async with PylonClient(endpoint=f"http://127.0.0.1:{port}", api=IDENTITY) as client:
        with pytest.raises(PylonUnreachable, match=f"127.0.0.1:{port} could not be asked"):
            await client.fetch_keys()
        with pytest.raises(IssuerUnavailable):
            await client.generate(algorithm=1)


@pytest.mark.parametrize("endpoint", ["ftp://pylon", "pylon:8000", "http://", "http://a b", "//x"])
async def test_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    """At once, and not by denying everybody."""
    with pytest.raises(ValueError, match="base URL"):
        PylonClient(endpoint=endpoint, api=IDENTITY)


async def test_endpoint_that_cannot_be_asked_is_unreachable() -> None:
    """It looks like one, and is no traceback."""
    async with PylonClient(endpoint="http://[v1.a]", api=IDENTITY) as client:
        with pytest.raises(PylonUnreachable):
            await client.fetch_keys()


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def a_server(
    behaviour: Behaviour, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server that reads one request head and then does as told."""
    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            await behaviour(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:  # which waits for its connections at the end
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}" if tls is None else f"https://localhost:{port}"
        for task in serving:
            if task is not None:
                task.cancel()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def _drips_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _drips_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    while True:
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _says_to_continue_forever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def _says_nothing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    "behaviour", [_drips_body, _drips_head, _says_to_continue_forever, _says_nothing]
)
async def test_every_wait_ends(behaviour: Behaviour) -> None:
    """A byte now and then does not prolong it."""
    async with (
        a_server(behaviour) as url,
        PylonClient(
            endpoint=url, api=IDENTITY, connect_timeout_seconds=0.2, read_timeout_seconds=0.3
        ) as client,
    ):
        started = time.monotonic()
        with pytest.raises(PylonUnreachable, match="in time"):
            await client.fetch_keys()
        assert time.monotonic() - started < 20


def _sending(data: bytes) -> Behaviour:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return behave


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff" * 100,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n{}",
    ],
)
async def test_what_is_no_http_is_unreachable(data: bytes) -> None:
    """Broken servers and other protocols give our error alone."""
    async with (
        a_server(_sending(data)) as url,
        PylonClient(endpoint=url, api=IDENTITY, read_timeout_seconds=1) as client,
    ):
        with pytest.raises(PylonUnreachable):
            await client.fetch_key(ALICE)


async def test_compressed_answer_is_not_unpacked() -> None:
    """A bomb never goes off."""
    bomb = HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + b"\x1f\x8b\x08" * 10
    async with a_server(_sending(bomb)) as url, PylonClient(endpoint=url, api=IDENTITY) as client:
        with pytest.raises(PylonAnswerInvalid, match="compressed"):
            await client.fetch_keys()


async def test_endless_body_is_cut() -> None:
    """What is kept has a bound."""

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()

    async with a_server(pour) as url, PylonClient(endpoint=url, api=IDENTITY) as client:
        with pytest.raises(PylonAnswerInvalid, match="longer"):
            await client.fetch_keys()


@pytest.mark.parametrize("chunk_bytes", [512, 4096, 1_000_000])
async def test_answer_of_the_largest_subnet_is_read_in_chunks(chunk_bytes: int) -> None:
    """Whatever a proxy between us does with it: 4,096 neurons, each as long as an honest one."""
    neuron = {
        "uid": 65535,
        "coldkey": ALICE.address,
        "hotkey": ALICE.address,
        "active": True,
        "axon_info": {"ip": "2001:db8:1234:1234:1234:1234:1234:1234", "port": 65535, "protocol": 4},
        **dict.fromkeys(
            ("stake", "rank", "emission", "incentive", "consensus", "trust", "validator_trust"),
            0.12345678901234567,
        ),
        "dividends": 0.12345678901234567,
        "last_update": 12345678,
        "validator_permit": True,
        "pruning_score": 0.12345678901234567,
        "stakes": dict.fromkeys(("alpha", "tao", "total"), 12345678.123456789),
    }
    names = [a_hotkey(str(number)).address for number in range(4096)]
    document = {"block": {"number": 1}, "neurons": dict.fromkeys(names, neuron)}
    body = json.dumps(document, separators=(",", ":")).encode()
    assert MAX_NEURONS_BYTES / 2 < len(body) < MAX_NEURONS_BYTES

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), chunk_bytes):
            part = body[start : start + chunk_bytes]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\nDigest: x\r\n\r\n")
        await writer.drain()

    async with (
        a_server(tell) as url,
        PylonClient(endpoint=url, api=IDENTITY, read_timeout_seconds=30) as client,
    ):
        neurons, rejected = await client.fetch_neurons()
    assert (len(neurons), rejected) == (4096, 0)


@pytest.mark.parametrize(
    ("head", "crumb", "error"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", PylonUnreachable),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", PylonUnreachable),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", PylonAnswerInvalid),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 9000 + b"\r\n \r\n", None),
        (HEAD, b"a:\r\n", PylonUnreachable),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a:\r\n", PylonUnreachable),
    ],
    ids=[
        *("interim responses", "early hints", "chunks of one byte", "large chunk extensions"),
        *("headers", "trailers"),
    ],
)
async def test_answer_in_crumbs_is_cut(
    head: bytes, crumb: bytes, error: type[RegistryError] | None
) -> None:
    """What is read beside the body has a bound too, long before the time is over."""
    poured = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal poured
        writer.write(head)
        crumbs = crumb * (8192 // len(crumb) + 1)
        while True:
            writer.write(crumbs)
            await writer.drain()
            poured += len(crumbs)
            await asyncio.sleep(0)

    async with a_server(pour) as url, PylonClient(endpoint=url, api=IDENTITY) as client:
        with pytest.raises(error or RegistryError) as caught:
            await client.fetch_key(ALICE)
    assert "in time" not in str(caught.value)
    # What lies in the buffers between us was not read.
    assert poured < 20_000_000


async def test_pylon_over_tls_is_asked_if_somebody_trusted_vouches_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For its very name, and what it says has the same bounds."""
    certificate, key = make_server_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    body = b'{"algorithm":1,"public_key":"%s"}' % KEY.hex().encode()
    answer = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with a_server(_sending(answer), tls=tls) as url:
        async with PylonClient(endpoint=url, api=IDENTITY) as client:
            with pytest.raises(PylonUnreachable, match="its certificate is refused"):
                await client.fetch_key(ALICE)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with PylonClient(endpoint=url, api=IDENTITY) as client:
            assert await client.fetch_key(ALICE) == KEY
        elsewhere = url.replace("localhost", "127.0.0.1")
        async with PylonClient(endpoint=elsewhere, api=IDENTITY) as client:
            with pytest.raises(PylonUnreachable, match="its certificate is refused"):
                await client.fetch_key(ALICE)
    interim = _sending(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000)
    async with (
        a_server(interim, tls=tls) as url,
        PylonClient(endpoint=url, api=IDENTITY) as client,
    ):
        with pytest.raises(PylonUnreachable, match="RemoteProtocolError"):
            await client.fetch_key(ALICE)


async def test_token_goes_to_the_configured_endpoint_alone() -> None:
    """A redirect is not followed, not even on the same host."""
    heads: list[bytes] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(b"")
        writer.write(
            b"HTTP/1.1 308 Gone there\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
        )
        await writer.drain()
        heads[-1] = await reader.read(100)

    async with (
        a_server(redirect) as url,
        PylonClient(endpoint=url, api=IDENTITY) as client,
    ):
        with pytest.raises(PylonFailed, match="308"):
            await client.fetch_keys()
    assert heads == [b""]


async def test_loggers_learn_no_secret(
    pylon: RunningPylon, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even at DEBUG, with the HTTP library's own logging."""
    for name in (None, "httpx", "httpcore", "asyncio", "anyio"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with PylonClient(endpoint=pylon.url, api=IDENTITY) as client:
        pair = await client.generate(algorithm=1)
        await client.fetch_keys()
    assert caplog.records
    assert TOKEN not in caplog.text
    assert pair.private_key.hex() not in caplog.text
