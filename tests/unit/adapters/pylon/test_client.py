from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx
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
from nexus_auth.adapters.pylon.client import (
    MAX_CERTIFICATES_BYTES,
    MAX_NEURONS_BYTES,
    MAX_SINGLE_BYTES,
    PylonClient,
)
from nexus_auth.domain.errors import (
    BulkNotOffered,
    ConfigurationError,
    IssuerUnavailable,
    IssuingError,
    IssuingRefused,
    RegistryError,
)
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.prospect import UNUSABLE, Comparison
from tests.builders import a_hotkey, a_key, public_bytes

ALICE = a_hotkey("alice")
KEY = public_bytes(a_key("alice"))
SEED = a_key("alice").private_bytes_raw()
TOKEN = "t0p-s3cret-token"
IDENTITY = IdentityApi(netuid=12, name="dev", token=TOKEN)
DOCUMENT = {"algorithm": 1, "public_key": KEY.hex()}
PAIR = {**DOCUMENT, "private_key": SEED.hex()}
NOT_FOUND = {"status_code": 404, "detail": "Certificate not found or error fetching."}
NO_IDENTITY = {"status_code": 404, "detail": "Identity 'dev' not found"}
NO_PATH = {"status_code": 404, "detail": "Not Found"}

Handler = Callable[[httpx.Request], httpx.Response]


def a_client(handler: Handler, *, api: PylonApi = IDENTITY) -> PylonClient:
    """A client whose network is a function."""
    return PylonClient(
        endpoint="http://pylon.test:8000/", api=api, transport=httpx.MockTransport(handler)
    )


def a_response(status: int, document: Any = None, **headers: str) -> httpx.Response:
    """An answer that still has to be read; bytes are sent as they are."""
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return httpx.Response(status, stream=httpx.ByteStream(content), headers=headers)


def answering(status: int, document: Any = None) -> Handler:
    """Answers everything alike."""
    return lambda _: a_response(status, document)


def raising(error: Exception) -> Handler:
    """Fails every request."""

    def handle(_: httpx.Request) -> httpx.Response:
        raise error

    return handle


async def test_request_carries_what_pylon_needs_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The token, how long we wait, no compression; nothing from the environment, no cookies."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return a_response(200, {}, **{"Set-Cookie": "a=b; Path=/"})

    async with a_client(handle) as client:
        await client.fetch_keys()
        await client.fetch_keys()
    for request in seen:
        assert request.url == (
            "http://pylon.test:8000/api/v1/identity/dev/subnet/12/block/latest/certificates"
        )
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert request.headers["x-pylon-timeout"] == "10"
        assert request.headers["accept-encoding"] == "identity"
        assert "cookie" not in request.headers


async def test_all_keys_are_fetched_in_one_request() -> None:
    """Good entries count, bad ones are counted."""
    async with a_client(answering(200, {str(ALICE): DOCUMENT, "self": DOCUMENT})) as client:
        found = await client.fetch_keys()
    assert (dict(found.keys), found.rejected) == ({ALICE: KEY}, 1)


async def test_large_answer_is_parsed_all_the_same() -> None:
    """Where it is parsed changes nothing, errors included."""
    many = {str(a_hotkey(str(number))): DOCUMENT for number in range(600)}
    async with a_client(answering(200, many)) as client:
        assert len((await client.fetch_keys()).keys) == 600
    async with a_client(answering(200, b"[" * 200_000)) as client:
        with pytest.raises(PylonAnswerInvalid):
            await client.fetch_keys()


@pytest.mark.parametrize(
    ("status", "document"), [(404, NO_PATH), (404, b"<h1>Not Found</h1>"), (405, NO_PATH)]
)
async def test_missing_bulk_endpoint_is_known_as_such(status: int, document: Any) -> None:
    """Older Pylons give keys one by one only."""
    async with a_client(answering(status, document)) as client:
        with pytest.raises(BulkNotOffered):
            await client.fetch_keys()


async def test_unknown_identity_is_no_missing_endpoint() -> None:
    """A wrong name must not be answered with one request for each hotkey."""
    async with a_client(answering(404, NO_IDENTITY)) as client:
        with pytest.raises(PylonFailed, match="NEXUS_PYLON_IDENTITY_NAME"):
            await client.fetch_keys()


async def test_absent_key_is_none() -> None:
    """Pylon's own 404 means "not registered"."""
    async with a_client(answering(404, NOT_FOUND)) as client:
        assert await client.fetch_key(ALICE) is None


@pytest.mark.parametrize(
    "document",
    [NO_IDENTITY, NO_PATH, b"<html>nginx</html>", b"", b"[]", {"detail": None}, {"detail": 1}],
)
async def test_404_of_somebody_else_is_an_error(document: Any) -> None:
    """A proxy's page, or a wrong path, is no statement about a hotkey."""
    async with a_client(answering(404, document)) as client:
        with pytest.raises(PylonFailed):
            await client.fetch_key(ALICE)


STATUSES = [
    (301, PylonFailed),
    (308, PylonFailed),
    (400, PylonFailed),
    (401, PylonRefused),
    (403, PylonRefused),
    (429, PylonFailed),
    (500, PylonFailed),
    (502, PylonFailed),
    (503, PylonFailed),
    (504, PylonFailed),
    (201, PylonFailed),
    (204, PylonFailed),
    (599, PylonFailed),
]


@pytest.mark.parametrize(("status", "error"), STATUSES)
@pytest.mark.parametrize("api", [IDENTITY, OpenAccessApi(netuid=1), FirstGenerationApi()])
async def test_every_other_status_is_a_typed_error_that_names_it(
    status: int, error: type[RegistryError], api: PylonApi
) -> None:
    """With the status in its message, whatever the body claims."""
    requested: list[httpx.URL] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requested.append(request.url)
        return a_response(status, DOCUMENT, Location="http://evil.test/")

    async with a_client(handle, api=api) as client:
        with pytest.raises(error, match=str(status)):
            await client.fetch_key(ALICE)
        with pytest.raises(error, match=str(status)):
            await client.fetch_keys()
    assert {url.host for url in requested} == {"pylon.test"}


def exception_classes(root: type[Exception]) -> Iterator[type[Exception]]:
    """A class and everything below it."""
    yield root
    for each in root.__subclasses__():
        yield from exception_classes(each)


HTTPX_ERRORS = sorted(
    {
        each
        for name in dir(httpx)
        if isinstance(root := getattr(httpx, name), type) and issubclass(root, Exception)
        for each in exception_classes(root)
    },
    key=lambda each: each.__name__,
)


def an_instance(error: type[Exception]) -> Exception:
    """An exception of that class, however it is built."""
    request = httpx.Request("GET", "http://pylon.test", headers={"Authorization": TOKEN})
    if issubclass(error, httpx.HTTPStatusError):
        return error("x", request=request, response=httpx.Response(500))
    if issubclass(error, httpx.StreamError) and error is not httpx.StreamError:
        return cast("Callable[[], Exception]", error)()  # its own message, no argument
    return error("boom" if issubclass(error, httpx.ConnectError) else f"boom {TOKEN}")


@pytest.mark.parametrize(
    "error",
    [
        *(*HTTPX_ERRORS, OSError, TimeoutError, ValueError, RuntimeError, RecursionError),
        *(AssertionError, AttributeError, KeyError, MemoryError, TypeError),
    ],
)
async def test_no_foreign_exception_gets_through(error: type[Exception]) -> None:
    """Each class of httpx's becomes ours, without the cause that could hold a secret."""
    async with a_client(raising(an_instance(error))) as client:
        with pytest.raises(PylonUnreachable) as caught:
            await client.fetch_keys()
        with pytest.raises(IssuerUnavailable):
            await client.generate(algorithm=1)
    assert error.__name__ in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_list_of_foreign_exceptions_is_not_empty() -> None:
    """The walk above walks."""
    assert {httpx.ReadTimeout, httpx.InvalidURL, httpx.StreamClosed} <= set(HTTPX_ERRORS)


async def test_closed_client_is_unreachable() -> None:
    """A refresh that is under way while the service ends meets our error."""
    client = a_client(answering(200, {}))
    await client.aclose()
    with pytest.raises(PylonUnreachable, match="closed"):
        await client.fetch_keys()


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "unknown"])
async def test_compressed_answer_is_refused(encoding: str) -> None:
    """The request did not accept it, and it could be a bomb."""

    def handle(_: httpx.Request) -> httpx.Response:
        return a_response(200, b"\x1f\x8b rubbish", **{"Content-Encoding": encoding})

    async with a_client(handle) as client:
        with pytest.raises(PylonAnswerInvalid, match="compressed"):
            await client.fetch_key(ALICE)


async def test_entry_that_is_told_twice_spoils_no_other() -> None:
    """The others of the answer count."""
    twice, good = json.dumps({"x": 1})[1:-1], json.dumps({ALICE.address: DOCUMENT})[1:-1]
    body = f"{{{twice},{good},{twice}}}".encode()
    async with a_client(answering(200, body)) as client:
        found = await client.fetch_keys()
    assert (dict(found.keys), found.rejected) == ({ALICE: KEY}, 1)


async def test_answer_without_end_is_refused() -> None:
    """Reading stops at the bound, not at the end."""
    sent = 0

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            nonlocal sent
            while True:
                sent += 10_000
                yield b" " * 10_000

    async with a_client(lambda _: httpx.Response(200, stream=Endless())) as client:
        with pytest.raises(PylonAnswerInvalid, match="longer"):
            await client.fetch_key(ALICE)
    assert sent < MAX_SINGLE_BYTES + 20_000


@pytest.mark.parametrize(
    "answer",
    [
        a_response(200, b"[" + b"1," * 400_000 + b"1]"),
        a_response(200, b'{"neurons":{"a":[' + b"1," * 400_000 + b"1]}"),
        a_response(200, b'{"neurons":[' + b"1," * 400_000 + b"1]}"),
        a_response(500, b"[" + b"1," * 400_000 + b"1]"),
        a_response(200, b" " * (MAX_NEURONS_BYTES + 1)),
    ],
)
async def test_answer_that_is_refused_is_forgotten_at_once(answer: httpx.Response) -> None:
    """A task that keeps the error keeps no megabytes until the garbage collector comes."""
    body = b"".join([part async for part in answer.aiter_raw()])

    async def fetch(client: PylonClient) -> None:
        task = asyncio.create_task(client.fetch_neurons())
        with contextlib.suppress(RegistryError):
            await task

    async with a_client(answering(answer.status_code, body)) as client:
        await fetch(client)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(5):
                await fetch(client)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert kept < 500_000


@pytest.mark.parametrize("document", [[], None, "x", b"{", b"", {"algorithm": True}])
async def test_nonsense_with_status_200_is_a_typed_error(document: Any) -> None:
    """The shape is checked, and the cause of the refusal is kept."""
    async with a_client(answering(200, document)) as client:
        with pytest.raises(PylonAnswerInvalid):
            await client.fetch_key(ALICE)


async def test_neurons_come_from_the_cache_where_there_is_one() -> None:
    """The recent path first; the latest one where the first is missing."""
    document = {
        "block": {},
        "neurons": {
            str(ALICE): {
                "uid": 1,
                "active": True,
                "validator_permit": True,
                "stakes": {"alpha": 1, "tao": 1, "total": 2},
            }
        },
    }

    def handle(request: httpx.Request) -> httpx.Response:
        if "recent" in request.url.path:
            return a_response(404, NO_PATH)
        return a_response(200, document)

    async with a_client(handle) as client:
        neurons, rejected = await client.fetch_neurons()
    assert (list(neurons), rejected) == ([ALICE], 0)
    async with a_client(handle, api=FirstGenerationApi()) as client:
        assert list((await client.fetch_neurons())[0]) == [ALICE]


@pytest.mark.parametrize(
    ("api", "hint"),
    [
        (FirstGenerationApi(), "unless .* NEXUS_PYLON_NETUID set"),
        (OpenAccessApi(netuid=1), "if .* NEXUS_PYLON_NETUID unset"),
        (IDENTITY, "if .* NEXUS_PYLON_NETUID unset"),
    ],
)
async def test_a_pylon_of_the_other_generation_is_hinted_at(api: PylonApi, hint: str) -> None:
    """Both answer 404 to the other's paths, and the netuid decides which are used."""
    async with a_client(answering(404, NO_PATH), api=api) as client:
        with pytest.raises(PylonFailed, match=hint):
            await client.fetch_key(ALICE)


async def test_a_pylon_of_the_first_generation_may_be_too_old_for_neurons() -> None:
    """Certificates came a month before them, and there is no other place to ask."""
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return a_response(404, NO_PATH)

    async with a_client(handle, api=FirstGenerationApi()) as client:
        with pytest.raises(PylonFailed, match="no neurons"):
            await client.fetch_neurons()
    assert seen == ["/api/v1/neurons/latest"]


@pytest.mark.parametrize(
    ("recent", "latest", "expected", "requests"),
    [
        ((200, {"neurons": {}}), (500, None), None, 1),
        ((404, NO_PATH), (404, NO_PATH), "offers no neurons", 2),
        ((405, None), (200, {"neurons": {}}), None, 2),
        # A cache that is not filled yet.
        ((503, None), (200, {"neurons": {}}), None, 2),
        ((502, None), (502, None), "answered 502", 2),
        # Nothing that asking elsewhere would mend.
        ((403, None), (200, {"neurons": {}}), "refuses the token", 1),
        ((404, {"detail": "Identity 'x' not found"}), (200, {"neurons": {}}), "identity", 1),
        ((500, None), (200, {"neurons": {}}), "answered 500", 1),
        ((200, []), (200, {"neurons": {}}), "not the JSON", 1),
    ],
)
async def test_neurons_are_asked_for_elsewhere_only_where_that_can_help(
    recent: tuple[int, Any], latest: tuple[int, Any], expected: str | None, requests: int
) -> None:
    """Two requests at most, and the cause of a failure is kept."""
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return a_response(*(recent if "recent" in request.url.path else latest))

    async with a_client(handle) as client:
        if expected is None:
            assert await client.fetch_neurons() == ({}, 0)
        else:
            with pytest.raises(RegistryError, match=expected):
                await client.fetch_neurons()
    assert len(seen) == requests


async def test_pair_is_asked_for_and_checked() -> None:
    """POST with the algorithm, on the identity's own path, with all the time publishing takes."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return a_response(201, PAIR)

    async with a_client(handle) as client:
        pair = await client.generate(algorithm=1)
    assert (pair.public_key, pair.private_key) == (KEY, SEED)
    [request] = seen
    assert request.method == "POST"
    assert request.url.path == "/api/v1/identity/dev/subnet/12/certificates/self"
    assert json.loads(request.content) == {"algorithm": 1}
    assert request.headers["x-pylon-timeout"] == "300"


async def test_pair_that_came_with_status_200_is_kept() -> None:
    """The key on chain is replaced already; there is no second copy of its private half."""
    async with a_client(answering(200, PAIR)) as client:
        assert (await client.generate(algorithm=1)).private_key == SEED


ISSUING_FAILURES: list[tuple[Handler, type[IssuingError]]] = [
    (answering(400, {"detail": "Validation failed for POST …"}), IssuingRefused),
    (answering(401, {}), IssuingRefused),
    (answering(403, {}), IssuingRefused),
    (answering(404, NO_IDENTITY), IssuingRefused),
    (answering(308, {}), IssuingRefused),
    (answering(500, {"detail": "Internal Server Error"}), IssuerUnavailable),
    (answering(502, {"detail": "Could not generate certificate pair."}), IssuingRefused),
    (answering(502, b"<html>Bad Gateway</html>"), IssuerUnavailable),
    (answering(503, b""), IssuerUnavailable),
    (answering(504, {"detail": "Request timed out"}), IssuerUnavailable),
    (answering(201, DOCUMENT), IssuingRefused),
    (answering(201, {**PAIR, "private_key": "00" * 32}), IssuingRefused),
    (answering(201, b"{"), IssuingRefused),
    (raising(httpx.ReadError("gone")), IssuerUnavailable),
]


@pytest.mark.parametrize(("handler", "error"), ISSUING_FAILURES)
async def test_pair_that_is_none_is_a_typed_error(
    handler: Handler, error: type[IssuingError]
) -> None:
    """Refused where the answer was no, unavailable where there was no answer."""
    async with a_client(handler) as client:
        with pytest.raises(error) as caught:
            await client.generate(algorithm=1)
    assert caught.value.__context__ is None or not isinstance(caught.value, IssuerUnavailable)


@pytest.mark.parametrize(
    ("handler", "may_have_changed"),
    [
        (answering(400, {}), False),
        (answering(403, {}), False),
        (answering(308, {}), False),
        (answering(502, {"detail": "Could not generate certificate pair."}), False),
        (answering(202, PAIR), True),
        (answering(201, DOCUMENT), True),
        (answering(201, {**PAIR, "private_key": "00" * 32}), True),
    ],
)
async def test_nonsense_is_told_from_no(handler: Handler, *, may_have_changed: bool) -> None:
    """After an invalid answer the key on chain may be another one; after a no it is the old one."""
    async with a_client(handler) as client:
        with pytest.raises(IssuingRefused) as caught:
            await client.generate(algorithm=1)
    assert caught.value.key_may_have_changed is may_have_changed


async def test_only_an_identity_can_issue() -> None:
    """Open access is refused before any request; `self` is no hotkey there."""
    async with a_client(raising(AssertionError()), api=OpenAccessApi(netuid=1)) as client:
        with pytest.raises(IssuingRefused, match="identity"):
            await client.generate(algorithm=1)
        with pytest.raises(ConfigurationError, match="NEXUS_PYLON_IDENTITY_NAME"):
            await client.compare(ALICE)


async def test_first_generation_issues_for_its_own_wallet() -> None:
    """Without identity, netuid and token."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return a_response(201, PAIR)

    async with a_client(handle, api=FirstGenerationApi()) as client:
        assert (await client.generate(algorithm=1)).private_key == SEED
    [request] = seen
    assert (request.method, request.url.path) == ("POST", "/api/v1/certificates/self")
    assert json.loads(request.content) == {"algorithm": 1}
    assert "authorization" not in request.headers


@pytest.mark.parametrize(
    ("handler", "is_of_chain"),
    [
        (answering(502, {"detail": "Could not generate certificate pair."}), True),
        (answering(500, {"detail": "Internal Server Error"}), True),
        (answering(502, b"<html>Bad Gateway</html>"), True),
        (answering(503, b""), False),
        (answering(504, {"detail": "Request timed out"}), False),
        (answering(403, {}), False),
        (answering(201, DOCUMENT), False),
        (raising(httpx.ReadError("gone")), False),
    ],
)
async def test_answer_that_may_be_the_chains_refusal_is_told(
    handler: Handler, *, is_of_chain: bool
) -> None:
    """Pylon says 502 or 500 where the chain takes no key."""
    async with a_client(handler) as client:
        with pytest.raises(IssuingError) as caught:
            await client.generate(algorithm=1)
    assert caught.value.chain_may_have_refused is is_of_chain


def comparing(own: Any, named: Any, *, status: int = 200) -> Handler:
    """Answers for the identity and for alice; None is a certificate that is not there."""

    def handle(request: httpx.Request) -> httpx.Response:
        document = own if request.url.path.endswith("/self") else named
        return a_response(404, NOT_FOUND) if document is None else a_response(status, document)

    return handle


STRIPPED = {**DOCUMENT, "public_key": KEY.hex()[:-1]}


@pytest.mark.parametrize("api", [IDENTITY, FirstGenerationApi()])
@pytest.mark.parametrize(
    ("own", "named", "keys"),
    [
        (DOCUMENT, DOCUMENT, (KEY, KEY)),
        (DOCUMENT, None, (KEY, None)),
        (None, DOCUMENT, (None, KEY)),
        (None, None, (None, None)),
        (STRIPPED, STRIPPED, (UNUSABLE, UNUSABLE)),
        (b"<html>", None, (UNUSABLE, None)),
    ],
)
async def test_identity_is_compared_with_a_hotkey(
    api: PylonApi, own: Any, named: Any, keys: tuple[bytes | None, bytes | None]
) -> None:
    """A key that cannot be used is there all the same, and no reason to keep it."""
    async with a_client(comparing(own, named), api=api) as client:
        assert await client.compare(ALICE) == Comparison(own=keys[0], named=keys[1])


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (answering(403, {}), IssuingRefused),
        (answering(404, NO_IDENTITY), IssuingRefused),
        (answering(404, NO_PATH), IssuingRefused),
        (answering(308, {}), IssuingRefused),
        (answering(500, {}), IssuerUnavailable),
        (answering(502, {}), IssuerUnavailable),
        (raising(httpx.ConnectError("away")), IssuerUnavailable),
    ],
)
async def test_comparison_that_is_none_is_a_typed_error(
    handler: Handler, error: type[IssuingError]
) -> None:
    """What is not known must not lead to a request that replaces a key."""
    async with a_client(handler) as client:
        with pytest.raises(error):
            await client.compare(ALICE)


@pytest.mark.parametrize("status", [404, 405, 401, 403, 308])
@pytest.mark.parametrize("document", [NO_PATH, b"<h1>no</h1>", {}])
async def test_newer_pylon_names_what_is_missing(status: int, document: Any) -> None:
    """Asked as one of the first generation, before anything is replaced."""
    async with a_client(answering(status, document), api=FirstGenerationApi()) as client:
        with pytest.raises(ConfigurationError) as caught:
            await client.compare(ALICE)
    text = str(caught.value)
    assert "this Pylon is newer" in text
    assert (
        "set NEXUS_PYLON_NETUID, NEXUS_PYLON_IDENTITY_NAME and NEXUS_PYLON_IDENTITY_TOKEN" in text
    )
    assert ("NEXUS_PYLON_OPEN_ACCESS_TOKEN" in text) is (status in {401, 403})


async def test_first_generation_without_a_key_is_not_taken_for_a_newer_one() -> None:
    """Its 404 has the detail alone."""
    absent = {"detail": NOT_FOUND["detail"]}
    async with a_client(answering(404, absent), api=FirstGenerationApi()) as client:
        assert await client.compare(ALICE) == Comparison(own=None, named=None)


@pytest.mark.parametrize(
    ("api", "path"),
    [
        (IDENTITY, "/api/v1/identity/dev/subnet/12/block/latest/neurons"),
        (OpenAccessApi(netuid=12), "/api/v1/subnet/12/block/latest/neurons"),
        (FirstGenerationApi(), "/api/v1/neurons/latest"),
    ],
)
async def test_place_is_read_from_the_latest_neurons(api: PylonApi, path: str) -> None:
    """Recent ones may be half an hour old; Pylon does not say when the axon was served."""
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return a_response(
            200, {"neurons": {str(ALICE): {"axon_info": {"ip": "192.0.2.7", "port": 8091}}}}
        )

    async with a_client(handle, api=api) as client:
        assert await client.fetch_place(ALICE) == Place(ip="192.0.2.7", port=8091)
        assert await client.fetch_place(a_hotkey("bob")) is None
    assert seen == [path, path]


async def test_place_is_unknown_where_there_are_no_neurons() -> None:
    """The first generation before November 2025."""
    async with a_client(answering(404, NO_PATH), api=FirstGenerationApi()) as client:
        with pytest.raises(PylonFailed):
            await client.fetch_place(ALICE)


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (answering(200, {}), IssuingRefused),
        (answering(403, {}), IssuingRefused),
        (answering(500, {}), IssuerUnavailable),
        (answering(503, {}), IssuerUnavailable),
        (raising(httpx.ConnectTimeout("slow")), IssuerUnavailable),
    ],
)
async def test_published_key_fails_as_the_issuing_port_says(
    handler: Handler, error: type[IssuingError]
) -> None:
    """The same client serves both ports, each with its own errors."""
    async with a_client(handler) as client:
        with pytest.raises(error):
            await client.published_key(ALICE)


async def test_published_key_is_read_back() -> None:
    """The key, or None."""
    async with a_client(answering(200, DOCUMENT)) as client:
        assert await client.published_key(ALICE) == KEY
    async with a_client(answering(404, NOT_FOUND)) as client:
        assert await client.published_key(ALICE) is None


def test_credentials_in_the_url_are_refused() -> None:
    """They would show in every message."""
    with pytest.raises(ValueError, match="credentials"):
        PylonClient(endpoint=f"http://me:{TOKEN}@pylon.test", api=FirstGenerationApi())


def shown_by(error: BaseException) -> str:
    """Everything that a thorough crash report shows: messages, causes, frames and their locals."""
    seen = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    for each in (error.__cause__, error.__context__):
        if each is not None:
            seen += shown_by(each)
    return seen


async def test_secrets_show_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Not in repr, messages, tracebacks with locals, nor in what any logger says at DEBUG."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    shown = []
    broken = {**PAIR, "public_key": public_bytes(a_key("bob")).hex()}
    for handler in (
        answering(201, PAIR),
        answering(201, broken),
        answering(201, {**PAIR, "algorithm": 2}),
        answering(500, PAIR),
        raising(httpx.LocalProtocolError(f"Illegal header value b'Bearer {TOKEN}'")),
    ):
        async with a_client(handler) as client:
            shown += [repr(client), str(client)]
            try:
                shown += [repr(await client.generate(algorithm=1))]
            except IssuingError as exc:
                shown += [str(exc), repr(exc)]
                # Our own frames; a test's local variables hold the secrets on purpose.
                exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
                shown += [shown_by(exc)]
    everything = "".join(shown) + caplog.text
    assert TOKEN not in everything
    assert SEED.hex() not in everything
    assert repr(SEED) not in everything


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (answering(200, {}), 200),
        (answering(503), 503),
        (answering(200, b"x" * (MAX_CERTIFICATES_BYTES + 1)), None),
        (raising(httpx.ConnectError("refused")), None),
    ],
)
async def test_every_request_is_observed(handler: Handler, expected: int | None) -> None:
    """With its status, or with none where no whole answer came."""
    seen: list[tuple[int | None, float]] = []
    client = PylonClient(
        endpoint="http://pylon.test:8000",
        api=IDENTITY,
        transport=httpx.MockTransport(handler),
        observe=lambda status, seconds: seen.append((status, seconds)),
    )
    async with client:
        with contextlib.suppress(RegistryError):
            await client.fetch_keys()
    ((status, seconds),) = seen
    assert status == expected
    assert 0 <= seconds < 60


def knowing(*tokens: str) -> Handler:
    """Answers requests with one of these tokens."""
    known = {f"Bearer {token}" for token in tokens}
    return lambda asked: a_response(
        *((200, {}) if asked.headers["authorization"] in known else (401, {"detail": "no"}))
    )


def a_rereading_client(handler: Handler, reread: Callable[[str], str | None]) -> PylonClient:
    """A client whose token comes from a file."""
    return PylonClient(
        endpoint="http://pylon.test:8000/",
        api=IDENTITY,
        transport=httpx.MockTransport(handler),
        reread_token=reread,
    )


async def test_refused_token_is_read_again_and_the_request_repeated() -> None:
    """Many requests at once read it once; what is asked later has the new one at once."""
    asked: list[str] = []

    def reread(setting: str) -> str:
        asked.append(setting)
        return "another"

    async with a_rereading_client(knowing("another"), reread) as client:
        await asyncio.gather(*(client.fetch_keys() for _ in range(20)))
        await client.fetch_keys()
        assert TOKEN not in repr(client)
        assert "another" not in repr(client)
    assert asked == ["NEXUS_PYLON_IDENTITY_TOKEN"]


@pytest.mark.parametrize("found", [TOKEN, None, "wrong-as-well"])
async def test_token_that_is_refused_again_is_an_error(found: str | None) -> None:
    """A request is repeated once at most, and not with the token that was refused."""
    sent: list[str] = []

    def refuse(asked: httpx.Request) -> httpx.Response:
        sent.append(asked.headers["authorization"])
        return a_response(403, {"detail": "no"})

    async with a_rereading_client(refuse, lambda _: found) as client:
        with pytest.raises(PylonRefused):
            await client.fetch_keys()
    assert sent == [
        f"Bearer {TOKEN}",
        *(["Bearer wrong-as-well"] if found not in {TOKEN, None} else []),
    ]


async def test_file_system_that_hangs_costs_one_thread_and_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The token is still to come: requests fail as before, and succeed once it is there."""
    monkeypatch.setattr("nexus_auth.adapters.pylon.client.REREAD_SECONDS", 0.01)
    goes_on, readers = threading.Event(), []

    def reread(_: str) -> str:
        readers.append(threading.get_ident())
        goes_on.wait(30)
        return "another"

    async with a_rereading_client(knowing("another"), reread) as client:
        for _ in range(5):
            with pytest.raises(PylonRefused):
                await client.fetch_keys()
        assert len(readers) == 1
        goes_on.set()
        monkeypatch.setattr("nexus_auth.adapters.pylon.client.REREAD_SECONDS", 30)
        await client.fetch_keys()
