"""The development Pylon over HTTP: what Pylon 2.0 and later say of certificates and neurons."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nexus_auth.adapters.devnet.records import IdentityRecord, NeuronRecord
from nexus_auth.adapters.devnet.store import EmbeddedPylonStore, PylonStoreUnusable
from nexus_auth.adapters.devnet.tokens import TokenDigest
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
_SLASHES: Final = re.compile(r"/{2,}")
_NETUID: Final = re.compile(r"[0-9]{1,9}")
_NETUID_IN_PATH: Final = re.compile(r"(/subnet/)[0-9]+")

_V1: Final = "/api/v1"
_IDENTITY_API: Final = _V1 + "/identity/{identity_name}/subnet/{netuid}"
_OPEN_ACCESS_API: Final = _V1 + "/subnet/{netuid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request as it was answered; never a token.

    Attributes:
        method: As sent.
        path: The decoded path.
        status: Of the answer.
        authorized: Whether it carried an Authorization header, right or wrong.
        timeout: X-Pylon-Timeout as sent.
        seconds: How long the answer took.
    """

    method: str
    path: str
    status: int
    authorized: bool
    timeout: str | None
    seconds: float


RequestLog = Callable[[RequestRecord], object]
"""Told of every request once it is answered; a list's `append` will do."""


def build_embedded_pylon_app(
    store: EmbeddedPylonStore,
    *,
    open_access_token: str | None = None,
    publish_seconds: float = 0.0,
    request_log: RequestLog | None = None,
) -> Starlette:
    """Builds the development Pylon. It checks nothing on any chain: never for production.

    The first-generation API asks for no token; it speaks for the identity that was added first.

    Args:
        store: What it knows; the caller closes it.
        open_access_token: Token of the open-access API, in place of the one in the store. Where
            neither has one, that API is open to everybody.
        publish_seconds: How long `generate` pretends to wait for the chain. The new key is in
            force from the beginning of that time: who gives up waiting has lost the old key.
        request_log: Told of every request.
    """
    digest = None if open_access_token is None else TokenDigest.of(open_access_token)
    pylon = _Pylon(store, open_access_digest=digest, publish_seconds=publish_seconds)
    app = Starlette(
        routes=pylon.routes(),
        middleware=[
            Middleware(_RequestLogging, log=request_log),
            Middleware(_TimeLimit),
            Middleware(_NeedlessSlashes),
        ],
        exception_handlers={
            HTTPException: _render_refusal,
            PylonStoreUnusable: _render_store_failure,
            Exception: _render_failure,
        },
    )
    # Starlette would answer 307 to a slash at the end. It is gone before the router looks.
    app.router.redirect_slashes = False
    return app


class _Pylon:
    """The endpoints; every one is documented by its path in `routes`."""

    def __init__(
        self,
        store: EmbeddedPylonStore,
        *,
        open_access_digest: TokenDigest | None,
        publish_seconds: float,
    ) -> None:
        self._store = store
        self._open_access_digest = open_access_digest
        self._publish_seconds = publish_seconds

    def routes(self) -> list[BaseRoute]:
        routes: list[BaseRoute] = [_route(f"{_V1}/identities", self._identities)]
        for prefix, caller in (
            (_IDENTITY_API, self._identity_caller),
            (_OPEN_ACCESS_API, self._open_access_caller),
        ):
            for path, answer in (
                ("/block/latest/certificates", self._certificates),
                ("/block/latest/certificates/{hotkey}", self._certificate),
                ("/block/latest/neurons", self._neurons),
                ("/block/recent/neurons", self._neurons),
                ("/block/latest/validators", self._validators),
            ):
                routes.append(_route(prefix + path, _endpoint(caller, answer)))
        own = _endpoint(self._identity_caller, self._generate)
        routes.append(_route(f"{_IDENTITY_API}/certificates/self", own, method="POST"))
        first = f"{_V1}/certificates"
        caller = self._first_generation_caller
        routes += [
            _route(first, _endpoint(caller, self._certificates)),
            _route(
                first + "/self",
                _with_bare_refusals(_endpoint(caller, self._generate)),
                method="POST",
            ),
            _route(first + "/{hotkey}", _with_bare_refusals(_endpoint(caller, self._certificate))),
            _route(f"{_V1}/neurons/latest", _endpoint(caller, self._neurons)),
        ]
        return routes

    # Who asks, and about which subnet.

    async def _identity_caller(self, request: Request) -> _Caller:
        # Pylon looks in this order: path, header, identity, token, netuid.
        netuid = _asked_netuid(request)
        token = _bearer_token(request)
        name = request.path_params["identity_name"]
        identity = await run_in_threadpool(self._store.identity, name)
        if identity is None:
            raise HTTPException(404, f"Identity '{name}' not found")
        if not await run_in_threadpool(self._store.is_identity_token, name, token):
            raise HTTPException(403, "Invalid authorization token")
        if netuid != identity.netuid:
            raise _elsewhere(request, identity)
        return _Caller(netuid=identity.netuid, own_hotkey=identity.hotkey)

    async def _open_access_caller(self, request: Request) -> _Caller:
        netuid = _asked_netuid(request)
        digest = self._open_access_digest
        if digest is None:
            digest = await run_in_threadpool(self._store.open_access_token)
        if digest is not None and not digest.matches(_bearer_token(request)):
            raise HTTPException(403, "Invalid authorization token")
        return _Caller(netuid=netuid, own_hotkey=None)

    async def _first_generation_caller(self, request: Request) -> _Caller:  # noqa: ARG002 - no path
        identities = await run_in_threadpool(self._store.identities)
        if identities:
            return _Caller(netuid=identities[0].netuid, own_hotkey=identities[0].hotkey)
        subnets = await run_in_threadpool(self._store.subnets)
        return _Caller(netuid=subnets[0] if subnets else None, own_hotkey=None)

    # What is answered

    async def _identities(self, request: Request) -> Response:  # noqa: ARG002 - nothing is asked
        identities = await run_in_threadpool(self._store.identities)
        return JSONResponse({"identities": {each.name: each.netuid for each in identities}})

    async def _certificates(self, request: Request, caller: _Caller) -> Response:  # noqa: ARG002
        if caller.netuid is None:
            return JSONResponse({})
        keys = await run_in_threadpool(self._store.certificates, netuid=caller.netuid)
        return JSONResponse(
            {str(hotkey): _certificate_document(key) for hotkey, key in keys.items()}
        )

    async def _certificate(self, request: Request, caller: _Caller) -> Response:
        hotkey = _asked_hotkey(request.path_params["hotkey"], caller)
        key = None
        if hotkey is not None and caller.netuid is not None:
            key = await run_in_threadpool(self._store.certificate, hotkey, netuid=caller.netuid)
        if key is None:
            raise HTTPException(404, "Certificate not found or error fetching.")
        return JSONResponse(_certificate_document(key))

    async def _neurons(self, request: Request, caller: _Caller) -> Response:  # noqa: ARG002
        neurons = await self._neurons_of(caller)
        documents = {str(each.hotkey): _neuron_document(each) for each in neurons}
        return JSONResponse({"block": _latest_block(), "neurons": documents})

    async def _validators(self, request: Request, caller: _Caller) -> Response:  # noqa: ARG002
        permitted = [each for each in await self._neurons_of(caller) if each.validator_permit]
        permitted.sort(key=lambda each: each.total, reverse=True)
        documents = [_neuron_document(each) for each in permitted]
        return JSONResponse({"block": _latest_block(), "validators": documents})

    async def _neurons_of(self, caller: _Caller) -> tuple[NeuronRecord, ...]:
        if caller.netuid is None:
            return ()
        return await run_in_threadpool(self._store.neurons, netuid=caller.netuid)

    async def _generate(self, request: Request, caller: _Caller) -> Response:
        problem = _validate_generate_body(await _read_body(request))
        if problem is not None:
            return _validation_failed(request, problem)
        private_key = Ed25519PrivateKey.generate()
        public_key = private_key.public_key().public_bytes_raw()
        published = (
            caller.own_hotkey is not None
            and caller.netuid is not None
            and await run_in_threadpool(
                self._store.set_certificate_if_registered,
                caller.own_hotkey,
                public_key,
                netuid=caller.netuid,
            )
        )
        await asyncio.sleep(self._publish_seconds)
        if not published:
            raise HTTPException(502, "Could not generate certificate pair.")
        document = _certificate_document(public_key)
        document["private_key"] = private_key.private_bytes_raw().hex()
        return JSONResponse(document, status_code=201)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """For which subnet, and which wallet, a request is answered."""

    netuid: int | None
    own_hotkey: Hotkey | None


def _route(
    path: str, endpoint: Callable[[Request], Awaitable[Response]], *, method: str = "GET"
) -> Route:
    route = Route(path, endpoint, methods=[method])
    route.methods = {method}  # Starlette adds HEAD to GET, which Pylon does not take.
    return route


def _endpoint(
    caller: Callable[[Request], Awaitable[_Caller]],
    answer: Callable[[Request, _Caller], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """First finds out who asks, then answers."""

    async def respond(request: Request) -> Response:
        return await answer(request, await caller(request))

    return respond


def _with_bare_refusals(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Says of a certificate that there is none as the first generation did: `detail` alone."""

    async def respond(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HTTPException as exc:
            if exc.status_code not in {404, 502}:
                raise
            return JSONResponse({"detail": exc.detail}, status_code=exc.status_code)

    return respond


class _TimeLimit:
    """Gives up on a request that takes longer than its client wants to wait."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            seconds = _parse_timeout(Headers(scope=scope).get("x-pylon-timeout"))
        except HTTPException as exc:
            await _refusal(exc.status_code, exc.detail)(scope, receive, send)
            return
        begun = False

        async def noted_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(seconds):
                await self._app(scope, receive, noted_send)
        except TimeoutError:
            if begun:
                raise
            await _refusal(504, "Request timed out")(scope, receive, send)


class _NeedlessSlashes:
    """Takes `//` for `/`, and a slash at the end for none, as Pylon does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"}
        await self._app(scope, receive, send)


class _RequestLogging:
    """Tells the log of every request, answered or not."""

    def __init__(self, app: ASGIApp, *, log: RequestLog | None) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._log is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what the server makes of an exception
        started = time.monotonic()

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted_send)
        finally:
            headers = Headers(scope=scope)
            self._log(
                RequestRecord(
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    authorized="authorization" in headers,
                    timeout=headers.get("x-pylon-timeout"),
                    seconds=time.monotonic() - started,
                )
            )


def _parse_timeout(text: str | None) -> float:
    """Reads X-Pylon-Timeout; nonsense is a 400."""
    if text is None:
        return DEFAULT_TIMEOUT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise HTTPException(400, f"Invalid X-Pylon-Timeout header value: {text}")
    if seconds <= 0:
        raise HTTPException(400, f"X-Pylon-Timeout header value must be positive, got {seconds}")
    return min(seconds, MAX_TIMEOUT_SECONDS)


def _bearer_token(request: Request) -> str:
    header = request.headers.get("authorization")
    if not header:
        raise HTTPException(401, "Authorization header is required")
    parts = header.split()
    if len(parts) != 2 or parts[0].lower() != "bearer":  # noqa: PLR2004 - the scheme and the token
        raise HTTPException(401, "Invalid Authorization header format. Expected: Bearer <token>")
    return parts[1]


def _elsewhere(request: Request, identity: IdentityRecord) -> HTTPException:
    """Points to the same path with the identity's own netuid, as Pylon 2.0 does with a 308."""
    # Not the path as it was sent: `//api/…` there would name another host.
    location = _NETUID_IN_PATH.sub(rf"\g<1>{identity.netuid}", request.scope["path"], count=1)
    return HTTPException(308, headers={"Location": quote(location)})


def _asked_netuid(request: Request) -> int:
    """The netuid in a path; one that is no number is no path of Pylon's."""
    text = request.path_params["netuid"]
    if _NETUID.fullmatch(text) is None:
        raise HTTPException(404, "Not Found")
    return int(text)


def _asked_hotkey(text: str, caller: _Caller) -> Hotkey | None:
    """The hotkey in a path; `self` is the identity's own, where there is an identity."""
    if text == "self":
        return caller.own_hotkey
    try:
        return Hotkey.parse(text)
    except InvalidHotkey:
        return None


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, "Request Entity Too Large")
    return bytes(body)


def _validate_generate_body(body: bytes) -> dict[str, str] | None:
    """Says what is wrong with the body of a request for a key pair, in Pylon's own form."""
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
    """One neuron in full; what nobody here can set is zero."""
    return {
        "uid": neuron.uid,
        "coldkey": str(neuron.coldkey),
        "hotkey": str(neuron.hotkey),
        "active": neuron.active,
        "axon_info": {
            "ip": neuron.axon.ip,
            "port": neuron.axon.port,
            "protocol": neuron.axon.protocol,
        },
        "stake": neuron.total,
        "rank": 0.0,
        "emission": 0.0,
        "incentive": 0.0,
        "consensus": 0.0,
        "trust": 0.0,
        "validator_trust": 0.0,
        "dividends": 0.0,
        "last_update": 0,
        "validator_permit": neuron.validator_permit,
        "pruning_score": 0,
        "stakes": {"alpha": neuron.alpha, "tao": neuron.tao, "total": neuron.total},
    }


def _refusal(status: int, detail: str, *, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(
        {"status_code": status, "detail": detail}, status_code=status, headers=headers
    )


def _validation_failed(request: Request, problem: dict[str, str]) -> Response:
    return JSONResponse(
        {
            "status_code": 400,
            "detail": f"Validation failed for {request.method} {request.url.path}",
            "extra": [problem],
        },
        status_code=400,
    )


async def _render_refusal(request: Request, exc: Exception) -> Response:  # noqa: ARG001
    if not isinstance(exc, HTTPException):  # never: Starlette calls this for that class alone
        raise exc
    if "Location" in (exc.headers or {}):
        # The one answer of Pylon's that has no body.
        return Response(
            status_code=exc.status_code, headers=exc.headers, media_type="application/json"
        )
    return _refusal(exc.status_code, exc.detail, headers=dict(exc.headers or {}))


async def _render_store_failure(request: Request, exc: Exception) -> Response:  # noqa: ARG001
    """The store is this Pylon's chain: when it cannot be read, the gateway is bad."""
    _logger.warning("pylon_store_failed", error=str(exc))
    return _refusal(502, "Bad Gateway")


async def _render_failure(request: Request, exc: Exception) -> Response:  # noqa: ARG001
    return _refusal(500, "Internal Server Error")
