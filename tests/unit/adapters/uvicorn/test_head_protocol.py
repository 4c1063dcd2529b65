"""What the protocol does when the application fails it; the wire itself is an integration test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from nexus_auth.adapters.starlette.auth_app import Answer, Headers
from nexus_auth.adapters.uvicorn.head_protocol import (
    FAREWELL_SECONDS,
    LINGER_BYTES,
    MAX_HEAD_BYTES,
    FastPath,
    HeadProtocol,
)

REQUEST = b"GET /a%20b?c=d HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: \tc \r\n\r\n"


class Transport(asyncio.Transport):
    """Remembers what was done to it."""

    def __init__(self, peer: object = ("10.0.0.7", 1234)) -> None:
        super().__init__()
        self.peer = peer
        self.written = b""
        self.done: list[str] = []
        self.unsent = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.peer if name == "peername" else ("127.0.0.1", 8080)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write_eof(self) -> None:
        self.done.append("write_eof")

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def pause_reading(self) -> None:
        self.done.append("pause_reading")

    def resume_reading(self) -> None:
        self.done.append("resume_reading")


class Grants:
    """A fast path that knows one certificate."""

    def __init__(self, answer: Callable[[], Answer | None]) -> None:
        self.answer = answer

    def trusts(self, client: tuple[str, int] | None) -> bool:
        return client != ("192.0.2.1", 1)

    def answer_remembered(self, headers: Headers, method: bytes, target: bytes) -> Answer | None:
        return self.answer()

    def refuse_unread(self, detail: str) -> Answer:
        return Answer(403, ((b"content-length", b"0"),), b"")


GRANT = Answer(200, ((b"content-length", b"2"),), b"ok")


async def denies(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers 403 in two pieces."""
    await send({"type": "http.response.start", "status": 403, "headers": [(b"x-a-b", b"c")]})
    await send({"type": "http.response.body", "body": b"n", "more_body": True})
    await send({"type": "http.response.body", "body": b"o"})


def connected(
    app: ASGIApp, fast_path: FastPath | None = None, **peer: object
) -> tuple[HeadProtocol, Transport]:
    """A protocol with a connection."""
    config = uvicorn.Config(app, interface="asgi3", log_config=None)
    config.load()
    protocol = HeadProtocol(config, ServerState(), {}, fast_path=fast_path)
    transport = Transport(**peer)
    protocol.connection_made(transport)
    return protocol, transport


async def rest() -> None:
    """Lets tasks run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_remembered_caller_is_answered_without_a_task() -> None:
    """Before the call returns."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    protocol.data_received(REQUEST)
    assert transport.written == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_peer_that_is_not_trusted_has_no_fast_path() -> None:
    """The application denies it."""
    protocol, transport = connected(denies, Grants(lambda: GRANT), peer=("192.0.2.1", 1))
    protocol.data_received(REQUEST)
    await rest()
    assert transport.written.startswith(b"HTTP/1.1 403 Forbidden\r\nX-A-B: c\r\n")


async def test_failing_fast_path_leaves_the_decision_to_the_application() -> None:
    """A defect there is no grant and no end of the connection."""

    def fail() -> Answer:
        raise RuntimeError("a defect")

    protocol, transport = connected(denies, Grants(fail))
    protocol.data_received(REQUEST)
    await rest()
    assert transport.written.endswith(b"\r\n\r\nno")


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    """An application with a defect, in the middle of a grant."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-hotkey", b"5F")]})
    raise RuntimeError("a defect")


async def gives_up(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that never finishes its grant."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-hotkey", b"5F")]})


@pytest.mark.parametrize("app", [raises, gives_up])
async def test_failing_application_is_a_denial(app: ASGIApp) -> None:
    """Nothing of a grant that was not finished is sent."""
    protocol, transport = connected(app)
    protocol.data_received(REQUEST)
    await rest()
    assert transport.written.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"hotkey" not in transport.written.lower()
    assert "write_eof" in transport.done


async def test_application_sees_an_ordinary_scope() -> None:
    """Any ASGI application can be served that needs no body."""
    seen: list[Scope] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        assert await receive() == {"type": "http.disconnect"}

    protocol, _ = connected(look)
    protocol.data_received(REQUEST)
    await rest()
    (scope,) = seen
    assert scope["method"] == "GET"
    assert (scope["path"], scope["raw_path"]) == ("/a b", b"/a%20b")
    assert scope["query_string"] == b"c=d"
    assert scope["headers"] == [(b"host", b"auth"), (b"x-client-cert", b"c")]
    assert scope["client"] == ("10.0.0.7", 1234)
    assert scope["http_version"] == "1.1"


async def test_oversized_head_without_a_fast_path_is_refused() -> None:
    """The admin listener has no decisions to give."""
    protocol, transport = connected(denies)
    protocol.data_received(b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES)
    assert transport.written.startswith(b"HTTP/1.1 400 ")


async def test_lingering_has_an_end() -> None:
    """Whoever goes on sending after the last answer is cut off."""
    protocol, transport = connected(denies)
    protocol.data_received(b"hello\r\n\r\n")
    protocol.data_received(b"a" * LINGER_BYTES)
    assert "abort" not in transport.done
    protocol.data_received(b"a")
    assert transport.done[-1] == "abort"


async def test_client_that_does_not_read_is_not_read_either() -> None:
    """Until it does; and when its time is over it is cut off."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    protocol.pause_writing()
    protocol.data_received(REQUEST * 2)
    assert transport.written == b""
    assert transport.done == ["pause_reading"]
    protocol.resume_writing()
    assert transport.written.count(b"200 OK") == 2
    assert transport.done[-1] == "resume_reading"
    transport.unsent = 1
    protocol._deadline = 0.0
    protocol._check_time()
    assert transport.done[-1] == "abort"


async def test_lost_connection_needs_no_answer() -> None:
    """A decision that comes too late is written nowhere."""
    protocol, transport = connected(denies)
    protocol.data_received(REQUEST)
    protocol.connection_lost(None)
    await rest()
    assert transport.written == b""


async def test_ending_server_closes_what_stays_idle_and_finishes_the_rest() -> None:
    """A request that began is answered; its connection ends with it."""
    idle, idle_transport = connected(denies)
    begun, begun_transport = connected(denies)
    begun.data_received(REQUEST[:20])
    for protocol in (idle, begun):
        protocol.shutdown()
    # A request may be on its way: the connection is told to end with the answer, or ends soon.
    assert idle_transport.done == []
    assert idle._deadline <= asyncio.get_running_loop().time() + FAREWELL_SECONDS
    idle._deadline = 0.0
    idle._check_time()
    assert idle_transport.done == ["close"]
    assert begun_transport.done == []
    begun.data_received(REQUEST[20:])
    await rest()
    assert b"\r\nConnection: close\r\n" in begun_transport.written
