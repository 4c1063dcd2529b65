"""The development Pylon over HTTP: what Pylon 2.0 and later say of certificates and neurons.

And of blocks and weights, as far as a validator of the Nexus Framework asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
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

from nexus_auth.adapters.devnet.records import DEFAULT_NETUID, ChainRefusal, NeuronRecord
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

_UNKNOWN_SCORES: Final = (
    *("rank", "emission", "incentive", "consensus", "trust", "validator_trust", "dividends"),
)
_SLASHES: Final = re.compile(r"/{2,}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
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
        exception_handlers=dict.fromkeys(
            (HTTPException, _InvalidBody, DevnetStoreUnusable, Exception), _render
        ),
    )
    # Starlette would answer 307 to a slash at the end. It is gone before the router looks.
    app.router.redirect_slashes = False
    return app


class _InvalidBody(Exception):
    """What is wrong with the body of a request, in Pylon's own form."""

    def __init__(self, message: str, **where: str) -> None:
        super().__init__(message)
        self.problem = {"message": message, **where}


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
        """The APIs: where each begins, how it knows its caller, and what it answers.

        `_unstable` is the version 2.x keeps beside v1; the Nexus Framework asks it about weights.
        """
        latest: list[_Row] = [
            ("GET", "/block/latest/certificates", self._certificates),
            ("GET", "/block/latest/certificates/{hotkey}", self._certificate),
            ("GET", "/block/latest/neurons", self._neurons),
            ("GET", "/block/recent/neurons", self._neurons),
            ("GET", "/block/latest/validators", self._validators),
        ]
        publish: _Row = ("POST", "/certificates/self", self._generate)
        block: _Row = ("GET", "/block/latest", self._block)
        identities: _Row = ("GET", "/identities", self._identities)
        weights: _Row = ("PUT", "/weights", self._set_weights)
        mechanism = "/mechanism/{mechanism}"
        mechanisms: list[_Row] = [
            ("PUT", f"{mechanism}/weights", self._set_weights),
            ("GET", f"{mechanism}/block/{{block}}/weights/status", self._weights_status),
        ]
        first: list[_Row] = [
            identities,
            block,
            ("GET", "/certificates", self._certificates),
            publish,
            ("GET", "/certificates/{hotkey}", self._certificate),
            ("GET", "/neurons/latest", self._neurons),
        ]
        identity, subnet = "/identity/{identity_name}/subnet/{netuid}", "/subnet/{netuid}"
        unstable, general = "/api/_unstable", "/api/_unstable/openaccess"
        apis = [
            (f"/api/v1{identity}", self._identity_call, [*latest, publish, weights]),
            (f"/api/v1{subnet}", self._open_access_call, latest),
            (f"{unstable}{identity}", self._identity_call, [*latest, publish, *mechanisms]),
            (f"{general}{subnet}", self._open_access_call, latest),
            (general, self._open_access_call, [block]),
            (unstable, self._first_generation_call, [identities]),
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
        netuid = _number_in(request, "netuid")
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
        netuid = _number_in(request, "netuid", DEFAULT_NETUID)
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

    def _block(self, _call: _Call) -> dict[str, Any]:
        block = self._latest_block()
        return {**block, "timestamp": self._store.block_time(block["number"])}

    def _latest_block(self) -> dict[str, Any]:
        number = self._store.block()
        return {"number": number, "hash": f"0x{hashlib.sha256(b'%d' % number).hexdigest()}"}

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
        return {"block": self._latest_block(), "neurons": documents}

    def _validators(self, call: _Call) -> dict[str, Any]:
        neurons = self._store.neurons(netuid=call.netuid)
        permitted = [each for each in neurons if each.validator_permit]
        permitted.sort(key=lambda each: each.total, reverse=True)
        return {"block": self._latest_block(), "validators": [*map(_neuron_document, permitted)]}

    def _weights_status(self, call: _Call) -> dict[str, Any]:
        mechanism, block = (_number_in(call.request, each) for each in ("mechanism", "block"))
        is_set = call.own_hotkey is not None and self._store.has_set_weights(
            call.own_hotkey, netuid=call.netuid, mechanism=mechanism, block=block
        )
        return {"weights_submitted": is_set}

    async def _set_weights(self, call: _Call) -> Response:
        mechanism = _number_in(call.request, "mechanism", 0)
        weights = (await _read_object(call.request)).get("weights")
        if not isinstance(weights, dict) or not all(
            isinstance(each, int | float) for each in weights.values()
        ):
            raise _InvalidBody("Input should be a dictionary of numbers", key="weights")
        if not weights:
            raise _InvalidBody("Value error, No weights provided", key="weights")
        if call.own_hotkey is not None:
            submit = partial(self._store.set_weights, netuid=call.netuid, mechanism=mechanism)
            await run_in_threadpool(submit, call.own_hotkey)
        return JSONResponse({"detail": "weights update scheduled", "count": len(weights)})

    async def _generate(self, call: _Call) -> Response:
        algorithm = (await _read_object(call.request)).get("algorithm", ED25519_ALGORITHM)
        if algorithm != ED25519_ALGORITHM:
            message = (
                "Value error, Currently, only algorithm equals 1 is supported which is "
                "EdDSA using Ed25519 curve"
            )
            raise _InvalidBody(message, key="algorithm")
        key = Ed25519PrivateKey.generate()
        public_key = key.public_key().public_bytes_raw()
        refused: ChainRefusal | None = ChainRefusal.NOT_REGISTERED
        if call.own_hotkey is not None:
            publish = partial(self._store.publish_certificate, netuid=call.netuid)
            refused = await run_in_threadpool(publish, call.own_hotkey, public_key)
        await asyncio.sleep(self._publish_seconds)
        if refused is not None:
            # Pylon keeps the cause to itself; here it is at least in the log.
            _logger.warning("chain_refused", cause=str(refused), hotkey=str(call.own_hotkey))
            if refused is ChainRefusal.RATE_LIMIT:  # which Pylon maps to no answer of its own
                return _refusal(500, "Internal Server Error")
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


def _number_in(request: Request, name: str, default: int | None = None) -> int:
    """A number in a path, such as the netuid; a path with anything else there is none of Pylon's.

    The default is for paths that have no such part.
    """
    if default is not None and name not in request.path_params:
        return default
    text = request.path_params[name]
    if _NUMBER.fullmatch(text) is None:
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


async def _read_object(request: Request) -> dict[str, Any]:
    """The JSON object in a body."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, "Request Entity Too Large")
    if not body:
        raise _InvalidBody("'data'", key="data", source="body")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "JSON is malformed") from None
    if not isinstance(document, dict):
        raise _InvalidBody("Input should be a valid dictionary")
    return document


def _certificate_document(public_key: bytes) -> dict[str, Any]:
    return {"algorithm": ED25519_ALGORITHM, "public_key": public_key.hex()}


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


async def _render(request: Request, exc: Exception) -> Response:
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
        case _InvalidBody():
            detail = f"Validation failed for {request.method} {request.url.path}"
            return _refusal(400, detail, extra=[exc.problem])
        case DevnetStoreUnusable():
            # The store is this Pylon's chain: when it cannot be read, the gateway is bad.
            _logger.warning("pylon_store_failed", error=str(exc))
            return _refusal(502, "Bad Gateway")
        case _:
            return _refusal(500, "Internal Server Error")
