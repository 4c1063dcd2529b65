"""Fetches keys and neurons from Pylon over HTTP, and has it issue key pairs."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, ParamSpec, Self, TypeVar

import httpx
import structlog

from nexus_auth.adapters.bounded_http import (
    AnswerOutOfBounds,
    BoundedTransport,
    read_bounded,
    trusted_servers,
)
from nexus_auth.adapters.pylon import answers
from nexus_auth.adapters.pylon.api import (
    IdentityApi,
    PylonAnswerInvalid,
    PylonApi,
    PylonFailed,
    PylonRefused,
    PylonUnreachable,
    parse_endpoint,
)
from nexus_auth.adapters.server_trust import AUTHORITIES_VARIABLE, explain_refusal
from nexus_auth.domain import errors
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.ports import IssuedKeyPair, KeyMap
from nexus_auth.domain.snapshot import Block

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_CONNECT_TIMEOUT_SECONDS: Final = 2.0
DEFAULT_READ_TIMEOUT_SECONDS: Final = 10.0
GENERATE_TIMEOUT_SECONDS: Final = 300.0
"""Publishing a key waits for the chain, which can take a minute; Pylon's own cap is 300 s."""

REREAD_SECONDS: Final = 1.0
"""How long a request waits for the file of a token. A file system may hang."""

MAX_SINGLE_BYTES: Final = 64 * 1024
"""One certificate, or an error, has some 200 bytes."""
MAX_CERTIFICATES_BYTES: Final = 1024 * 1024
"""A certificate takes 147 bytes: 4,096, as many as a subnet may grow to, take 0.6 MB."""
MAX_NEURONS_BYTES: Final = 4 * 1024 * 1024
"""A neuron takes 690 bytes: 4,096 take 2.8 MB. To split an answer of this size, which happens in
one go, takes 5 ms, and 20 ms where it is made of nothing but brackets."""

# Pylon refuses an X-Pylon-Timeout that is no whole number, and one above 300.
_PYLON_TIMEOUT_CAP_SECONDS: Final = 300
_NO_CERTIFICATE: Final = "certificate not found"
_NO_IDENTITY: Final = "identity"
_NOT_PUBLISHED: Final = "could not generate"

_MISSING: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
_REDIRECTS: Final = range(300, 400)
_NOTHING_DONE: Final = range(300, 500)
_REFUSALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
# Something between us and the chain timed out or was away: this is no refusal.
_UNAVAILABLE: Final = range(502, 505)
_SERVER_ERRORS: Final = range(500, 600)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    body: bytes = field(repr=False)  # it may hold a private key

    @property
    def detail(self) -> str:
        """The `detail` of an error body in lower case, or nothing where there is none."""
        return answers.parse_detail(self.body).lower() if len(self.body) <= MAX_SINGLE_BYTES else ""

    @property
    def is_missing_path(self) -> bool:
        """Whether this Pylon has no such path."""
        return self.status in _MISSING and _NO_IDENTITY not in self.detail


def _forgetting(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Raises the error of a fetch without the frames that it came through.

    They hold the answer, megabytes of it. A task that keeps its error, which refers to the frames
    that wait for the task, is freed only once the garbage collector finds it.
    """

    @functools.wraps(method)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except errors.RegistryError as exc:
            raise exc.with_traceback(None) from None

    return run


class PylonClient:
    """Speaks one dialect of Pylon's API. A `KeySource`, a `NeuronSource` and a `CertIssuer`.

    Every request ends by itself: it has a total time and a maximal size. Redirects are never
    followed, so that the token goes to the configured endpoint alone, and neither proxies nor
    credentials are taken from the environment. Cookies are not kept. No text of an answer is
    repeated in an error, and no error refers to another one, whose frames could hold secrets.
    What goes wrong in a fetch is `PylonUnreachable`, `PylonRefused`, `PylonFailed` or
    `PylonAnswerInvalid`.

    Concurrent calls are fine. Its creator closes it.
    """

    name: Final = "pylon"

    def __init__(
        self,
        *,
        endpoint: str,
        api: PylonApi,
        connect_timeout_seconds: float = DEFAULT_CONNECT_TIMEOUT_SECONDS,
        read_timeout_seconds: float = DEFAULT_READ_TIMEOUT_SECONDS,
        generate_timeout_seconds: float = GENERATE_TIMEOUT_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
        observe: Callable[[int | None, float], None] | None = None,
        reread_token: Callable[[str], str | None] | None = None,
    ) -> None:
        """Prepares a client; nothing is opened before the first request.

        Args:
            endpoint: Base URL, such as `http://pylon:8000`.
            api: The dialect, with netuid, identity and token.
            connect_timeout_seconds: How long a connection may take to open.
            read_timeout_seconds: How long a whole answer may take, from the first byte sent.
            generate_timeout_seconds: The same for a new key pair.
            transport: Replaces the network in tests.
            observe: Called with every request's status and seconds; the status is None where
                no whole answer came. Must not raise.
            reread_token: Called in a thread, with the name of the token's setting, when Pylon
                refuses the token; gives the one to use from now on. The request is repeated once
                where that is another. None, or a result of None, keeps it. Must not raise.

        Raises:
            ValueError: If the endpoint is no base URL; see `parse_endpoint`.
        """
        self._endpoint = parse_endpoint(endpoint)
        self._api = api
        self._observe = observe
        self._reread_token = reread_token
        self._rereading: asyncio.Task[str | None] | None = None
        self._connect_timeout_seconds = connect_timeout_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._generate_timeout_seconds = generate_timeout_seconds
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        self._http = httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            transport=transport or BoundedTransport(tls=trusted_servers(self._endpoint)),
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

    @_forgetting
    async def fetch_keys(self) -> KeyMap:
        """Fetches all certificates of the subnet: `GET …/block/latest/certificates`.

        Raises `BulkNotOffered` when this Pylon has no such path.
        """
        answer = await self._request(self._api.certificates_path, max_bytes=MAX_CERTIFICATES_BYTES)
        if answer.is_missing_path:
            raise errors.BulkNotOffered("this Pylon does not offer all certificates at once")
        self._require(answer, HTTPStatus.OK)
        return await answers.parse_certificates(answer.body)

    @_forgetting
    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """Fetches one hotkey's key: `GET …/certificates/{hotkey}`.

        None when Pylon has none; it gives the same answer when it cannot read the chain just now.
        """
        answer = await self._request(self._api.certificate_path(hotkey))
        if answer.status == HTTPStatus.NOT_FOUND and _NO_CERTIFICATE in answer.detail:
            return None
        self._require(answer, HTTPStatus.OK)
        return answers.parse_certificate(answer.body)

    @_forgetting
    async def fetch_neurons(
        self,
        *,
        at: Block | None = None,  # noqa: ARG002 - Pylon names no block to be chosen.
    ) -> tuple[Mapping[Hotkey, Neuron], int]:
        """Fetches the neurons of the subnet: `recent` where that exists, else `latest`.

        Raises `PylonFailed` where this Pylon has no neurons.
        """
        paths = self._api.neuron_paths
        for path in paths:
            answer = await self._request(path, max_bytes=MAX_NEURONS_BYTES)
            # The recent ones come from a cache of Pylon's, which may not be filled yet.
            is_unfilled = answer.status in _UNAVAILABLE and path != paths[-1]
            if is_unfilled or answer.is_missing_path:
                continue
            self._require(answer, HTTPStatus.OK)
            return await answers.parse_neurons(answer.body)
        raise PylonFailed(
            f"Pylon at {self._endpoint} offers no neurons", status=HTTPStatus.NOT_FOUND
        )

    async def generate(self, *, algorithm: int) -> IssuedKeyPair:
        """Has a new key pair made and published: `POST …/certificates/self`.

        See `CertIssuer.generate`. The pair is checked: the private key belongs to the public one.
        """
        if not isinstance(self._api, IdentityApi):
            raise errors.IssuingRefused(
                "issuing needs an identity: its name, its token and a netuid"
            )
        return await _issuing(self._generate(self._api, algorithm))

    async def _generate(self, api: IdentityApi, algorithm: int) -> IssuedKeyPair:
        answer = await self._request(api.issuing_path, content={"algorithm": algorithm})
        if answer.status == HTTPStatus.BAD_GATEWAY and _NOT_PUBLISHED in answer.detail:
            raise errors.IssuingRefused(
                f"Pylon at {self._endpoint} could not publish a key; is the hotkey of its "
                f"identity registered on subnet {api.netuid}?"
            )
        # A pair counts with either status: there is no second copy.
        self._require(answer, HTTPStatus.OK, HTTPStatus.CREATED)
        return answers.parse_key_pair(answer.body)

    async def published_key(self, hotkey: Hotkey) -> bytes | None:
        """Reads back which key the chain has for a hotkey. See `CertIssuer.published_key`."""
        return await _issuing(self.fetch_key(hotkey))

    async def _request(
        self, path: str, *, max_bytes: int = MAX_SINGLE_BYTES, content: dict[str, Any] | None = None
    ) -> _Answer:
        """Reads what is at a path; or has content processed there, for which there is more time."""
        token = self._api.token
        answer = await self._send(path, token, max_bytes, content)
        # A refused request did nothing, so that it can be repeated.
        if answer.status in _REFUSALS and await self._has_another_token(token):
            answer = await self._send(path, self._api.token, max_bytes, content)
        return answer

    async def _has_another_token(self, refused: str | None) -> bool:
        """Reads the token again, and says whether there is another one than that."""
        if self._reread_token is not None:
            setting = self._api.credential_setting
            # One thread at most, however many requests are refused while a file system hangs.
            if self._rereading is None or self._rereading.done():
                reading = asyncio.to_thread(self._reread_token, setting)
                self._rereading = asyncio.create_task(reading, name="pylon-token")
            await asyncio.wait({self._rereading}, timeout=REREAD_SECONDS)
            token = self._rereading.result() if self._rereading.done() else None
            if token is not None and token != self._api.token:
                self._api = replace(self._api, token=token)
                _log.info("token_reloaded", setting=setting)
        return self._api.token != refused

    async def _send(
        self, path: str, token: str | None, max_bytes: int, content: dict[str, Any] | None
    ) -> _Answer:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        method, total_seconds = "GET", self._read_timeout_seconds
        if content is not None:
            method, total_seconds = "POST", self._generate_timeout_seconds
        pylon_timeout = max(1, min(_PYLON_TIMEOUT_CAP_SECONDS, int(total_seconds)))
        status: int | None = None
        was_sent, remedy = True, ""
        began = time.perf_counter()
        try:
            # httpx's read timeout starts anew with every byte; this one does not.
            async with (
                asyncio.timeout(self._connect_timeout_seconds + total_seconds),
                self._http.stream(
                    method,
                    self._endpoint + path,
                    json=content,
                    headers={"X-Pylon-Timeout": str(pylon_timeout), **headers},
                    timeout=httpx.Timeout(total_seconds, connect=self._connect_timeout_seconds),
                ) as response,
            ):
                try:
                    body = await read_bounded(response, max_bytes)
                except AnswerOutOfBounds as exc:
                    raise PylonAnswerInvalid(f"Pylon's answer {exc}") from None
                status = response.status_code
                return _Answer(status=status, body=body)
        except errors.RegistryError:
            raise
        except (TimeoutError, httpx.TimeoutException) as exc:
            was_sent = not isinstance(exc, httpx.ConnectTimeout)
            failure = f"did not answer in time ({type(exc).__name__})"
        except Exception as exc:  # noqa: BLE001 - whatever the library meets, the port has its own errors.
            # The cause's own text may quote what was sent or received; its type is enough.
            was_sent = not isinstance(exc, httpx.ConnectError)
            reason = "" if was_sent else f": {exc}"
            if type(exc) is RuntimeError:  # httpx has no type of its own for it.
                reason = ": the client is closed"
            failure = f"could not be asked ({type(exc).__name__}{reason})"
            refusal = explain_refusal(
                exc, authorities=AUTHORITIES_VARIABLE, address="NEXUS_PYLON_ENDPOINT"
            )
            if refusal is not None:
                failure, remedy = f"is not trusted: {refusal.problem}", refusal.remedy
        finally:
            if self._observe is not None:
                self._observe(status, time.perf_counter() - began)
        # Raised outside of the except blocks, so that it does not refer to its cause: a frame of
        # httpx's in the traceback of that one holds the token.
        raise PylonUnreachable(
            f"Pylon at {self._endpoint} {failure}", was_sent=was_sent, remedy=remedy
        )

    def _require(self, answer: _Answer, *expected: int) -> None:
        """Raises an error for any other status, with what to check where the status says it."""
        status, error = answer.status, PylonFailed
        if status in expected:
            return
        problem = f"answered {status}"
        if status in _REFUSALS:
            error = PylonRefused
            problem = f"refuses the token ({status}); check {self._api.credential_setting}"
        elif status in _REDIRECTS:
            problem += "; check the netuid of the identity"
        elif status == HTTPStatus.NOT_FOUND and _NO_IDENTITY in answer.detail:
            problem = "does not know the identity; check NEXUS_PYLON_IDENTITY_NAME"
        elif status == HTTPStatus.NOT_FOUND:
            problem += self._api.missing_path_hint
        raise error(f"Pylon at {self._endpoint} {problem}", status=status)


async def _issuing(request: Awaitable[T]) -> T:
    """Raises the errors of a request as errors of the issuing port, which do not refer to them."""
    try:
        return await request
    except errors.RegistryError as exc:
        failure = exc
    match failure:
        case PylonFailed(status=status) if status not in _SERVER_ERRORS:
            # Redirects and client errors changed nothing; with all others that is not known.
            changed = status not in _NOTHING_DONE
            raise errors.IssuingRefused(str(failure), key_may_have_changed=changed)
        case PylonUnreachable(was_sent=False):
            raise errors.IssuerUnavailable(str(failure), key_may_have_changed=False)
        case PylonUnreachable() | PylonFailed():
            # Pylon's 500 comes from the chain too, and may come after the new key was sent to it.
            raise errors.IssuerUnavailable(str(failure))
        case _:
            is_invalid = isinstance(failure, PylonAnswerInvalid)
            raise errors.IssuingRefused(str(failure), key_may_have_changed=is_invalid)
