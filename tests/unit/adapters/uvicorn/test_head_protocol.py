"""What the protocol does when the application fails it; the wire itself is an integration test."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import socket
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState

from nexus_auth.adapters.log_throttle import QUIET_SECONDS
from nexus_auth.adapters.starlette.answers import DENIALS, Answer
from nexus_auth.adapters.starlette.auth_app import FastPath
from nexus_auth.adapters.starlette.gate import HEAD_ONLY, UNTRUSTED_DETAIL, Claim
from nexus_auth.adapters.starlette.trusted_peers import TrustedPeers
from nexus_auth.adapters.uvicorn import head_protocol
from nexus_auth.adapters.uvicorn.head_protocol import (
    ASSURED_BYTES,
    CLOSED_AT_ONCE,
    DRAIN_IDLE_SECONDS,
    FLOOD_BYTES,
    HEAD_TIMEOUT_SECONDS,
    HEADS_NOT_LOOKED_UP,
    LINGER_BYTES,
    LINGER_SECONDS,
    MAX_EMPTY_LINES,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    NEW_HEADS_IN_A_ROW,
    ROOM_BYTES,
    WRITE_BUFFER_BYTES,
    HeadProtocol,
    Shared,
)
from nexus_auth.adapters.uvicorn.known_heads import HEADS_KEPT
from nexus_auth.domain.ports import Headers
from nexus_auth.domain.reasons import DenialReason
from tests.unit.adapters.registry.sources import FakeClocks

UNIX = ("/run/auth.sock", None)
REQUEST = b"GET /a%20b?c=d HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: \tc \r\n\r\n"

LONG_REQUEST = REQUEST.replace(b"\r\n\r\n", b"\r\nX: " + b"a" * 20_000 + b"\r\n\r\n")


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
        self.limits: list[int | None] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.info.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits.append(high)

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

    def __init__(
        self, answer: Callable[[], Answer | None], *, has_named_peers: bool = False
    ) -> None:
        self._answer = answer
        self.seen: list[tuple[list[tuple[bytes, bytes]], bytes, bytes]] = []
        self.denied: list[tuple[DenialReason, str, bytes, bytes]] = []
        self.fast_path = FastPath(
            trusts=lambda client, _server: client != ("192.0.2.1", 1),
            read=lambda _headers: Claim(b"c"),
            answer=self.answer,
            deny_unread=self.deny,
            has_named_peers=has_named_peers,
        )

    def deny(self, reason: DenialReason, detail: str, method: bytes, target: bytes) -> Answer:
        self.denied.append((reason, detail, method, target))
        return DENIALS[reason]

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


@pytest.mark.parametrize(
    ("first", "seen"),
    [
        (REQUEST, (b"GET", b"/a%20b?c=d")),
        (REQUEST.replace(b"GET", b"HEAD"), (b"HEAD", b"/a%20b?c=d")),
        (REQUEST[:5], (b"", b"")),
        (b"G" * 1000, (b"", b"")),
        (b"\x16\x03\x01", (b"", b"")),
        (b"\n", (b"", b"")),
    ],
)
async def test_peer_that_is_not_trusted_is_denied_at_its_first_bytes(
    first: bytes, seen: tuple[bytes, bytes]
) -> None:
    """Whatever they are; nothing is kept, and nothing more is answered."""
    grants, shared = Grants(lambda: GRANT), Shared()
    protocol, transport = connected(denies, grants, shared, peer=("192.0.2.1", 1))
    assert transport.written == b""
    protocol.data_received(first)
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Forbidden\r\nX-Nexus-Auth-Reason: untrusted-peer\r\n")
    assert head.endswith(b"\r\nConnection: close")
    assert bool(body) is (seen[0] != b"HEAD")
    assert "write_eof" in transport.done
    answered = transport.written
    for _ in range(3):
        protocol.data_received(REQUEST)
        assert not protocol._received
        assert shared.bytes_held == 0
    await rest()
    assert transport.written == answered
    assert grants.seen == []
    assert grants.denied == [(DenialReason.UNTRUSTED_PEER, UNTRUSTED_DETAIL, *seen)]


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
    received: list[Message] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        received.append(await receive())

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
    assert received == [{"type": "http.disconnect"}]


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


def fill(shared: Shared, size: int) -> list[HeadProtocol]:
    """Connections that hold so much of unfinished heads, each as much as it may by itself."""
    filling = []
    while shared.bytes_held + ASSURED_BYTES <= size:
        protocol, _ = connected(denies, Grants(lambda: None), shared)
        protocol.data_received(b"GET / HTTP/1.1\r\nX: ".ljust(ASSURED_BYTES, b"a"))
        filling.append(protocol)
    return filling


async def test_unfinished_heads_of_all_connections_have_one_budget() -> None:
    """Where it is used up, a long head is denied and an ordinary one is not."""
    shared, grants = Shared(), Grants(lambda: GRANT)
    filling = fill(shared, ROOM_BYTES)
    assert shared.bytes_held == ROOM_BYTES
    long, long_transport = connected(denies, grants, shared)
    long.data_received(b"GET / HTTP/1.1\r\nX: ".ljust(ASSURED_BYTES, b"a"))
    assert long_transport.written == b""
    long.data_received(b"a")
    assert long_transport.written.startswith(b"HTTP/1.1 403 ")
    assert grants.denied == [
        (DenialReason.MALFORMED_CERTIFICATE, "no room for the head of the request", b"", b"")
    ]
    assert shared.bytes_held == ROOM_BYTES
    ordinary, transport = connected(denies, grants, shared)
    for piece in (REQUEST[:30], REQUEST[30:], REQUEST):
        ordinary.data_received(piece)
    assert transport.written.count(b"200 OK") == 2
    # What a decision takes counts as well, and is let through where it is little.
    undecided, transport = connected(denies, Grants(lambda: None), shared)
    undecided.data_received(REQUEST)
    assert shared.bytes_held > ROOM_BYTES
    await rest()
    assert transport.written.startswith(b"HTTP/1.1 403 Forbidden\r\nX-A-B: c\r\n")
    assert shared.bytes_held == ROOM_BYTES
    many, transport = connected(denies, grants, shared)
    many.data_received(LONG_REQUEST)
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    for protocol in filling:
        protocol.connection_lost(None)
    assert shared.bytes_held == 0


async def test_decision_on_a_long_head_needs_room() -> None:
    """A head that came whole is no way around the budget."""
    shared, grants = Shared(), Grants(lambda: None)
    filling = fill(shared, ROOM_BYTES)
    protocol, transport = connected(denies, grants, shared)
    protocol.data_received(LONG_REQUEST)
    assert transport.written.startswith(b"HTTP/1.1 403 ")
    assert b"Connection: close" in transport.written
    assert len(grants.denied) == 1
    assert shared.bytes_held == ROOM_BYTES
    assert filling


async def test_pipelined_requests_without_room_are_not_answered() -> None:
    """The request before them is, and its answer says that the connection ends."""
    shared = Shared()
    filling = fill(shared, ROOM_BYTES)
    protocol, transport = connected(denies, Grants(lambda: None), shared)
    protocol.data_received(REQUEST)
    held = shared.bytes_held
    protocol.data_received(REQUEST * 300)
    assert len(protocol._received) == 0
    assert shared.bytes_held == held
    await rest()
    assert transport.written.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in transport.written
    assert shared.bytes_held == ROOM_BYTES
    assert filling


async def test_memory_is_given_back_once_after_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """When most of what was held is free, and not for the little that an ordinary minute holds."""
    given: list[int] = []
    shared = Shared()
    monkeypatch.setattr(head_protocol, "give_memory_back", lambda: given.append(shared.bytes_held))
    few = fill(shared, FLOOD_BYTES)
    for protocol in few:
        protocol.connection_lost(None)
    assert given == []
    for protocol in fill(shared, ROOM_BYTES):
        protocol.connection_lost(None)
    assert len(given) == 1
    assert given[0] < ROOM_BYTES // 4


@pytest.mark.parametrize("ends_by", ["peer", "idle", "malformed", "upgrade", "unusual", "granted"])
async def test_lost_connection_is_freed_without_the_collector(ends_by: str) -> None:
    """No reference leads back to a protocol, however its connection ended."""
    sent = {
        "peer": b"GET / HTTP/1.1\r\nHost: auth\r\nX: " + b"a" * 1000,
        "idle": b"",
        "malformed": b"hello\r\n\r\n",
        "upgrade": REQUEST.replace(b"Host", b"Upgrade: x\r\nConnection: upgrade\r\nHost"),
        "unusual": REQUEST.replace(b"GET", b"FOO"),
        "granted": REQUEST,
    }[ends_by]
    shared, config = Shared(), uvicorn.Config(denies, interface="asgi3", log_config=None)
    config.load()
    alive: list[weakref.ref[HeadProtocol]] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            grants = Grants(lambda: GRANT if ends_by == "granted" else None)
            protocol = HeadProtocol(
                config, ServerState(), {}, fast_path=grants.fast_path, shared=shared
            )
            protocol.connection_made(Transport())
            if sent:
                protocol.data_received(sent)
                protocol.data_received(sent)
            await rest()
            protocol.connection_lost(None)
            alive.append(weakref.ref(protocol))
            del protocol, grants
        await rest()
        assert [each for each in alive if each() is not None] == []
    finally:
        gc.enable()
    assert shared.bytes_held == 0


class Crowd:
    """Connections of one listener."""

    def __init__(self, limit: int, *, has_named_peers: bool = False) -> None:
        self.shared = Shared(max_connections=limit)
        self.state = ServerState()
        self.grants = Grants(lambda: GRANT, has_named_peers=has_named_peers)
        self._config = uvicorn.Config(denies, interface="asgi3", log_config=None)
        self._config.load()

    def connect(
        self,
        peer: tuple[str, int] = ("10.0.0.7", 1),
        *,
        idle_for: float = 0.0,
        granted: bool = False,
    ) -> Transport:
        """Another connection, that has been idle for so many seconds."""
        protocol = HeadProtocol(
            self._config, self.state, {}, fast_path=self.grants.fast_path, shared=self.shared
        )
        transport = Transport(peer=peer)
        protocol.connection_made(transport)
        if granted:
            protocol.data_received(REQUEST)
        protocol._deadline -= idle_for
        return transport


STRANGER = ("192.0.2.1", 1)


async def test_connections_are_limited_and_the_longest_idle_one_makes_room() -> None:
    """A port without named proxies: one on which a grant was given is kept for longest."""
    crowd = Crowd(CLOSED_AT_ONCE * 2)
    granted = [crowd.connect(idle_for=9, granted=True) for _ in range(CLOSED_AT_ONCE // 2)]
    old = [crowd.connect(idle_for=5) for _ in range(CLOSED_AT_ONCE)]
    young = [crowd.connect() for _ in range(CLOSED_AT_ONCE // 2)]
    assert len(crowd.state.connections) == CLOSED_AT_ONCE * 2
    with structlog.testing.capture_logs() as lines:
        newest = crowd.connect()
    assert [line["event"] for line in lines] == ["too_many_connections"]
    assert all(each.done == ["abort"] for each in old)
    assert all(each.done == [] for each in [*granted, *young, newest])
    assert len(crowd.state.connections) == CLOSED_AT_ONCE + 1


async def test_strangers_cannot_take_the_connections_of_callers_that_were_granted() -> None:
    """However many come: a pool of connections that a proxy keeps stays."""
    crowd = Crowd(40)
    pool = [crowd.connect(idle_for=9, granted=True) for _ in range(20)]
    for _ in range(200):
        assert crowd.connect().done == []
        assert len(crowd.state.connections) <= 40
    assert all(each.done == [] for each in pool)


async def test_connections_that_were_all_granted_make_room_by_age() -> None:
    """A certificate is public, so that anybody may show one: newcomers are not locked out."""
    crowd = Crowd(2 * CLOSED_AT_ONCE)
    old = [crowd.connect(idle_for=9, granted=True) for _ in range(CLOSED_AT_ONCE)]
    young = [crowd.connect(granted=True) for _ in range(CLOSED_AT_ONCE)]
    assert crowd.connect().done == []
    assert all(each.done[-1:] == ["abort"] for each in old)
    assert all(each.done == [] for each in young)


async def test_connection_of_a_named_proxy_is_never_closed_for_a_stranger() -> None:
    """Where proxies are named, theirs are kept from the first moment on."""
    crowd = Crowd(20, has_named_peers=True)
    proxy = [crowd.connect(idle_for=9) for _ in range(15)]
    strangers = [crowd.connect(STRANGER) for _ in range(5)]
    strangers.append(crowd.connect(STRANGER))
    assert [each.done for each in strangers] == [["abort"]] * 5 + [[]]
    proxy += [crowd.connect() for _ in range(5)]
    assert strangers[-1].done == ["abort"]
    assert crowd.connect(STRANGER).done == ["abort"]
    assert all(each.done == [] for each in proxy)
    assert crowd.connect().done == []


async def test_newest_connection_goes_where_no_other_is_idle() -> None:
    """A decision that is under way is never given up for another."""
    crowd = Crowd(3)
    crowd.grants._answer = lambda: None
    busy = [crowd.connect(granted=True) for _ in range(3)]
    assert crowd.connect().done == ["abort"]
    await rest()
    assert all(each.written.startswith(b"HTTP/1.1 403 ") for each in busy)


async def test_admin_listener_has_a_limit_too() -> None:
    """The longest idle connection goes, whatever was answered on it."""
    shared, state = Shared(max_connections=3), ServerState()
    config = uvicorn.Config(denies, interface="asgi3", log_config=None)
    config.load()
    transports = []
    for _ in range(4):
        protocol = HeadProtocol(config, state, {}, fast_path=None, shared=shared)
        transports.append(Transport())
        protocol.connection_made(transports[-1])
        protocol._deadline -= 1
    assert [each.done for each in transports] == [["abort"]] * 3 + [[]]


async def test_malformed_requests_are_counted_and_logged_once_in_a_while() -> None:
    """With what they begin with, of bounded length and without a query, and who sent them."""
    clock, counted = FakeClocks(), []
    shared = Shared(monotonic=clock.monotonic, count_malformed=lambda: counted.append(1))
    bad = b"GET /" + b"\x1b" * 100 + b"?token=secret\r\n\r\n"
    with structlog.testing.capture_logs() as lines:
        for request in (bad, bad, b"PROXY TCP4 a b\r\n\r\n", b"\nGET"):
            protocol, transport = connected(denies, Grants(lambda: GRANT), shared)
            protocol.data_received(request)
            assert transport.written.startswith(b"HTTP/1.1 400 ")
        clock.advance(QUIET_SECONDS)
        protocol, _ = connected(denies, None, shared)
        protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert len(counted) == 5
    assert lines == [
        {
            "event": "malformed_request",
            "log_level": "warning",
            "problem": "no HTTP/1 request",
            "begins": "GET /" + "\x1b" * 43,
            "peer": "10.0.0.7",
        },
        {
            "event": "malformed_request",
            "log_level": "warning",
            "problem": "0 Host fields",
            "begins": "GET / HTTP/1.1",
            "peer": "10.0.0.7",
        },
    ]


async def test_answers_that_are_not_read_are_few() -> None:
    """Counted by the transport: beyond this, and not by one, the client does not read."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    assert transport.limits == [WRITE_BUFFER_BYTES]
    protocol.data_received(REQUEST)
    assert 0 < len(transport.written) < WRITE_BUFFER_BYTES


@pytest.mark.parametrize("request_bytes", [LONG_REQUEST, LONG_REQUEST.replace(b"GET", b"ODD")])
@pytest.mark.parametrize("answer", [GRANT, None])
async def test_idle_connection_holds_nothing_of_its_last_request(
    request_bytes: bytes, answer: Answer | None
) -> None:
    """Whichever way it was answered: thousands of them would hold it together."""
    protocol, transport = connected(denies, Grants(lambda: answer))
    protocol.data_received(request_bytes)
    await rest()
    assert transport.written.startswith(b"HTTP/1.1 ")
    held = [getattr(protocol, name) for name in HeadProtocol.__slots__ if name != "__weakref__"]
    assert not any(b"aaaa" in repr(each).encode() for each in held)
    assert protocol._headers == []
    assert protocol._target == b""


async def grants_all(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers 200."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
GRANTED_BY_APP = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
NOT_FINISHED = (
    b"HTTP/1.1 403 Forbidden\r\nCache-Control: no-store\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class Patient:
    """An application that answers 403 when it is let."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self.may_answer.wait()
        await denies(scope, receive, send)


@pytest.mark.virtual_time
@pytest.mark.parametrize("peer", [("10.0.0.7", 1), ("192.0.2.1", 1)])
@pytest.mark.parametrize("sent", [b"", REQUEST[:-1], b"\r\n\r"])
async def test_connection_without_a_complete_head_is_closed_in_time(
    sent: bytes, peer: tuple[str, int]
) -> None:
    """Half-open ones cannot pile up, whatever they sent; bytes do not move the hand."""
    protocol, transport = connected(denies, Grants(lambda: GRANT), peer=peer)
    await asyncio.sleep(HEAD_TIMEOUT_SECONDS / 2)
    if sent and protocol.trusted:
        protocol.data_received(sent)
    await asyncio.sleep(HEAD_TIMEOUT_SECONDS / 2 - 0.1)
    assert transport.done == []
    await asyncio.sleep(0.1)
    assert transport.done == ["close"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("request_bytes", [REQUEST, REQUEST.replace(b"GET", b"HEAD")])
@pytest.mark.parametrize("answer", [GRANT, None])
async def test_each_answer_starts_the_clock_anew(
    request_bytes: bytes, answer: Answer | None
) -> None:
    """A busy connection lives on, and an idle one ends, whichever way it was answered."""
    protocol, transport = connected(denies, Grants(lambda: answer))
    for _ in range(3):
        await asyncio.sleep(HEAD_TIMEOUT_SECONDS - 0.1)
        protocol.data_received(request_bytes)
    await asyncio.sleep(HEAD_TIMEOUT_SECONDS - 0.1)
    assert not {"close", "abort"} & {*transport.done}
    await asyncio.sleep(0.1)
    assert transport.done[-1] == "close"


@pytest.mark.virtual_time
async def test_decision_takes_the_time_that_it_needs() -> None:
    """The registry bounds it. The clock of the connection starts anew with the answer."""
    app = Patient()
    protocol, transport = connected(app)
    protocol.data_received(REQUEST)
    await asyncio.sleep(HEAD_TIMEOUT_SECONDS * 3.5)
    assert transport.done == ["pause_reading"]
    app.may_answer.set()
    await asyncio.sleep(HEAD_TIMEOUT_SECONDS - 0.1)
    assert transport.written.startswith(b"HTTP/1.1 403 ")
    assert transport.done == ["pause_reading", "resume_reading"]
    await asyncio.sleep(0.1)
    assert transport.done[-1] == "close"


@pytest.mark.virtual_time
@pytest.mark.parametrize(("unsent", "end"), [(0, "close"), (1, "abort")])
async def test_ending_connection_is_read_for_a_moment(unsent: int, end: str) -> None:
    """Then it is closed; or cut off, where not even the answer was read."""
    protocol, transport = connected(denies)
    transport.unsent = unsent
    protocol.data_received(b"hello\r\n\r\n")
    await asyncio.sleep(LINGER_SECONDS - 0.1)
    assert transport.done == ["write_eof", "resume_reading"]
    await asyncio.sleep(0.1)
    assert transport.done == ["write_eof", "resume_reading", end]


async def test_ending_connection_is_read_past_the_longest_head() -> None:
    """So that the answer to one that is too long is not lost with a reset."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    protocol.data_received(b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES)
    protocol.data_received(b"a" * MAX_HEAD_BYTES)
    assert transport.done == ["write_eof", "resume_reading"]


@pytest.mark.parametrize("refused", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nX: a\n\nb"])
async def test_ending_connection_holds_nothing(refused: bytes) -> None:
    """While it is read for a moment, thousands of others may be as well."""
    shared = Shared()
    protocol, _ = connected(denies, Grants(lambda: GRANT), shared)
    protocol.data_received(REQUEST[:40])
    assert shared.bytes_held == 40
    protocol.data_received(b"\n" + refused)
    assert len(protocol._received) == shared.bytes_held == 0
    protocol.data_received(REQUEST)
    assert len(protocol._received) == shared.bytes_held == 0


async def test_connection_that_cannot_be_half_closed_is_closed() -> None:
    """After its last answer."""
    protocol, transport = connected(denies)
    transport.can_write_eof = lambda: False  # type: ignore[method-assign]
    protocol.data_received(b"hello\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert transport.done == ["close"]


async def test_client_that_sent_all_it_had_still_gets_its_answer() -> None:
    """Where it waits for a decision, and the connection ends with it; others end at once."""
    app = Patient()
    protocol, transport = connected(app)
    protocol.data_received(REQUEST)
    assert protocol.eof_received()
    app.may_answer.set()
    await rest()
    assert b"\r\nConnection: close\r\n\r\nno" in transport.written
    assert transport.done == ["pause_reading", "close"]
    for sent in (b"", REQUEST[:20]):
        protocol, _ = connected(app)
        protocol.data_received(sent)
        assert not protocol.eof_received()


@pytest.mark.virtual_time
async def test_idle_connection_of_an_ending_server_is_closed_soon() -> None:
    """Not later than its own time, and not while a head is being sent or decided on."""
    app = Patient()
    idle, idle_transport = connected(app)
    begun, begun_transport = connected(app)
    busy, busy_transport = connected(app)
    begun.data_received(REQUEST[:20])
    busy.data_received(REQUEST)
    late, late_transport = connected(app)
    await asyncio.sleep(HEAD_TIMEOUT_SECONDS - DRAIN_IDLE_SECONDS / 2)
    late.shutdown()
    await asyncio.sleep(DRAIN_IDLE_SECONDS / 2)
    assert late_transport.done == ["close"]
    for each, transport in ((idle, idle_transport), (begun, begun_transport)):
        assert transport.done.pop() == "close"
        each._deadline += HEAD_TIMEOUT_SECONDS
    for each in (idle, begun, busy):
        each.shutdown()
    begun._arm()
    await asyncio.sleep(DRAIN_IDLE_SECONDS - 0.1)
    assert idle_transport.done == []
    await asyncio.sleep(0.1)
    assert idle_transport.done == ["close"]
    await asyncio.sleep(DRAIN_IDLE_SECONDS)
    assert begun_transport.done == []
    assert busy_transport.done == ["pause_reading"]


async def test_lost_connection_holds_nothing_whatever_is_called_on_it() -> None:
    """A timer would hold its memory, and what comes late is not taken."""
    shared = Shared()
    protocol, transport = connected(denies, shared=shared)
    protocol.data_received(REQUEST[:20])
    timer = protocol._timer
    protocol.connection_lost(None)
    protocol.connection_lost(None)
    assert timer is not None
    assert timer.cancelled()
    protocol.shutdown()
    protocol.pause_writing()
    protocol.resume_writing()
    protocol.data_received(b"a" * (LINGER_BYTES + 1))
    protocol._check_time()
    protocol._end()
    assert protocol._timer is None
    assert transport.done == []
    assert len(protocol._received) == shared.bytes_held == 0


@pytest.mark.parametrize(
    ("sent", "answer", "count"),
    [
        (REQUEST, GRANT, 1),
        (REQUEST * 3, GRANT, 3),
        (REQUEST.replace(b"GET", b"HEAD"), GRANT, 1),
        (REQUEST, None, 1),
        (REQUEST * 3, None, 3),
        (b"hello\r\n\r\n", None, 1),
    ],
)
async def test_each_answer_is_counted_once(sent: bytes, answer: Answer | None, count: int) -> None:
    """By the count of uvicorn, which may end by it."""
    protocol, transport = connected(denies, Grants(lambda: answer))
    protocol.data_received(sent)
    for _ in range(count):
        await rest()
    assert transport.written.count(b"HTTP/1.1 ") == protocol._server.total_requests == count


async def test_server_knows_its_connections_and_their_decisions() -> None:
    """Until they are over: a server that ends waits for them."""
    app = Patient()
    protocol, _ = connected(app)
    server = protocol._server
    connections: set[object] = {*server.connections}
    assert connections == {protocol}
    assert server.tasks == set()
    protocol.data_received(REQUEST)
    assert server.tasks == {protocol._task}
    app.may_answer.set()
    await rest()
    assert server.tasks == set()
    protocol.connection_lost(None)
    assert server.connections == set()


async def test_nothing_is_read_while_a_request_is_decided_on() -> None:
    """Nor then, where the client does not read its answers."""
    app = Patient()
    protocol, transport = connected(app)
    protocol.data_received(REQUEST)
    protocol.pause_writing()
    app.may_answer.set()
    await rest()
    assert transport.written.count(b"HTTP/1.1 ") == 1
    protocol.data_received(REQUEST)
    assert protocol._server.tasks == set()
    assert "resume_reading" not in transport.done
    app.may_answer.clear()
    protocol.resume_writing()
    assert protocol._server.tasks != set()
    assert transport.done == ["pause_reading"] * 3
    protocol.pause_writing()
    protocol.resume_writing()
    assert transport.done == ["pause_reading"] * 4
    app.may_answer.set()
    await rest()
    assert transport.written.count(b"HTTP/1.1 ") == 2
    assert transport.done[-1] == "resume_reading"


async def test_ending_connection_is_read_though_its_answer_waits() -> None:
    """Bytes that are not read would reset it."""
    protocol, transport = connected(denies)
    protocol.data_received(b"hello\r\n\r\n")
    protocol.pause_writing()
    protocol.resume_writing()
    assert transport.done == ["write_eof", "resume_reading"]


async def test_request_may_be_cut_anywhere_and_is_searched_once() -> None:
    """However many pieces a long head comes in: its time must not grow with their square."""
    for place in range(1, len(REQUEST)):
        protocol, transport = connected(denies, Grants(lambda: GRANT))
        protocol.data_received(REQUEST[:place])
        protocol.data_received(REQUEST[place:])
        protocol.data_received(REQUEST[:place])
        assert transport.written.count(b"200 OK") == 1
        assert place - 8 <= protocol._searched <= place
        protocol.data_received(REQUEST[place:] + REQUEST)
        assert transport.written.count(b"200 OK") == 3


@pytest.mark.parametrize("is_cut", [False, True])
async def test_few_empty_lines_are_passed_over_before_each_request(*, is_cut: bool) -> None:
    """So many and no more; behind a request they are counted anew."""
    few = b"\r\n" * MAX_EMPTY_LINES + REQUEST
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    pieces = [b"\r\n" + REQUEST, few, few, b"\r\n" * (MAX_EMPTY_LINES + 1)]
    if is_cut:
        pieces = [bytes([byte]) for byte in b"".join(pieces)]
    for piece in pieces:
        assert b" 400 " not in transport.written
        protocol.data_received(piece)
    assert transport.written.count(b" 200 OK") == 3
    assert transport.written.count(b" 400 ") == 1
    assert "write_eof" in transport.done


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("above", [0, 1])
async def test_longest_head_is_decided_on_and_a_longer_one_is_denied(
    above: int, *, is_cut: bool
) -> None:
    """In one piece and in two, and a longer one as soon as it is one."""
    grants = Grants(lambda: GRANT)
    protocol, transport = connected(denies, grants)
    begin, end = REQUEST[:-4] + b"\r\nX: ", b"\r\n\r\n"
    head = begin.ljust(MAX_HEAD_BYTES + above - len(end), b"a") + end
    assert len(head) == MAX_HEAD_BYTES + above
    for piece in [head[:-1], head[-1:]] if is_cut else [head]:
        protocol.data_received(piece)
    assert transport.written.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 403 ")[above])
    assert [each[0] for each in grants.denied] == [DenialReason.MALFORMED_CERTIFICATE] * above


@pytest.mark.parametrize("value", [b"", b"b" * 100])
@pytest.mark.parametrize("above", [0, 1])
async def test_so_many_fields_are_decided_on_and_more_are_denied(above: int, value: bytes) -> None:
    """Of short and of long heads."""
    grants = Grants(lambda: None)
    protocol, transport = connected(denies, grants)
    fields = REQUEST.count(b"\r\n") - 2
    more = b"a:%b\r\n" % value * (MAX_FIELDS - fields + above)
    protocol.data_received(REQUEST[:-2] + more + b"\r\n")
    await rest()
    assert transport.written.startswith(b"HTTP/1.1 403 ")
    assert [each[0] for each in grants.denied] == [DenialReason.MALFORMED_CERTIFICATE] * above
    assert (b"\r\nX-A-B: c\r\n" in transport.written) is not above


async def test_long_head_of_too_many_fields_is_denied_unparsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parsing tens of thousands of tiny ones takes long."""
    monkeypatch.setattr(HeadProtocol, "_parse", None)
    grants = Grants(lambda: GRANT)
    protocol, _ = connected(denies, grants)
    protocol.data_received(REQUEST[:-2] + b"a:\r\n" * 10_000 + b"\r\n")
    assert len(grants.denied) == 1


async def test_what_a_decision_takes_is_counted_by_its_text_and_fields() -> None:
    """Until it is made: the text is held more than once, and each field beside it."""

    def held_of(request_bytes: bytes) -> int:
        shared = Shared()
        protocol, _ = connected(Patient(), Grants(lambda: None), shared)
        protocol.data_received(request_bytes)
        held = shared.bytes_held
        protocol.connection_lost(None)
        return held

    plain = held_of(REQUEST)
    assert plain > head_protocol._DECISION_BYTES + 2 * head_protocol._FIELD_BYTES
    assert held_of(REQUEST.replace(b"c=d", b"c=d" + b"a" * 1000)) == plain + 3000
    assert held_of(REQUEST.replace(b"X-", b"X-" + b"a" * 1000)) == plain + 3000
    assert held_of(REQUEST.replace(b": \tc", b": \tc" + b"a" * 1000)) == plain + 1000
    with_another = held_of(REQUEST[:-2] + b"ab: c\r\n\r\n")
    assert with_another == plain + head_protocol._FIELD_BYTES + 3 * 2 + 1


async def test_connection_on_which_the_application_grants_is_kept_for_longest() -> None:
    """As one on which a remembered caller was answered; a denial earns nothing."""
    for app, is_favoured in ((grants_all, True), (denies, False)):
        protocol, _ = connected(app, Grants(lambda: None))
        assert not protocol.is_favoured
        protocol.data_received(REQUEST)
        await rest()
        assert protocol.is_favoured is is_favoured
    # Without decisions, none is a grant.
    protocol, _ = connected(grants_all)
    protocol.data_received(REQUEST)
    await rest()
    assert not protocol.is_favoured


async def test_full_listener_says_so_once_in_a_while() -> None:
    """With its limit, since a flood must not fill the log."""
    crowd = Crowd(2)
    with structlog.testing.capture_logs() as lines:
        for _ in range(10):
            crowd.connect()
    assert lines == [{"event": "too_many_connections", "limit": 2, "log_level": "warning"}]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(
    ("fields", "is_valid"),
    [
        (b"Host: auth\r\n", True),
        (b"HOST: [::1]:80\r\n", True),
        (b"Host:\r\n", True),
        (b"", None),
        (b"Hose: auth\r\n", None),
        (b"X-Host: auth\r\n", None),
        (b"Host: a b\r\n", False),
        (b"Host: a/\r\n", False),
        (b"Host: auth\r\nhost: auth\r\n", False),
    ],
)
async def test_request_has_one_valid_host(
    fields: bytes, version: bytes, *, is_valid: bool | None
) -> None:
    """Before and behind a good one; HTTP/1.0 may have none."""
    expected = version == b"1.0" if is_valid is None else is_valid
    head = b"GET / HTTP/%b\r\n%bX-Client-Cert: c\r\n\r\n" % (version, fields)
    shared = Shared()
    for request_bytes in (head, head, REQUEST, head):
        protocol, transport = connected(denies, Grants(lambda: GRANT), shared)
        protocol.data_received(request_bytes)
        is_granted = transport.written.startswith(b"HTTP/1.1 200 ")
        assert is_granted is (expected or request_bytes == REQUEST)
        assert is_granted or transport.written.startswith(b"HTTP/1.1 400 ")


async def test_failing_reader_of_fields_leaves_the_decision_to_the_application() -> None:
    """And is logged, as a failing answer is."""

    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    several: tuple[dict[str, Any], ...] = ({"read": fail}, {"answer": fail})
    for broken in several:
        grants = Grants(lambda: GRANT)
        grants.fast_path = dataclasses.replace(grants.fast_path, **broken)
        protocol, transport = connected(denies, grants)
        with structlog.testing.capture_logs() as lines:
            protocol.data_received(REQUEST)
            await rest()
        assert [(line["event"], line["log_level"]) for line in lines] == [
            ("fast_path_failed", "error")
        ]
        assert transport.written.endswith(b"\r\n\r\nno")
        assert not protocol._shared.heads


async def grants_and_raises(scope: Scope, receive: Receive, send: Send) -> None:
    """An application with a defect behind a whole grant."""
    await grants_all(scope, receive, send)
    raise RuntimeError("a defect")


@pytest.mark.parametrize("app", [raises, grants_and_raises])
async def test_failing_application_is_logged_and_its_answer_is_whole(app: ASGIApp) -> None:
    """What is sent instead says how long it is, and that it must not be stored."""
    protocol, transport = connected(app)
    with structlog.testing.capture_logs() as lines:
        protocol.data_received(REQUEST)
        await rest()
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("application_failed", "error")
    ]
    assert transport.written == NOT_FINISHED


async def test_malformed_request_is_answered_in_full() -> None:
    """Of the length that is told, and not stored; with a body, whatever was answered before."""
    for before in (b"", REQUEST.replace(b"GET", b"HEAD")):
        protocol, transport = connected(denies, Grants(lambda: GRANT))
        protocol.data_received(before)
        transport.written = b""
        protocol.data_received(b"hello\r\n\r\n")
        assert transport.written == (
            b"HTTP/1.1 400 Bad Request\r\nCache-Control: no-store\r\nContent-Length: 11\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nBad Request"
        )


@pytest.mark.parametrize(
    ("messages", "written"),
    [
        ([START, {"type": "http.response.body"}], GRANTED_BY_APP),
        ([START, {"type": "http.response.body", "body": b"x"}], GRANTED_BY_APP + b"x"),
        ([], NOT_FINISHED),
        ([START], NOT_FINISHED),
        ([START, {"type": "http.response.body", "more_body": True}], NOT_FINISHED),
        ([START, {"type": "http.response.body", "body": b"x", "more_body": True}], NOT_FINISHED),
        ([{"type": "http.response.body", "body": b"x"}], NOT_FINISHED),
        ([{"type": "http.response.body", "body": b"x"}, START], NOT_FINISHED),
    ],
)
async def test_response_of_the_application_is_sent_once_it_is_complete(
    messages: list[Message], written: bytes
) -> None:
    """As it is; all else is a denial, of which no part is the application's."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    protocol, transport = connected(app, Grants(lambda: None))
    protocol.data_received(REQUEST)
    await rest()
    assert transport.written == written
    assert protocol.is_favoured is written.startswith(GRANTED_BY_APP)


async def test_no_two_requests_share_the_applications_state() -> None:
    """The scope is whole, and what one request puts into it is not seen by the next."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope, state=dict(scope["state"])))
        scope["state"]["mine"] = 1
        await denies(scope, receive, send)

    protocol, _ = connected(app)
    protocol._app_state["kept"] = 2
    request_bytes = REQUEST.replace(b"c=d", b"c=d?e").replace(b"\tc ", b"\tx c x\t ")
    for _ in range(2):
        protocol.data_received(request_bytes)
        await rest()
    whole = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8080),
        "client": ("10.0.0.7", 1234),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=d?e",
        "headers": [(b"host", b"auth"), (b"x-client-cert", b"x c x")],
        "state": {"kept": 2},
        "extensions": {HEAD_ONLY: {}},
    }
    assert seen == [whole, whole]


async def test_request_without_a_claim_is_for_the_application_alone() -> None:
    """No remembered grant can be meant."""
    grants = Grants(lambda: GRANT)
    grants.fast_path = dataclasses.replace(grants.fast_path, read=lambda _: None)
    protocol, transport = connected(denies, grants)
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            protocol.data_received(REQUEST)
            await rest()
    assert transport.written.count(b"HTTP/1.1 403 Forbidden\r\nX-A-B: c\r\n") == 2
    assert lines == []
    assert grants.seen == []


async def test_application_sees_of_a_known_head_what_it_sees_of_a_new_one() -> None:
    """Where it is asked although the head was granted before."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    several: tuple[list[Answer | None], ...] = ([None], [GRANT, None])
    for answers in several:
        protocol, _ = connected(app, Grants(iter(answers).__next__))
        for _ in range(len(answers)):
            protocol.data_received(REQUEST)
        await rest()
    assert seen == [seen[0]] * 2


@pytest.mark.parametrize(
    "last",
    [
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"),
        REQUEST.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"),
        REQUEST.replace(b"GET", b"ODD").replace(b"HTTP/1.1", b"HTTP/1.0"),
        REQUEST.replace(b"GET", b"CONNECT"),
        REQUEST.replace(b"GET /a%20b?c=d", b"CONNECT a:1"),
        REQUEST.replace(b"GET", b"CONNECT").replace(b"HTTP/1.1", b"HTTP/1.2"),
        REQUEST.replace(b"Host", b"Connection: close\r\nHost"),
        REQUEST.replace(b"Host", b"Connection: upgrade\r\nUpgrade: x\r\nHost"),
        REQUEST.replace(b"Host", b"Content-Length: 1\r\nHost"),
        REQUEST.replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"),
        REQUEST.replace(b"GET", b"ODD").replace(b"Host", b"Content-Length: 1\r\nHost"),
    ],
)
async def test_what_follows_the_last_request_is_never_answered(last: bytes) -> None:
    """It may be a body, or for another protocol; the answer says that it was the last one."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    protocol.data_received(REQUEST + last + REQUEST)
    answers = transport.written.split(b"HTTP/1.1 200 OK\r\n")
    assert [b"\r\nConnection: close\r\n" in each for each in answers] == [False, False, True]
    assert transport.done == ["write_eof", "resume_reading"]
    assert not protocol._shared.heads.find(last)


async def test_malformed_request_on_a_unix_socket_is_answered() -> None:
    """Such a peer has no address, and the log says so."""
    protocol, transport = connected(denies, peer="", name="/run/a", family=socket.AF_UNIX)
    with structlog.testing.capture_logs() as lines:
        protocol.data_received(b"hello\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert [line["peer"] for line in lines] == [None]


async def test_request_that_comes_too_early_waits_for_its_turn() -> None:
    """While another one is decided on, or the client does not read: answers keep their order."""
    app, answers = Patient(), [None, GRANT, GRANT]
    protocol, transport = connected(app, Grants(lambda: answers.pop(0)))
    protocol.data_received(REQUEST)
    protocol.data_received(REQUEST)
    assert transport.written == b""
    app.may_answer.set()
    await rest()
    denied, _, granted = transport.written.partition(b"no")
    assert denied.startswith(b"HTTP/1.1 403 ")
    assert granted.startswith(b"HTTP/1.1 200 ")
    transport.written = b""
    protocol.pause_writing()
    protocol.data_received(REQUEST)
    assert transport.written == b""
    protocol.resume_writing()
    assert transport.written == granted


async def test_long_head_may_come_in_pieces() -> None:
    """Where there is room for it."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    protocol.data_received(LONG_REQUEST[:-1])
    assert transport.written == b""
    protocol.data_received(LONG_REQUEST[-1:])
    assert transport.written.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "unusual",
    [
        REQUEST.replace(b"GET", b"ODD"),
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.2"),
        REQUEST.replace(b"/a%20b", b"\xff"),
    ],
)
async def test_unusual_request_does_not_end_its_connection(unusual: bytes) -> None:
    """It is decided on as others are, and so is what follows."""
    grants = Grants(lambda: GRANT)
    protocol, transport = connected(denies, grants)
    protocol.data_received(unusual + REQUEST + unusual)
    assert transport.written == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * 3
    method, target, _ = unusual.split(b" ", 2)
    assert grants.seen[0][1:] == grants.seen[2][1:] == (method, target)


@pytest.mark.parametrize(
    "line",
    [
        b"GET  /a HTTP/1.1",
        b"GET /a  HTTP/1.1",
        b"GET /a HTTP/1.1 ",
        b" GET /a HTTP/1.1",
        b"ODD  /a HTTP/1.1",
        b"GET /a HTTP/2.0",
        b"GET /a RTSP/1.1",
        b"GET /a",
        b"ODD /a",
        b"GET",
    ],
)
async def test_line_that_is_no_strict_request_line_is_refused(line: bytes) -> None:
    """A proxy may read it differently."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    protocol.data_received(REQUEST.replace(b"GET /a%20b?c=d HTTP/1.1", line) + REQUEST)
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert transport.written.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("answer", [GRANT, None])
async def test_answer_to_head_has_no_body(answer: Answer | None) -> None:
    """It would be taken for the next answer. The one after it has its own again."""
    protocol, transport = connected(denies, Grants(lambda: answer))
    for method, has_body in ((b"HEAD", False), (b"GET", True), (b"HEAD", False)):
        transport.written = b""
        protocol.data_received(REQUEST.replace(b"GET", method))
        await rest()
        head, _, body = transport.written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 " if answer is None else b"HTTP/1.1 200 ")
        assert bool(body) is has_body


async def test_known_head_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what it is known for."""
    protocol, transport = connected(denies, Grants(lambda: GRANT))
    protocol.data_received(REQUEST)
    monkeypatch.setattr(HeadProtocol, "_parse", None)
    protocol.data_received(REQUEST)
    assert transport.written.count(b" 200 OK") == 2
