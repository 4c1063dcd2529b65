"""Calls hotkeys: what a validator's program holds, with an event loop and without."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from nexus_auth.adapters.background import DEFAULT_TIMEOUT_SECONDS, Background
from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.tls.context import PinnedContext
from nexus_auth.adapters.tls.keys import ServerKeys
from nexus_auth.adapters.tls.pair import ClientPair
from nexus_auth.domain.errors import RegistryUnavailable
from nexus_auth.domain.hotkey import Hotkey

if TYPE_CHECKING:
    import httpx

    from nexus_auth.domain.ports import Clock, KeyRegistry, Registration

R = TypeVar("R")


class Caller:
    """Calls hotkeys at any address; `connect` makes one.

    Each handshake completes only with the key registered then. Works on asyncio and uvloop.
    Concurrent use within one event loop is fine.
    """

    def __init__(
        self,
        *,
        registry: KeyRegistry,
        certificates: str | Path | None = None,
        clock: Clock = utc_now,
    ) -> None:
        """Opens and reads nothing.

        Args:
            registry: Knows the keys; stays its creator's to close.
            certificates: The directory of `client.key` and `client.crt`, the pair that is shown to
                servers. They are read again when they have been replaced. None shows no pair.
            clock: Tells how long a looked-up key may be used.
        """
        pair = None if certificates is None else ClientPair(Path(certificates))
        self._keys = ServerKeys(registry=registry, pair=pair, clock=clock)

    async def tls_context(self, hotkey: Hotkey | str) -> ssl.SSLContext:
        """Makes a context for connections to one hotkey, at any address.

        For asyncio, uvloop, aiohttp and whatever else takes a context. It may live long: each
        handshake uses the key and the pair of that moment, as long as this object's registry does.
        A handshake that fails raises `ServerKeyMismatch` or `ServerKeyUnknown`, which are
        `ssl.SSLCertVerificationError` there.

        Raises:
            InvalidHotkey: If the text is no address.
            HotkeyNotRegistered: When no key is registered for it.
            RegistryError: When that is not known now.
            CredentialsError: If the pair cannot be used.
        """
        return await self._keys.context(_parse(hotkey))

    def http_client(
        self, *, hotkeys: Mapping[str, Hotkey | str] | None = None, **options: Any
    ) -> httpx.AsyncClient:
        """Makes an httpx client that calls hotkeys alone. Close it before this object's registry.

        The hotkey is named per request, `extensions={"hotkey": ...}`, or per host, `hotkeys`; a
        request without one is refused. Each connection serves one hotkey. None is used again once
        another key is registered, the registration has expired, or the own pair has changed.
        HTTP/1.1 alone is spoken. Nothing in the environment counts, no proxy among it. Cookies that
        servers set are not kept. Redirects are not followed, and with `follow_redirects` only
        within the origin of the request.

        The errors are of both kinds: `ServerKeyMismatch`, `HotkeyNotRegistered`, `RegistryError`
        and `CredentialsError` are `httpx.ConnectError`, and `RequestRefused` is
        `httpx.UnsupportedProtocol`.

        Args:
            hotkeys: The hotkey of a server, by `host:port`; the port is 443 where none is named,
                and an IPv6 address is in brackets.
            options: Those of `httpx.AsyncClient` that do not choose whom to trust: `auth`,
                `base_url`, `cookies`, `default_encoding`, `event_hooks`, `follow_redirects`,
                `headers`, `limits`, `max_redirects`, `params`, `timeout`.

        Raises:
            InvalidHotkey: If a hotkey is no address.
            ValueError: If a host is none.
            TypeError: For any other option.
        """
        from nexus_auth.adapters.tls.httpx_transport import build_async_client  # noqa: PLC0415

        return build_async_client(self._keys, _parse_all(hotkeys), options)


class SyncCaller:
    """A `Caller` for code that cannot await.

        with SyncCaller(lambda: connect("http://pylon:8000", netuid=12)) as caller:
            context = caller.tls_context(HOTKEY)

    The caller runs in a thread of its own. It is opened at its first use, once in each process: a
    server that forks may create this object, its contexts and its clients before. Safe to use from
    several threads. In asynchronous code, use `Caller`: this one blocks the event loop.
    """

    def __init__(
        self,
        caller: Callable[[], AbstractAsyncContextManager[Caller]] | Caller,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """Starts nothing yet.

        Args:
            caller: A function that builds an asynchronous context manager giving the caller, such
                as `lambda: connect(...)`; or a caller whose registry needs no opening.
            timeout_seconds: How long it may take to find a key before it is not known.
        """
        self._background = Background(
            "caller",
            (lambda: nullcontext(caller)) if isinstance(caller, Caller) else caller,
            timeout_seconds=timeout_seconds,
        )

    def __enter__(self) -> Self:
        self._background.ensure_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the caller and ends its thread. May be called more than once."""
        self._background.close()

    def tls_context(self, hotkey: Hotkey | str) -> ssl.SSLContext:
        """Makes a context as `Caller.tls_context` does: for requests, urllib3, http.client.

        Each handshake looks up the key.

        Raises:
            InvalidHotkey: If the text is no address.
            HotkeyNotRegistered: When no key is registered for it.
            RegistryError: When that is not known now.
            CredentialsError: If the pair cannot be used.
            RuntimeError: When this object was closed.
            Exception: What opening the caller raises, at its first use.
        """
        name = _parse(hotkey)

        async def find(keys: ServerKeys) -> tuple[Registration, ServerKeys]:
            return await keys.find(name), keys

        _, keys = self._run(find)
        return PinnedContext(
            hotkey=name, expected=lambda: self._run(find)[0], pair=keys.pair, clock=keys.clock
        )

    def http_client(
        self, *, hotkeys: Mapping[str, Hotkey | str] | None = None, **options: Any
    ) -> httpx.Client:
        """Makes an httpx client, as `Caller.http_client` does, safe to use from several threads."""
        from nexus_auth.adapters.tls.httpx_transport import build_client  # noqa: PLC0415

        return build_client(self._run, self.tls_context, _parse_all(hotkeys), options)

    def _run(self, call: Callable[[ServerKeys], Coroutine[Any, Any, R]]) -> R:
        try:
            return self._background.run(lambda caller: call(caller._keys))  # noqa: SLF001 - ours
        except TimeoutError:
            raise RegistryUnavailable("no answer came in time") from None


def _parse(hotkey: Hotkey | str) -> Hotkey:
    return hotkey if isinstance(hotkey, Hotkey) else Hotkey.parse(hotkey)


def _parse_all(hotkeys: Mapping[str, Hotkey | str] | None) -> dict[str, Hotkey]:
    return {host: _parse(hotkey) for host, hotkey in (hotkeys or {}).items()}
