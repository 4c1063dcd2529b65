"""The development Pylon over HTTP: what Pylon 2.0 and later say of certificates and neurons."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import quote

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nexus_auth.adapters.devnet.records import DEFAULT_NETUID, NeuronRecord
from nexus_auth.adapters.devnet.store import DevnetStore, DevnetStoreUnusable
from nexus_auth.domain.errors import InvalidHotkey
from nexus_auth.domain.hotkey import Hotkey

_logger = structlog.get_logger(__name__)

ED25519_ALGORITHM: Final = 1
"""Pylon's number for the one algorithm that it knows."""

DEFAULT_TIMEOUT_SECONDS: Final = 60.0
"""How long a request may take when the client does not say; Pylon's own default."""
MAX_TIMEOUT_SECONDS: Final = 300.0
"""What a longer wish in X-Pylon-Timeout is cut down to; Pylon's own cap."""
MAX_BODY_BYTES: Final = 64 * 1024
"""Far more than the one small object that is ever posted here."""

_BLOCK_SECONDS: Final = 12
"""A block of the chain; here it is the clock alone that makes them."""
_UNKNOWN_SCORES: Final = (
    *("rank", "emission", "incentive", "consensus", "trust", "validator_trust", "dividends"),
)
_SLASHES: Final = re.compile(r"/{2,}")
_NETUID: Final = re.compile(r"[0-9]{1,9}")
_NETUID_IN_PATH: Final = re.compile(r"(/subnet/)[0-9]+")


RequestLog = Callable[[Scope, int, float], object]
"""Called with every request as it came, the answer's status, and how many seconds it took."""


def build_devnet_app(
    store: DevnetStore, *, publish_seconds: float = 0.0, request_log: RequestLog | None = None
) -> Starlette:
    """Builds the development Pylon. It checks nothing on any chain: never for production.

    The first-generation API needs no token; it speaks for the identity that was added first.

    Args:
        store: What it knows; the caller closes it.
        publish_seconds: How long `generate` pretends to wait for the chain. The new key is in
            force from the beginning of that time: a client that gives up waiting has lost the
            old key.
        request_log: Where requests are logged; None logs none.
    """
    app = Starlette(
        routes=_Pylon(store, publish_seconds=publish_seconds).routes(),
        middleware=[Middleware(_Edge, log=request_log)],
        exception_handlers=dict.fromkeys((HTTPException, DevnetStoreUnusable, Exception), _render),
    )
    # Starlette would answer 307 to a slash at the end. It is gone before the router looks.
    app.router.redirect_slashes = False
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A request; for which subnet, and which wallet, it is answered, and in which form."""

    request: Request
    netuid: int
    own_hotkey: Hotkey | None = None
    is_first_generation: bool = False


_Answer = Callable[[_Call], dict[str, Any] | Response | Awaitable[Response]]
"""A document alone is answered with 200."""
_Row = tuple[str, str, _Answer]
"""A method, the end of a path, and what answers there."""


class _Pylon:
    """What is answered on each path; the table in `routes` says which method answers where."""

    def __init__(self, store: DevnetStore, *, publish_seconds: float) -> None:
        self._store = store
        self._publish_seconds = publish_seconds

    def routes(self) -> list[Route]:
        """The three APIs: where each begins, how it knows its caller, and what it answers."""
        latest: list[_Row] = [
            ("GET", "/block/latest/certificates", self._certificates),
            ("GET", "/block/latest/certificates/{hotkey}", self._certificate),
            ("GET", "/block/latest/neurons", self._neurons),
            ("GET", "/block/recent/neurons", self._neurons),
            ("GET", "/block/latest/validators", self._validators),
        ]
        publish: _Row = ("POST", "/certificates/self", self._generate)
        first: list[_Row] = [
            ("GET", "/identities", self._identities),
            ("GET", "/certificates", self._certificates),
            publish,
            ("GET", "/certificates/{hotkey}", self._certificate),
            ("GET", "/neurons/latest", self._neurons),
        ]
        identity = "/api/v1/identity/{identity_name}/subnet/{netuid}"
        apis = [
            (identity, self._identity_call, [*latest, publish]),
            ("/api/v1/subnet/{netuid}", self._open_access_call, latest),
            ("/api/v1", self._first_generation_call, first),
        ]
        routes = [
            Route(prefix + path, _endpoint(find_call, answer), methods=[method])
            for prefix, find_call, table in apis
            for method, path, answer in table
        ]
        for route in routes:
            # Starlette adds HEAD to GET, which Pylon does not take.
            (route.methods or set()).discard("HEAD")
        return routes

    # How each API knows its caller. Each runs in a thread, since the store blocks.

    def _identity_call(self, request: Request) -> _Call:
        # Pylon looks in this order: path, header, identity, token, netuid.
        netuid = _netuid_in(request)
        token = _bearer_token(request)
        name = request.path_params["identity_name"]
        identity = self._store.identity(name)
        if identity is None:
            raise HTTPException(404, f"Identity '{name}' not found")
        if not self._store.is_identity_token(name, token):
            raise HTTPException(403, "Invalid authorization token")
        if netuid != identity.netuid:
            # The same path with the identity's own netuid, as Pylon 2.0 redirects with a 308.
            # Not the path as it was sent: `//api/…` there would name another host.
            own = rf"\g<1>{identity.netuid}"
            location = _NETUID_IN_PATH.sub(own, request.scope["path"], count=1)
            raise HTTPException(308, headers={"Location": quote(location)})
        return _Call(request=request, netuid=netuid, own_hotkey=identity.hotkey)

    def _open_access_call(self, request: Request) -> _Call:
        netuid = _netuid_in(request)
        digest = self._store.open_access_token()
        if digest is not None and not digest.matches(_bearer_token(request)):
            raise HTTPException(403, "Invalid authorization token")
        return _Call(request=request, netuid=netuid)

    def _first_generation_call(self, request: Request) -> _Call:
        identities = self._store.identities()
        subnets = [each.netuid for each in identities] or self._store.subnets()
        return _Call(
            request=request,
            netuid=subnets[0] if subnets else DEFAULT_NETUID,  # without subnets every one is empty
            own_hotkey=identities[0].hotkey if identities else None,
            is_first_generation=True,
        )

    # The answers. All but the last one run in a thread too.

    def _identities(self, _call: _Call) -> dict[str, Any]:
        return {"identities": {each.name: each.netuid for each in self._store.identities()}}

    def _certificates(self, call: _Call) -> dict[str, Any]:
        keys = self._store.certificates(netuid=call.netuid)
        return {str(hotkey): _certificate_document(key) for hotkey, key in keys.items()}

    def _certificate(self, call: _Call) -> dict[str, Any] | Response:
        hotkey = _hotkey_in(call)
        key = None if hotkey is None else self._store.certificate(hotkey, netuid=call.netuid)
        if key is None:
            return _no_certificate(call, 404, "Certificate not found or error fetching.")
        return _certificate_document(key)

    def _neurons(self, call: _Call) -> dict[str, Any]:
        neurons = self._store.neurons(netuid=call.netuid)
        documents = {str(each.hotkey): _neuron_document(each) for each in neurons}
        return {"block": _latest_block(), "neurons": documents}

    def _validators(self, call: _Call) -> dict[str, Any]:
        neurons = self._store.neurons(netuid=call.netuid)
        permitted = [each for each in neurons if each.validator_permit]
        permitted.sort(key=lambda each: each.total, reverse=True)
        return {"block": _latest_block(), "validators": [*map(_neuron_document, permitted)]}

    async def _generate(self, call: _Call) -> Response:
        problem = await _problem_of_body(call.request)
        if problem is not None:
            detail = f"Validation failed for {call.request.method} {call.request.url.path}"
            return _refusal(400, detail, extra=[problem])
        key = Ed25519PrivateKey.generate()
        public_key = key.public_key().public_bytes_raw()
        hotkey, publish = call.own_hotkey, self._store.publish_certificate
        published = hotkey is not None and await run_in_threadpool(
            publish, hotkey, public_key, netuid=call.netuid
        )
        await asyncio.sleep(self._publish_seconds)
        if not published:
            return _no_certificate(call, 502, "Could not generate certificate pair.")
        document = _certificate_document(public_key)
        document["private_key"] = key.private_bytes_raw().hex()
        return JSONResponse(document, status_code=201)


def _endpoint(
    find_call: Callable[[Request], _Call], answer: _Answer
) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        answered = await run_in_threadpool(lambda: answer(find_call(request)))
        if isinstance(answered, dict):
            return JSONResponse(answered)
        return answered if isinstance(answered, Response) else await answered

    return respond


class _Edge:
    """What Pylon does with every request before it looks at its path; and the request log.

    A request that takes longer than X-Pylon-Timeout allows is given up. `//` counts as `/`, and a
    slash at the end as none.
    """

    def __init__(self, app: ASGIApp, *, log: RequestLog | None) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status: int | None = None

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
        app, seconds = self._app, DEFAULT_TIMEOUT_SECONDS
        try:
            seconds = _parse_timeout(Headers(scope=scope).get("x-pylon-timeout"))
        except ValueError as exc:
            app = _refusal(400, str(exc))
        try:
            async with asyncio.timeout(seconds):
                await app({**scope, "path": path}, receive, noted_send)
        except TimeoutError:
            if status is not None:
                raise
            await _refusal(504, "Request timed out")(scope, receive, noted_send)
        finally:
            if self._log is not None:
                # 500 is what an exception becomes.
                self._log(scope, status or 500, time.monotonic() - started)


def _parse_timeout(text: str | None) -> float:
    """Reads X-Pylon-Timeout, in seconds.

    Raises:
        ValueError: With the detail of a 400, when it is no number above 0.
    """
    if text is None:
        return DEFAULT_TIMEOUT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError(f"Invalid X-Pylon-Timeout header value: {text}")
    if seconds <= 0:
        raise ValueError(f"X-Pylon-Timeout header value must be positive, got {seconds}")
    return min(seconds, MAX_TIMEOUT_SECONDS)


def _bearer_token(request: Request) -> str:
    header = request.headers.get("authorization")
    if not header:
        raise HTTPException(401, "Authorization header is required")
    parts = header.split()
    if len(parts) != 2 or parts[0].lower() != "bearer":  # noqa: PLR2004 - the scheme and the token
        raise HTTPException(401, "Invalid Authorization header format. Expected: Bearer <token>")
    return parts[1]


def _netuid_in(request: Request) -> int:
    """The netuid in a path; a path with anything else there is none of Pylon's."""
    text = request.path_params["netuid"]
    if _NETUID.fullmatch(text) is None:
        raise HTTPException(404, "Not Found")
    return int(text)


def _hotkey_in(call: _Call) -> Hotkey | None:
    """The hotkey in a path; `self` is the identity's own, where there is an identity."""
    text = call.request.path_params["hotkey"]
    if text == "self":
        return call.own_hotkey
    try:
        return Hotkey.parse(text)
    except InvalidHotkey:
        return None


async def _problem_of_body(request: Request) -> dict[str, str] | None:
    """What is wrong with the body of a request for a key pair, in Pylon's own form."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, "Request Entity Too Large")
    if not body:
        return {"message": "'data'", "key": "data", "source": "body"}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "JSON is malformed") from None
    if not isinstance(document, dict):
        return {"message": "Input should be a valid dictionary"}
    if document.get("algorithm", ED25519_ALGORITHM) != ED25519_ALGORITHM:
        return {
            "message": "Value error, Currently, only algorithm equals 1 is supported which is "
            "EdDSA using Ed25519 curve",
            "key": "algorithm",
        }
    return None


def _certificate_document(public_key: bytes) -> dict[str, Any]:
    return {"algorithm": ED25519_ALGORITHM, "public_key": public_key.hex()}


def _latest_block() -> dict[str, Any]:
    number = int(time.time()) // _BLOCK_SECONDS
    return {"number": number, "hash": f"0x{hashlib.sha256(b'%d' % number).hexdigest()}"}


def _neuron_document(neuron: NeuronRecord) -> dict[str, Any]:
    """One neuron in full; what cannot be set here is zero."""
    return {
        "uid": neuron.uid,
        "coldkey": str(neuron.coldkey),
        "hotkey": str(neuron.hotkey),
        "active": neuron.active,
        "axon_info": asdict(neuron.axon),
        "stake": neuron.total,
        **dict.fromkeys(_UNKNOWN_SCORES, 0.0),
        "last_update": 0,
        "validator_permit": neuron.validator_permit,
        "pruning_score": 0,
        "stakes": {"alpha": neuron.alpha, "tao": neuron.tao, "total": neuron.total},
    }


def _no_certificate(call: _Call, status: int, detail: str) -> Response:
    """Says that there is no certificate; the first generation says `detail` alone."""
    if call.is_first_generation:
        return JSONResponse({"detail": detail}, status_code=status)
    return _refusal(status, detail)


def _refusal(status: int, detail: str, **more: Any) -> JSONResponse:
    document = {"status_code": status, "detail": detail, **more}
    return JSONResponse(document, status_code=status)


async def _render(request: Request, exc: Exception) -> Response:  # noqa: ARG001
    """Turns what was raised into an answer of Pylon's form; no text of an exception is shown."""
    match exc:
        case HTTPException(headers={"Location": _}):
            # The one answer of Pylon's that has no body.
            return Response(
                status_code=exc.status_code, headers=exc.headers, media_type="application/json"
            )
        case HTTPException():
            answer = _refusal(exc.status_code, exc.detail)
            answer.headers.update(exc.headers or {})
            return answer
        case DevnetStoreUnusable():
            # The store is this Pylon's chain: when it cannot be read, the gateway is bad.
            _logger.warning("pylon_store_failed", error=str(exc))
            return _refusal(502, "Bad Gateway")
        case _:
            return _refusal(500, "Internal Server Error")
