"""Asks Pylon over HTTP: which key belongs to which hotkey, who the neurons are, a new key pair."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.pylon.answers import (
    PylonKeyMap,
    parse_certificate,
    parse_certificates,
    parse_hex,
    parse_json,
    parse_neurons,
    require_ed25519,
)
from nexus_auth.adapters.pylon.api import (
    FirstGenerationApi,
    IdentityApi,
    OpenAccessApi,
    PylonApi,
    certificate_path,
)
from nexus_auth.adapters.pylon.errors import (
    BulkNotOffered,
    PylonAnswerInvalid,
    PylonFailed,
    PylonRefused,
    PylonUnreachable,
)
from nexus_auth.domain.errors import (
    IssuerUnavailable,
    IssuingRefused,
    RegistryAnswerInvalid,
    RegistryError,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.policy import Neuron
from nexus_auth.domain.ports import IssuedKeyPair

DEFAULT_CONNECT_TIMEOUT_SECONDS: Final = 2.0
DEFAULT_READ_TIMEOUT_SECONDS: Final = 10.0
GENERATE_TIMEOUT_SECONDS: Final = 300.0
"""Publishing a key waits for the chain, which can take a minute; Pylon's own cap is 300 s."""

MAX_SINGLE_BYTES: Final = 64 * 1024
"""One certificate, or an error, has some 200 bytes."""
MAX_BULK_BYTES: Final = 8 * 1024 * 1024
"""A certificate takes 150 bytes and a neuron 700; ten times the 4,096 neurons that a subnet can
have would still fit."""

# Pylon refuses nonsense in X-Pylon-Timeout and anything above 300.
_PYLON_TIMEOUT_CAP_SECONDS: Final = 300
_MAX_CONNECTIONS: Final = 8
_NO_CERTIFICATE: Final = "certificate not found"
_NO_IDENTITY: Final = "identity"

_OK: Final = 200
_CREATED: Final = 201
_NOT_FOUND: Final = 404
_METHOD_NOT_ALLOWED: Final = 405
_GATEWAY_TIMEOUT: Final = 504
_REFUSALS: Final = frozenset({401, 403})

# httpx logs every URL at INFO, and its transport logs headers at DEBUG: the token among them.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    body: bytes

    @property
    def detail(self) -> str:
        """The `detail` of an error body in lower case, or nothing where there is none."""
        try:
            document = parse_json(self.body)
        except PylonAnswerInvalid:
            return ""
        detail = document.get("detail") if isinstance(document, dict) else None
        return detail.lower() if isinstance(detail, str) else ""


class PylonClient:
    """Speaks one dialect of Pylon's API. A `KeySource` and a `CertIssuer`.

    Every request ends by itself: it has a total time and a maximal size. Redirects are never
    followed, so that the token goes to the configured endpoint alone, and neither proxies nor
    credentials are taken from the environment. No text of an answer is repeated in an error.

    Concurrent calls are fine. Whoever creates it closes it.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        api: PylonApi,
        connect_timeout_seconds: float = DEFAULT_CONNECT_TIMEOUT_SECONDS,
        read_timeout_seconds: float = DEFAULT_READ_TIMEOUT_SECONDS,
        generate_timeout_seconds: float = GENERATE_TIMEOUT_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepares a client; nothing is opened before the first request.

        Args:
            endpoint: Base URL, such as `http://pylon:8000`.
            api: The dialect, with netuid, identity and token.
            connect_timeout_seconds: How long a connection may take to open.
            read_timeout_seconds: How long a whole answer may take, from the first byte sent.
            generate_timeout_seconds: The same for a new key pair.
            transport: Replaces the network in tests.
        """
        self._endpoint = endpoint.rstrip("/")
        self._api = api
        self._connect_timeout_seconds = connect_timeout_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._generate_timeout_seconds = generate_timeout_seconds
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if api.token is not None:
            headers["Authorization"] = f"Bearer {api.token}"
        self._http = httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS
            ),
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"PylonClient(endpoint={self._endpoint!r}, api={self._api!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def fetch_keys(self) -> PylonKeyMap:
        """Asks for all certificates of the subnet: `GET …/block/latest/certificates`.

        Raises:
            BulkNotOffered: When this Pylon has no such path.
            RegistryError: `PylonUnreachable`, `PylonRefused`, `PylonFailed` or
                `PylonAnswerInvalid`.
        """
        answer = await self._get(self._api.reading, max_bytes=MAX_BULK_BYTES)
        if answer.status in {_NOT_FOUND, _METHOD_NOT_ALLOWED} and _NO_IDENTITY not in answer.detail:
            raise BulkNotOffered("this Pylon does not offer all certificates at once")
        self._require(answer, _OK)
        return parse_certificates(parse_json(answer.body))

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """Asks for one hotkey's key: `GET …/certificates/{hotkey}`.

        Returns:
            The raw public key; None when Pylon has none, which to it is the same as not being
            able to read the chain just now.

        Raises:
            RegistryError: As `fetch_keys`.
        """
        answer = await self._get(certificate_path(self._api, hotkey), max_bytes=MAX_SINGLE_BYTES)
        if answer.status == _NOT_FOUND and _NO_CERTIFICATE in answer.detail:
            return None
        self._require(answer, _OK)
        return parse_certificate(parse_json(answer.body))

    async def fetch_neurons(self) -> tuple[Mapping[Hotkey, Neuron], int]:
        """Asks for the neurons of the subnet: `recent` where that exists, else `latest`.

        Returns:
            The neurons, and how many entries were nonsense.

        Raises:
            RegistryError: As `fetch_keys`; `PylonFailed` where this API has no neurons.
        """
        for path in self._api.neurons:
            answer = await self._get(path, max_bytes=MAX_BULK_BYTES)
            missing = answer.status in {_NOT_FOUND, _METHOD_NOT_ALLOWED}
            if missing and path != self._api.neurons[-1]:
                continue
            self._require(answer, _OK)
            return parse_neurons(parse_json(answer.body))
        raise PylonFailed("this generation of Pylon's API offers no neurons", status=_NOT_FOUND)

    async def generate(self, *, algorithm: int) -> IssuedKeyPair:
        """Has a new key pair made and published: `POST …/certificates/self`.

        See `CertIssuer.generate`. The pair is checked: the private key belongs to the public one.
        """
        if not isinstance(self._api, IdentityApi):
            raise IssuingRefused("issuing needs an identity: its name, its token and a netuid")
        try:
            answer = await self._request(
                "POST",
                self._api.issuing,
                content={"algorithm": algorithm},
                max_bytes=MAX_SINGLE_BYTES,
                total_seconds=self._generate_timeout_seconds,
            )
            self._require(answer, _CREATED)
            return _parse_key_pair(parse_json(answer.body))
        except (PylonRefused, RegistryAnswerInvalid) as exc:
            raise IssuingRefused(str(exc)) from None
        except PylonFailed as exc:
            error = IssuerUnavailable if exc.status == _GATEWAY_TIMEOUT else IssuingRefused
            raise error(str(exc)) from None
        except PylonUnreachable as exc:
            raise IssuerUnavailable(str(exc)) from None

    async def published_key(self, hotkey: Hotkey) -> bytes | None:
        """Reads back which key the chain has for a hotkey. See `CertIssuer.published_key`."""
        try:
            return await self.fetch_key(hotkey)
        except RegistryAnswerInvalid as exc:
            raise IssuingRefused(str(exc)) from None
        except RegistryError as exc:
            raise IssuerUnavailable(str(exc)) from None

    async def _get(self, path: str, *, max_bytes: int) -> _Answer:
        return await self._request(
            "GET", path, max_bytes=max_bytes, total_seconds=self._read_timeout_seconds
        )

    async def _request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        total_seconds: float,
        content: dict[str, Any] | None = None,
    ) -> _Answer:
        url = self._endpoint + path
        patience = max(1, min(_PYLON_TIMEOUT_CAP_SECONDS, int(total_seconds)))
        timeout = httpx.Timeout(total_seconds, connect=self._connect_timeout_seconds)
        try:
            # httpx's read timeout starts anew with every byte; this one does not.
            async with (
                asyncio.timeout(self._connect_timeout_seconds + total_seconds),
                self._http.stream(
                    method,
                    url,
                    json=content,
                    headers={"X-Pylon-Timeout": str(patience)},
                    timeout=timeout,
                ) as response,
            ):
                return _Answer(
                    status=response.status_code, body=await _bounded_body(response, max_bytes)
                )
        except (TimeoutError, httpx.TimeoutException) as exc:
            self._unreachable("did not answer in time", exc)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as exc:
            self._unreachable("could not be asked", exc)

    def _unreachable(self, what: str, exc: Exception) -> NoReturn:
        # The cause's own text may quote what was sent or received; its type says enough.
        kind = type(exc).__name__
        reason = f": {exc}" if isinstance(exc, httpx.ConnectError) else ""
        raise PylonUnreachable(f"Pylon at {self._endpoint} {what} ({kind}{reason})") from None

    def _require(self, answer: _Answer, expected: int) -> None:
        status = answer.status
        if status == expected:
            return
        if status in _REFUSALS:
            raise PylonRefused(
                f"Pylon at {self._endpoint} refuses the token ({status}); "
                f"check {_token_setting(self._api)}",
                status=status,
            )
        if _NO_IDENTITY in answer.detail and status == _NOT_FOUND:
            raise PylonFailed(
                f"Pylon at {self._endpoint} does not know the identity; "
                "check NEXUS_PYLON_IDENTITY_NAME",
                status=status,
            )
        hint = "; check the netuid of the identity" if 300 <= status < 400 else ""  # noqa: PLR2004 - the class of redirects
        raise PylonFailed(f"Pylon at {self._endpoint} answered {status}{hint}", status=status)


async def _bounded_body(response: httpx.Response, max_bytes: int) -> bytes:
    """Reads a body as it comes over the wire, without decompressing anything."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise PylonAnswerInvalid("Pylon's answer is compressed, which was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise PylonAnswerInvalid(f"Pylon's answer is longer than {max_bytes} bytes")
    return bytes(body)


def _parse_key_pair(answer: object) -> IssuedKeyPair:
    """Reads a generated pair; the private key is a seed, or a seed followed by the public key."""
    if not isinstance(answer, dict):
        raise PylonAnswerInvalid("a key pair is not a JSON object")
    require_ed25519(answer.get("algorithm"))
    public_key = parse_certificate(answer)
    private_key = parse_hex(answer.get("private_key"), lengths=(32, 64))
    seed, appended = private_key[:32], private_key[32:]
    derived = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    if derived != public_key or appended not in {b"", derived}:
        raise PylonAnswerInvalid("the private key that Pylon made is not that of its public key")
    return IssuedKeyPair(public_key=public_key, private_key=seed)


def _token_setting(api: PylonApi) -> str:
    match api:
        case IdentityApi():
            return "NEXUS_PYLON_IDENTITY_TOKEN"
        case OpenAccessApi() | FirstGenerationApi():
            return "NEXUS_PYLON_OPEN_ACCESS_TOKEN"
