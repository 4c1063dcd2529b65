"""A development Pylon on a real loopback socket, for every test that needs one to talk to.

    with running_pylon() as pylon:
        pylon.store.set_certificate(hotkey, key)
        ...  # talk to pylon.url as pylon.identity_name with pylon.token
        pylon.requests[-1].path  # what it was asked

It can be made to misbehave while it runs: `fail_with`, `answer_after`, `stop` and `start`.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from nexus_auth.adapters.devnet.app import build_devnet_app
from nexus_auth.adapters.devnet.records import DEFAULT_NETUID
from nexus_auth.adapters.devnet.store import DevnetStore
from nexus_auth.domain.hotkey import Hotkey
from tests.builders import a_hotkey
from tests.integration.real import free_port, wait_until_ready

IDENTITY_NAME: Final = "dev"
TOKEN: Final = "token-of-dev"
OPEN_ACCESS_TOKEN: Final = "token-of-everybody"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as it was answered: its decoded path, and X-Pylon-Timeout as sent."""

    method: str
    path: str
    status: int
    timeout: str | None


class RunningPylon:
    """A development Pylon in a thread of its own. Made by `running_pylon`."""

    identity_name = IDENTITY_NAME
    token = TOKEN
    open_access_token = OPEN_ACCESS_TOKEN
    netuid = DEFAULT_NETUID

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self.hotkey: Hotkey = a_hotkey(IDENTITY_NAME)
        self.port = free_port()
        self._tls = tls
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        """Its base URL; the same one after `stop` and `start`."""
        server = "http://127.0.0.1" if self._tls is None else "https://localhost"
        return f"{server}:{self.port}"

    def serve(self, store: DevnetStore, *, publish_seconds: float = 0.0) -> None:
        """Goes on with this store and an empty list of requests, and behaves again."""
        self.store = store
        self.requests: list[RequestRecord] = []
        self._failing_status: int | None = None
        self._failing_where = ""
        self._delay_seconds = 0.0
        self._delay_where = ""
        self._app: ASGIApp = build_devnet_app(
            store, publish_seconds=publish_seconds, request_log=self._note
        )

    def _note(self, scope: Scope, status: int, _seconds: float = 0.0) -> None:
        timeout = Headers(scope=scope).get("x-pylon-timeout")
        self.requests.append(RequestRecord(scope["method"], scope["path"], status, timeout))

    def fail_with(self, status: int | None, *, where: str = "") -> None:
        """Answers with this status and Pylon's error body; None ends that.

        Args:
            status: Of every answer from now on.
            where: Only where this regular expression is found in the path.
        """
        self._failing_status = status
        self._failing_where = where

    def answer_after(self, seconds: float, *, where: str = "") -> None:
        """Waits so long before each answer; 0 ends that. `where` is as of `fail_with`."""
        self._delay_seconds, self._delay_where = seconds, where

    def start(self) -> None:
        """Begins to listen, on the port it had before where it had one."""
        if self._server is not None:
            return
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._server = server = uvicorn.Server(
            uvicorn.Config(
                self._misbehaving_app,
                interface="asgi3",  # not guessed: a bound method looks like ASGI 2
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                ssl_certfile=None if self._tls is None else self._tls[0],
                ssl_keyfile=None if self._tls is None else self._tls[1],
            )
        )
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [self._listener]}, daemon=True
        )
        self._thread.start()
        wait_until_ready(lambda: server.started, what="the development Pylon")

    def stop(self) -> None:
        """Stops listening and cuts every connection; the store stays open."""
        if self._server is None or self._thread is None or self._listener is None:
            return
        self._server.should_exit = True
        self._thread.join(10)
        self._listener.close()
        self._server = self._thread = self._listener = None

    async def _misbehaving_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._delay_seconds and re.search(self._delay_where, scope["path"]):
            await asyncio.sleep(self._delay_seconds)
        status = self._failing_status
        if status is None or not re.search(self._failing_where, scope["path"]):
            await self._app(scope, receive, send)
            return
        self._note(scope, status)
        body = json.dumps({"status_code": status, "detail": "told to fail"}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def wait_for_requests(self, count: int, *, timeout_seconds: float = 10.0) -> None:
        """Waits until so many requests were answered altogether."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.requests) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.requests) >= count, self.requests


@contextmanager
def running_pylon(
    *,
    path: str = ":memory:",
    publish_seconds: float = 0.0,
    open_access_token: str | None = OPEN_ACCESS_TOKEN,
    with_identity: bool = True,
    serving_rate_limit: int = 0,
    tls: tuple[Path, Path] | None = None,
) -> Iterator[RunningPylon]:
    """Runs a development Pylon until the block ends.

    Args:
        path: The data file; in memory by default.
        publish_seconds: How long `generate` waits for its chain.
        open_access_token: None opens the open-access API to everybody.
        with_identity: Whether it has the identity `dev` on subnet 1, whose hotkey is a neuron.
        serving_rate_limit: How many blocks of 12 s lie between two axons or keys of a neuron.
        tls: Its certificate and its key, where it speaks TLS alone, as `localhost`.
    """
    pylon = RunningPylon(tls)
    with DevnetStore(path, serving_rate_limit=serving_rate_limit) as store:
        prepare(store, open_access_token=open_access_token, with_identity=with_identity)
        pylon.serve(store, publish_seconds=publish_seconds)
        pylon.start()
        try:
            yield pylon
        finally:
            pylon.stop()


def prepare(
    store: DevnetStore,
    *,
    open_access_token: str | None = OPEN_ACCESS_TOKEN,
    with_identity: bool = True,
) -> None:
    """Puts into a store what `running_pylon` promises."""
    if with_identity:
        store.add_identity(IDENTITY_NAME, hotkey=a_hotkey(IDENTITY_NAME), token=TOKEN)
    if open_access_token is not None:
        store.set_open_access_token(open_access_token)
