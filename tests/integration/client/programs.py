"""The caller's kit as programs use it: on asyncio, on uvloop, and without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final, TypeVar

import httpx
import uvloop

from nexus_auth import Hotkey
from nexus_auth.client import Caller, SyncCaller

R = TypeVar("R")
OpenCaller = Callable[[], AbstractAsyncContextManager[Caller]]
Call = Callable[..., httpx.Response]
"""`call(url, hotkey=..., method=..., ...)`: calls, and reads the whole answer."""

KINDS: Final = ("asyncio", "uvloop", "sync")


@contextmanager
def running_client(
    kind: str,
    open_caller: OpenCaller,
    *,
    hotkeys: Mapping[str, Hotkey | str] | None = None,
    **options: Any,
) -> Iterator[Call]:
    """Opens a client of one kind, and closes it at the end.

    Args:
        kind: One of `KINDS`.
        open_caller: As for `SyncCaller`.
        hotkeys: By host.
        options: Of httpx.
    """
    if kind == "sync":
        with SyncCaller(open_caller) as caller, caller.http_client(hotkeys=hotkeys, **options) as h:

            def call(url: str, *, hotkey: object = None, **more: Any) -> httpx.Response:
                return h.request(**_arguments(url, hotkey, more))

            yield call
        return
    factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    with running_loop(factory) as run:
        opened = open_caller()
        caller_ = run(opened.__aenter__())
        client = caller_.http_client(hotkeys=hotkeys, **options)
        try:
            yield lambda url, *, hotkey=None, **more: run(
                client.request(**_arguments(url, hotkey, more))
            )
        finally:
            run(client.aclose())
            run(opened.__aexit__(None, None, None))


def _arguments(url: str, hotkey: object, more: dict[str, Any]) -> dict[str, Any]:
    extensions = {} if hotkey is None else {"hotkey": hotkey}
    return {"method": "GET", "url": url, "extensions": extensions, **more}


@contextmanager
def running_loop(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> Iterator[Callable[[Coroutine[Any, Any, R]], R]]:
    """Runs an event loop in a thread, and gives what runs a coroutine in it and waits."""
    loop = factory()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
