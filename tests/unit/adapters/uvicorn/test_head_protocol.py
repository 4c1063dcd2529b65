"""What the protocol does when the application fails it; the wire itself is an integration test."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import structlog.testing
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from nexus_auth.adapters.log_throttle import QUIET_SECONDS
from nexus_auth.adapters.starlette.answers import DENIALS, Answer
from nexus_auth.adapters.starlette.auth_app import FastPath
from nexus_auth.adapters.starlette.gate import UNTRUSTED_DETAIL, Claim
from nexus_auth.adapters.uvicorn import head_protocol
from nexus_auth.adapters.uvicorn.head_protocol import (
    ASSURED_BYTES,
    CLOSED_AT_ONCE,
    DRAIN_IDLE_SECONDS,
    FLOOD_BYTES,
    HEADS_NOT_LOOKED_UP,
    LINGER_BYTES,
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

REQUEST = b"GET /a%20b?c=d HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: \tc \r\n\r\n"

LONG_REQUEST = REQUEST.replace(b"\r\n\r\n", b"\r\nX: " + b"a" * 20_000 + b"\r\n\r\n")


class Transport(asyncio.Transport):
    """Remembers what was done to it."""

    def __init__(self, peer: object = ("10.0.0.7", 1234)) -> None:
        super().__init__()
        self.peer = peer
        self.written = b""
        self.done: list[str] = []
        self.unsent = 0
        self.limits: list[int | None] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.peer if name == "peername" else ("127.0.0.1", 8080)

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
    **peer: object,
) -> tuple[HeadProtocol, Transport]:
    """A protocol with a connection."""
    config = uvicorn.Config(app, interface="asgi3", log_config=None)
    config.load()
    fast_path = None if grants is None else grants.fast_path
    protocol = HeadProtocol(config, ServerState(), {}, fast_path=fast_path, shared=shared)
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
    protocol.data_received(REQUEST * 300)
    assert len(protocol._received) == 0
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
    """Counted by the transport: beyond this it says that the client does not read."""
    _, transport = connected(denies)
    assert transport.limits == [WRITE_BUFFER_BYTES]
