"""What the protocol does when the application fails it; the wire itself is an integration test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from nexus_auth.adapters.starlette.answers import Answer
from nexus_auth.adapters.starlette.auth_app import FastPath
from nexus_auth.adapters.starlette.gate import Claim
from nexus_auth.adapters.starlette.trusted_peers import TrustedPeers
from nexus_auth.adapters.uvicorn.head_protocol import (
    DRAIN_IDLE_SECONDS,
    HEADS_NOT_LOOKED_UP,
    LINGER_BYTES,
    MAX_HEAD_BYTES,
    NEW_HEADS_IN_A_ROW,
    HeadProtocol,
    Shared,
)
from nexus_auth.adapters.uvicorn.known_heads import HEADS_KEPT
from nexus_auth.domain.ports import Headers

UNIX = ("/run/auth.sock", None)
REQUEST = b"GET /a%20b?c=d HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: \tc \r\n\r\n"


class Transport(asyncio.Transport):
    """Remembers what was done to it."""

    def __init__(
        self,
        peer: object = ("10.0.0.7", 1234),
        *,
        name: object = ("127.0.0.1", 8080),
        family: int = socket.AF_INET,
    ) -> None:
        super().__init__()
        self.info = {
            "peername": peer,
            "sockname": name,
            "socket": SimpleNamespace(family=family),
        }
        self.written = b""
        self.done: list[str] = []
        self.unsent = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.info.get(name, default)

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
    """A fast path that knows one certificate, and notes what it is shown."""

    def __init__(self, answer: Callable[[], Answer | None]) -> None:
        self._answer = answer
        self.seen: list[tuple[list[tuple[bytes, bytes]], bytes, bytes]] = []
        self.fast_path = FastPath(
            trusts=lambda client, _server: client != ("192.0.2.1", 1),
            read=lambda _headers: Claim(b"c"),
            answer=self.answer,
            deny_unread=lambda _detail: Answer(403, ((b"content-length", b"0"),), b""),
        )

    def answer(self, claim: Claim, headers: Headers, method: bytes, target: bytes) -> Answer | None:
        assert claim == Claim(b"c")
        self.seen.append((list(headers), method, target))
        return self._answer()


GRANT = Answer(200, ((b"content-length", b"2"),), b"ok")


async def denies(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers 403 in two pieces."""
    await send({"type": "http.response.start", "status": 403, "headers": [(b"x-a-b", b"c")]})
    await send({"type": "http.response.body", "body": b"n", "more_body": True})
    await send({"type": "http.response.body", "body": b"o"})


def connected(
    app: ASGIApp,
    grants: Grants | None = None,
    shared: Shared | None = None,
    **ends: Any,
) -> tuple[HeadProtocol, Transport]:
    """A protocol with a connection."""
    config = uvicorn.Config(app, interface="asgi3", log_config=None)
    config.load()
    fast_path = None if grants is None else grants.fast_path
    protocol = HeadProtocol(config, ServerState(), {}, fast_path=fast_path, shared=shared)
    transport = Transport(**ends)
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


@pytest.mark.parametrize(
    ("ends", "client", "server"),
    [
        ({}, ("10.0.0.7", 1234), ("127.0.0.1", 8080)),
        (
            {"peer": ("fd00::7", 1, 0, 0), "name": ("::1", 2, 0, 0), "family": socket.AF_INET6},
            ("fd00::7", 1),
            ("::1", 2),
        ),
        # Reset before it was accepted: the peer's name, and on some systems ours, is lost.
        ({"peer": None}, None, ("127.0.0.1", 8080)),
        ({"peer": None, "name": None}, None, None),
        ({"peer": None, "name": ""}, None, None),
        ({"peer": "", "name": "/run/auth.sock"}, None, None),
        ({"peer": "", "name": "/run/auth.sock", "family": socket.AF_UNIX}, None, UNIX),
        ({"peer": None, "name": "/run/auth.sock", "family": socket.AF_UNIX}, None, UNIX),
    ],
)
async def test_connection_is_a_unix_sockets_by_its_family_alone(
    ends: dict[str, Any], client: object, server: object
) -> None:
    """A missing name says nothing, and only a unix socket has a path."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    protocol, _ = connected(app, **ends)
    protocol.data_received(REQUEST)
    await rest()
    assert [(scope["client"], scope["server"]) for scope in seen] == [(client, server)]
    is_unix = ends.get("family") == socket.AF_UNIX
    trusted = TrustedPeers.parse("192.0.2.1")
    assert trusted.include(seen[0]["client"], seen[0]["server"]) is is_unix


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
    assert idle._deadline <= asyncio.get_running_loop().time() + DRAIN_IDLE_SECONDS
    idle._deadline = 0.0
    idle._check_time()
    assert idle_transport.done == ["close"]
    assert begun_transport.done == []
    begun.data_received(REQUEST[20:])
    await rest()
    assert b"\r\nConnection: close\r\n" in begun_transport.written


@pytest.mark.parametrize(
    "request_bytes",
    [
        REQUEST,
        REQUEST.replace(b"GET", b"HEAD"),
        REQUEST.replace(b"GET", b"PURGE"),
        REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_known_head_is_shown_and_answered_as_the_first_time(request_bytes: bytes) -> None:
    """Knowing a head spares the parser and nothing else."""
    grants = Grants(lambda: GRANT)
    protocol, transport = connected(denies, grants)
    protocol.data_received(request_bytes)
    first = transport.written
    protocol.data_received(request_bytes)
    protocol.data_received(request_bytes)
    assert transport.written == first * 3
    assert grants.seen == [grants.seen[0]] * 3


async def test_known_head_is_decided_anew_every_time() -> None:
    """Nothing about a decision is kept with it: the application denies what was granted before."""
    answers: list[Answer | None] = [GRANT, GRANT, None]
    protocol, transport = connected(denies, Grants(lambda: answers.pop(0)))
    protocol.data_received(REQUEST)
    protocol.data_received(REQUEST)
    transport.written = b""
    protocol.data_received(REQUEST)
    await rest()
    assert transport.written.startswith(b"HTTP/1.1 403 Forbidden\r\nX-A-B: c\r\n")


async def test_known_head_is_answered_with_what_was_decided_this_time() -> None:
    """A response is found by the answer, not by the question."""
    answers = [GRANT, GRANT, Answer(200, ((b"content-length", b"1"),), b"!")]
    protocol, transport = connected(denies, Grants(lambda: answers.pop(0)))
    for _ in range(3):
        transport.written = b""
        protocol.data_received(REQUEST)
    assert transport.written == b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!"


async def test_known_head_of_a_draining_connection_ends_it() -> None:
    """The answer says that it was the last one."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    protocol.data_received(REQUEST)
    protocol.data_received(REQUEST)
    protocol.shutdown()
    transport.written = b""
    protocol.data_received(REQUEST)
    assert b"Connection: close\r\n" in transport.written
    assert "write_eof" in transport.done


@pytest.mark.parametrize(
    "request_bytes",
    [
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"),
        REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n"),
        REQUEST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        REQUEST.replace(b"\r\n\r\n", b"\r\nX-Padding: " + b"a" * 5000 + b"\r\n\r\n"),
        REQUEST.replace(b"\r\n\r\n", b"\r\n" + b"aa:b\r\n" * 100 + b"\r\n"),
    ],
)
async def test_unusual_heads_are_not_known_again(request_bytes: bytes) -> None:
    """Only short ones of few fields and no body, after which the connection goes on."""
    shared = Shared()
    for _ in range(2):
        protocol, _ = connected(denies, Grants(lambda: GRANT), shared=shared)
        protocol.data_received(request_bytes)
    assert not shared.heads
    protocol, _ = connected(denies, Grants(lambda: GRANT), shared=shared)
    protocol.data_received(REQUEST)
    assert len(shared.heads) == 1
    assert shared.heads.find(REQUEST)


async def test_only_heads_that_were_granted_are_known_and_so_many() -> None:
    """Strangers fill no memory with heads, and neither do callers."""
    shared = Shared()
    protocol, _ = connected(denies, Grants(lambda: None), shared=shared)
    protocol.data_received(REQUEST)
    await rest()
    assert not shared.heads
    for number in range(HEADS_KEPT + 100):
        if number % NEW_HEADS_IN_A_ROW == 0:
            protocol, _ = connected(denies, Grants(lambda: GRANT), shared=shared)
        protocol.data_received(REQUEST.replace(b"c=d", b"%d" % number))
    assert len(shared.heads) == HEADS_KEPT


async def test_connection_on_which_every_head_is_new_keeps_none_of_them_in_the_end() -> None:
    """A proxy that names its requests pays for no search that finds nothing."""
    shared = Shared()
    protocol, _ = connected(denies, Grants(lambda: GRANT), shared=shared)
    for number in range(2 * NEW_HEADS_IN_A_ROW):
        protocol.data_received(REQUEST.replace(b"c=d", b"%d" % number))
    assert len(shared.heads) <= NEW_HEADS_IN_A_ROW


async def test_connection_on_which_many_callers_were_new_knows_them_in_the_end() -> None:
    """A proxy with one connection is not slow for ever because everybody came at once."""
    shared = Shared()
    protocol, _ = connected(denies, Grants(lambda: GRANT), shared=shared)
    callers = [REQUEST.replace(b"c=d", b"%d" % n) for n in range(2 * NEW_HEADS_IN_A_ROW)]
    for _ in range(4 * HEADS_NOT_LOOKED_UP // len(callers)):
        for head in callers:
            protocol.data_received(head)
    assert all(shared.heads.find(head) for head in callers)


async def test_response_carries_the_date_of_its_second() -> None:
    """A kept response is not sent when uvicorn has a new date."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    server = protocol._server
    for date in (b"one", b"two"):
        server.default_headers = [(b"date", date)]
        for _ in range(2):
            transport.written = b""
            protocol.data_received(REQUEST)
            assert b"\r\nDate: %s\r\n" % date in transport.written
