"""HTTP/1.1 for a service whose answers depend on the head of a request alone.

uvicorn listens, ends and counts; this protocol, handed to it as `http=`, does what its own ones
do not: it closes connections that send no complete head in time, gives the application requests
that the parser alone would reject (unknown methods, unusual targets), keeps trailers out, and
answers callers that are remembered without making a task for them.

The parser is llhttp (httptools). This module cuts the stream into heads at the empty line and
parses none of it, with one exception: where llhttp rejects a request line, a strict expression
looks at it, and the header fields go through llhttp again behind a line that it knows.
"""

from __future__ import annotations

import asyncio
import heapq
import re
import socket
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

import httptools
import structlog

from nexus_auth.adapters.log_throttle import LogThrottle
from nexus_auth.adapters.starlette.answers import STATUS_LINES, field_lines
from nexus_auth.adapters.starlette.gate import HEAD_ONLY, UNTRUSTED_DETAIL
from nexus_auth.adapters.uvicorn.heap import give_memory_back
from nexus_auth.adapters.uvicorn.known_heads import KnownHeads
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp, Message
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from nexus_auth.adapters.starlette.answers import Answer
    from nexus_auth.adapters.starlette.auth_app import FastPath
    from nexus_auth.adapters.starlette.gate import Claim
    from nexus_auth.domain.ports import Headers, MonotonicClock

log = structlog.get_logger(__name__)

HEAD_TIMEOUT_SECONDS: Final = 10.0
"""How long a connection may be open without a complete head: half-open ones cannot pile up."""

MAX_HEAD_BYTES: Final = 128 * 1024
"""A certificate of 43 KB, the largest that proxies let through, takes 60 KB as PEM and some more
percent-encoded; twice that is still answered properly."""

MAX_FIELDS: Final = 100
"""Header fields of a request; Envoy's default. A head of tiny ones would take long to parse."""

MAX_EMPTY_LINES: Final = 8
"""Empty lines before a request. RFC 9112 §2.2 asks for one."""

MAX_CONNECTIONS: Final = 4096
MAX_ADMIN_CONNECTIONS: Final = 128
CLOSED_AT_ONCE: Final = 64
"""Connections of a listener, and how many are closed together to make room for another one. An idle
connection takes some 4 KB."""

ASSURED_BYTES: Final = 16 * 1024
ROOM_BYTES: Final = 16 * 1024 * 1024
"""What each connection may hold of requests, whatever the others do; and what all connections of a
listener hold before one that holds more is refused. An ordinary head takes 2 KB, 8 while it is
decided on. So a listener holds 80 MB at most, and no one who fills the room keeps an ordinary
request out."""

FLOOD_BYTES: Final = 4 * 1024 * 1024
"""Where so much was held, memory is given back afterwards."""

WRITE_BUFFER_BYTES: Final = 4 * 1024
"""Answers to a client that does not read them, beyond what the kernel takes; then it is not read
from any more. asyncio's own 64 KB would be 256 MB over all connections."""

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 1024 * 1024
"""How long, and for how much, a connection that is ending is still read. Closing it with unread
bytes would reset it, and the answer could get lost on its way."""

DRAIN_IDLE_SECONDS: Final = 1.0
"""How long an idle connection stays open once the service drains. A busy client sends its next
request in that time and learns from the answer that it was the last one. Closed at once, the
connection could cross a request that is on its way, and that request would be lost."""

_TOO_MANY_FIELDS: Final = f"the request has more than {MAX_FIELDS} header fields"
_MANY_FIELDS_BYTES: Final = 4096
"""From this size on, the fields of a head are counted before they are parsed: counting takes a
tenth of the time."""

_NO_ROOM: Final = "no room for the head of the request"
_HOST_BYTES: Final = len(b"host")
_END_OF_HEAD: Final = b"\r\n\r\n"
_BARE_LINE_FEEDS: Final = b"\n\n"
_LINE_ENDS: Final = (10, 13)
_CR: Final = 13
_NO_HEAD: Final = len(_END_OF_HEAD) - 1

# RFC 9112 §3: method, target, version. The version's first digit says how a message is framed.
_REQUEST_LINE: Final = re.compile(
    rb"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]+) (?P<target>[\x21-\x7e\x80-\xff]+)"
    rb" HTTP/1\.(?P<minor>[0-9])\r\n"
)
# RFC 9110 §7.2 and RFC 3986 §3.2.2: a name or an address, which may be empty, and a port.
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Za-z:.%_~-]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?[ \t]*"
)

_SHOWN_BYTES: Final = 48
"""How much of a malformed request is logged."""

_DECISION_BYTES: Final = 2048
_FIELD_BYTES: Final = 320
"""What a decision takes beside the text of the request, and for each of its header fields."""

_BAD_REQUEST: Final = b"Bad Request"
_BAD_REQUEST_HEAD: Final = STATUS_LINES[400] + field_lines(
    (
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(_BAD_REQUEST)).encode("ascii")),
        (b"content-type", b"text/plain; charset=utf-8"),
    )
)

NEW_HEADS_IN_A_ROW: Final = 64
HEADS_NOT_LOOKED_UP: Final = 1024
"""After so many heads in a row that were all new, a connection does not look up the next so many:
something in them may be different every time. Then it tries again, since they may have been new
callers."""


class Shared:
    """What the connections of one listener share: parsed heads, room, and the date as written.

    Attributes:
        heads: Parsed heads.
        max_connections: How many connections there may be.
        bytes_held: What all connections together hold of requests.
        most_held: The most that it was since memory was given back.
        host: A valid value of the Host field, the last that was seen.
    """

    __slots__ = (
        *("_count_malformed", "_date", "_date_headers", "_limit_throttle", "_malformed_throttle"),
        *("bytes_held", "heads", "host", "max_connections", "most_held"),
    )

    def __init__(
        self,
        *,
        max_connections: int = MAX_CONNECTIONS,
        count_malformed: Callable[[], None] | None = None,
        monotonic: MonotonicClock = time.monotonic,
    ) -> None:
        """Starts without connections; `count_malformed` is called at each malformed request."""
        self.heads = KnownHeads()
        self.max_connections = max_connections
        self.bytes_held = self.most_held = 0
        self.host = b""
        self._count_malformed = count_malformed
        self._malformed_throttle = LogThrottle(monotonic)
        self._limit_throttle = LogThrottle(monotonic)
        self._date_headers: list[tuple[bytes, bytes]] | None = None
        self._date = b""

    def malformed(self, problem: str, begin: bytes, peer: str | None) -> None:
        """Counts a malformed request, and logs it once in a while."""
        if self._count_malformed is not None:
            self._count_malformed()
        if self._malformed_throttle.allow(problem):
            # No query, and no value of a field: they may be secret.
            begins = re.split(rb"[\r\n?:]", begin, maxsplit=1)[0].decode("latin-1")
            log.warning("malformed_request", problem=problem, begins=begins, peer=peer)

    def settle(self) -> None:
        """Gives memory back after a flood, when most of what was held is free again."""
        if self.most_held > FLOOD_BYTES and self.bytes_held < self.most_held // 4:
            self.most_held = self.bytes_held
            give_memory_back()

    def make_room(self, newest: HeadProtocol, connections: Iterable[HeadProtocol]) -> None:
        """Closes connections because there are too many: those that are idle for longest.

        Favoured ones come last, and none of them is closed for a peer that is not trusted. Where
        there is none to close, the newest goes.
        """
        if self._limit_throttle.allow(None):
            log.warning("too_many_connections", limit=self.max_connections)
        idle = [each for each in connections if each.is_idle and each is not newest]
        if not newest.trusted:
            idle = [each for each in idle if not each.is_favoured]
        closed = heapq.nsmallest(CLOSED_AT_ONCE, idle, key=HeadProtocol.worth) or [newest]
        for each in closed:
            if each.is_favoured == closed[0].is_favoured:
                each.cut_off()

    def date_lines(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The header fields that all responses have: the date.

        Args:
            headers: uvicorn's own, of which it makes a new list every second.
        """
        if headers is not self._date_headers:
            self._date_headers, self._date = headers, field_lines(headers)
        return self._date


class HeadProtocol(asyncio.Protocol):
    """One connection.

    Requests are answered in the order in which they came, one at a time. A request with a body is
    answered as soon as its head is there, and the connection is closed after it: a body is never
    looked at, and what follows it is never taken for a request.

    Each head has a parser of its own, so that none depends on what came before it.
    """

    __slots__ = (
        *("__weakref__", "_app", "_app_state", "_client", "_client_is_done", "_deadline"),
        *("_deciding", "_discarded", "_draining", "_empty_lines", "_ending", "_fast_path"),
        *("_head_timeout", "_headers", "_held", "_hosts", "_http_version", "is_favoured"),
        *("_is_head", "_keep_alive", "_looks_left", "_loop", "_parser", "_received", "_searched"),
        *("_server", "_server_name", "_shared", "_target", "_task", "_timer", "_transport"),
        *("_write_paused", "trusted"),
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        fast_path: FastPath | None,
        shared: Shared | None = None,
        head_timeout_seconds: float = HEAD_TIMEOUT_SECONDS,
    ) -> None:
        """Prepares a connection; uvicorn gives the first four arguments.

        Args:
            config: Holds the application.
            server_state: Where connections, tasks and requests are counted.
            app_state: What the lifespan left for requests.
            _loop: The event loop.
            fast_path: Answers remembered callers; None has every request go to the application.
            shared: Shared by all connections of a server; None for one that has it to itself.
            head_timeout_seconds: How long a connection may be without a complete head.
        """
        self._app: ASGIApp = config.loaded_app
        self._loop = _loop or asyncio.get_running_loop()
        self._server = server_state
        self._app_state = app_state
        self._fast_path = fast_path
        self._shared = Shared() if shared is None else shared
        self._looks_left = NEW_HEADS_IN_A_ROW
        self._head_timeout = head_timeout_seconds

        # The connection.
        self._transport: asyncio.Transport | None = None
        self._client: tuple[str, int] | None = None
        self._server_name: tuple[str, int | None] | None = None
        self.trusted = True
        """Whether the peer is believed; on a listener without decisions, each is."""
        self.is_favoured = False
        """Whether a grant was given on it, or a proxy that is named made it."""
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._received = bytearray()
        self._searched = 0
        self._empty_lines = 0
        self._deciding = 0
        self._held = 0
        self._task: asyncio.Task[None] | None = None
        self._write_paused = False
        self._client_is_done = False
        self._draining = False
        self._ending = False
        self._discarded = 0

        # The request that is being read.
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._hosts: list[bytes] = []
        self._http_version = "1.1"
        self._parser: httptools.HttpRequestParser | None = None
        self._keep_alive = False
        self._is_head = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the clock of a new connection, and sees to it that there are not too many."""
        self._transport = cast("asyncio.Transport", transport)
        # uvicorn's types name its own protocols only.
        self._server.connections.add(self)  # type: ignore[arg-type]
        peer, name = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        # The family alone says what a connection is: one that was reset has no peer's name either.
        if getattr(transport.get_extra_info("socket"), "family", None) == socket.AF_UNIX:
            self._server_name = (str(name), None)
        else:
            self._client = peer[:2] if isinstance(peer, tuple) else None
            self._server_name = name[:2] if isinstance(name, tuple) else None
        if self._fast_path is not None:
            self.trusted = self._fast_path.trusts(self._client, self._server_name)
            self.is_favoured = self.trusted and self._fast_path.has_named_peers
        # No head is taken from others.
        self._ending = not self.trusted
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._deadline = self._loop.time() + self._head_timeout
        self._arm()
        if len(self._server.connections) > self._shared.max_connections:
            self._shared.make_room(self, cast("set[HeadProtocol]", self._server.connections))

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forgets the connection. An answer that is being found is found in vain."""
        self._server.connections.discard(self)
        self._ending = True
        self._transport = None
        self._received.clear()
        self._hold()
        self._shared.settle()
        # Nothing points back here, so that the memory is free at once.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        """Takes no more requests from a client that does not read its answers."""
        self._write_paused = True
        if self._transport is not None and not self._ending:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Goes on with what was received in the meantime."""
        self._write_paused = False
        if self._task is None:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        """Takes bytes as they come."""
        if self._ending:
            self._discard(data)
        elif not self._received and self._task is None and not self._write_paused:
            # The usual case: nothing waits, and this is exactly one head.
            size = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
            # Where there is no empty line the size is 3: no head is as short as that.
            if _NO_HEAD < size == len(data) <= MAX_HEAD_BYTES and data[0] > _CR:
                self._handle(data)
            else:
                self._received += data
                self._take_heads()
        else:
            self._received += data
            self._take_heads()

    def eof_received(self) -> bool:
        """Keeps the connection open for an answer that is still being found."""
        self._client_is_done = True
        if self._task is None:
            return False
        self._draining = True  # The answer is the last one.
        return True

    # Cutting the stream into heads.

    def _take_heads(self) -> None:
        """Handles what was received, head by head, and sees to it that the rest is not too much."""
        received = self._received
        while received and self._task is None and not self._ending and not self._write_paused:
            if received[0] in _LINE_ENDS:
                # RFC 9112 §2.2: empty lines before a request are passed over.
                if received == b"\r":
                    break
                self._empty_lines += 1
                if not received.startswith(b"\r\n") or self._empty_lines > MAX_EMPTY_LINES:
                    self._refuse_malformed("line ends before a request", received)
                    return
                del received[:2]
                continue
            end = received.find(_END_OF_HEAD, self._searched)
            size = len(received) if end < 0 else end + len(_END_OF_HEAD)
            if size > MAX_HEAD_BYTES:
                self._refuse_unread("the head of the request is too long")
                return
            if end < 0:
                if received.find(_BARE_LINE_FEEDS, self._searched) >= 0:
                    # It would end otherwise, and llhttp would not take it: say so at once.
                    self._refuse_malformed("a bare line feed", received)
                    return
                # The empty line may have begun.
                self._searched = max(0, size - len(_END_OF_HEAD) + 1)
                break
            head = bytes(received[:size])
            del received[:size]
            self._searched = self._empty_lines = 0
            self._handle(head)
        if self._hold() or self._ending:
            return
        if self._task is None:
            self._refuse_unread(_NO_ROOM)
        else:
            # What came behind the request is not answered, and the client learns it.
            self._draining = True
            received.clear()
            self._hold()

    def _hold(self) -> bool:
        """Counts what this connection holds of requests; says whether there is room for it."""
        size, shared = len(self._received) + self._deciding, self._shared
        shared.bytes_held += size - self._held
        shared.most_held = max(shared.most_held, shared.bytes_held)
        self._held = size
        return size <= ASSURED_BYTES or shared.bytes_held <= ROOM_BYTES

    def _go_on(self) -> None:
        """Takes up reading after a pause."""
        self._take_heads()
        transport = self._transport
        if transport is None or self._ending or self._task is not None or self._write_paused:
            return
        transport.resume_reading()

    # What the parser calls.

    def on_url(self, url: bytes) -> None:
        """Notes the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Notes a header field."""
        self._headers.append((name, value))
        if len(name) == _HOST_BYTES and name.lower() == b"host":
            self._hosts.append(value)

    def on_message_complete(self) -> None:
        """Notes that the request has no body, and whether the connection may go on."""
        if self._parser is not None:
            self._keep_alive = self._parser.should_keep_alive()

    # Handling one request.

    def _handle(self, head: bytes) -> None:
        """Answers one head, at once or by a task."""
        if self._looks_left > 0:
            found = self._shared.heads.find(head)
            if found is not None:
                known, fields = found
                self._looks_left = NEW_HEADS_IN_A_ROW
                self._keep_alive = True
                self._http_version = "1.1"
                self._target = known.target
                self._decide(known.method, fields, known.claim)
                return
        self._looks_left -= 1
        if self._looks_left <= -HEADS_NOT_LOOKED_UP:
            self._looks_left = NEW_HEADS_IN_A_ROW
        method = self._read_head(head)
        if method is not None:
            claim = self._read()
            is_granted = self._decide(method, self._headers, claim)
            if is_granted and claim is not None and self._keep_alive and self._looks_left > 0:
                self._shared.heads.remember(head, self._headers, method, self._target, claim)
        # An idle connection holds nothing of its last request.
        self._headers, self._hosts, self._target = [], [], b""

    def _read_head(self, head: bytes) -> bytes | None:
        """Parses one head, and returns its method; None where it was refused."""
        if len(head) > _MANY_FIELDS_BYTES and head.count(b"\n") > MAX_FIELDS + 2:
            self._refuse_unread(_TOO_MANY_FIELDS)
            return None
        method = self._parse(head) or self._parse_unusual(head)
        # RFC 9112 §3: one space each. llhttp lets more pass, and RTSP, HTTP/0.9 and HTTP/2.
        if method is None or not head.startswith(b"%b %b HTTP/1." % (method, self._target)):
            self._refuse_malformed("no HTTP/1 request", head)
            return None
        # The usual case is asked for first: one Host, which was looked at before.
        if self._hosts != [self._shared.host] or self._http_version != "1.1":
            problem = self._host_problem()
            if problem is not None:
                self._refuse_malformed(problem, head)
                return None
            # Only HTTP/1.1 keeps connections without saying so.
            self._keep_alive = self._keep_alive and self._http_version == "1.1"
        if len(self._headers) > MAX_FIELDS:
            self._refuse_unread(_TOO_MANY_FIELDS)
            return None
        # RFC 9112 §6.1. llhttp looks at the coding of every method but this one.
        if method == b"CONNECT":
            fields = [(name.lower(), value.lower()) for name, value in self._headers]
            codings = [value for name, value in fields if name == b"transfer-encoding"]
            if codings not in ([], [b"chunked"]):
                self._refuse_malformed("an unknown Transfer-Encoding", head)
                return None
        return method

    def _host_problem(self) -> str | None:
        """RFC 9112 §3.2: there is one Host, and a valid one. HTTP/1.0 may have none."""
        hosts = self._hosts
        if len(hosts) != 1:
            is_optional = not hosts and self._http_version != "1.1"
            return None if is_optional else f"{len(hosts)} Host fields"
        if _HOST.fullmatch(hosts[0]) is None:
            return "an invalid Host"
        self._shared.host = hosts[0]
        return None

    def _parse(self, head: bytes) -> bytes | None:
        """Parses one head, and returns its method; None where llhttp rejects it."""
        self._keep_alive = False
        self._target = b""
        self._headers, self._hosts = [], []
        parser = self._parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            # No other protocol is offered here.
            self._keep_alive = False
        except httptools.HttpParserError:
            return None
        finally:
            # The two point at each other.
            self._parser = None
        self._http_version = parser.get_http_version()
        method: bytes = parser.get_method()
        return method

    def _parse_unusual(self, head: bytes) -> bytes | None:
        """The same for a head whose request line llhttp does not know, or rejects."""
        line = _REQUEST_LINE.match(head)
        if line is None:
            return None
        minor = b"0" if line["minor"] == b"0" else b"1"
        if self._parse(b"POST / HTTP/1.%s\r\n%s" % (minor, head[line.end() :])) is None:
            return None
        self._target = line["target"]
        # The last request of its connection, as where llhttp takes its target.
        self._keep_alive = self._keep_alive and line["method"] != b"CONNECT"
        return line["method"]

    def _read(self) -> Claim | None:
        """What counts in the head that was parsed, where it may be decided on at once."""
        if self._fast_path is None:
            return None
        try:
            return self._fast_path.read(self._headers)
        except Exception:
            # The application decides instead, and denies if it must.
            log.exception("fast_path_failed")
            return None

    def _decide(self, method: bytes, headers: Headers, claim: Claim | None) -> bool:
        """Answers at once, or by a task; returns whether it was at once, and so a grant."""
        self._is_head = method == b"HEAD"
        if claim is not None and self._fast_path is not None:
            try:
                answer = self._fast_path.answer(claim, headers, method, self._target)
            except Exception:
                # The application decides instead, and denies if it must.
                log.exception("fast_path_failed")
                answer = None
            if answer is not None:
                self.is_favoured = True
                self._write_answer(answer)
                return True
        self._deciding = _DECISION_BYTES + 3 * len(self._target)
        for name, value in headers:
            self._deciding += _FIELD_BYTES + 3 * len(name) + len(value)
        if not self._hold():
            self._refuse_unread(_NO_ROOM)
            return False
        self._task = self._loop.create_task(self._ask_app(self._scope(method, headers)))
        self._server.tasks.add(self._task)
        self._task.add_done_callback(self._server.tasks.discard)
        if self._transport is not None:
            self._transport.pause_reading()
        return False

    def _scope(self, method: bytes, headers: Headers) -> dict[str, Any]:
        raw_path, _, query = self._target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._http_version,
            "server": self._server_name,
            "client": self._client,
            "scheme": "http",
            "method": method.decode("ascii"),
            "root_path": "",
            "path": unquote(raw_path.decode("latin-1")),
            "raw_path": raw_path,
            "query_string": query,
            "headers": [(name.lower(), value.strip(b" \t")) for name, value in headers],
            "state": self._app_state.copy(),
            "extensions": {HEAD_ONLY: {}},
        }

    async def _ask_app(self, scope: dict[str, Any]) -> None:
        """Has the application answer, and denies where it does not."""
        response = _Response()
        try:
            await self._app(scope, _no_body, response.send)
        except Exception:
            log.exception("application_failed")
            response = _Response()
        finally:
            self._task = None
            self._deciding = 0
        if response.status == HTTPStatus.OK and self._fast_path is not None:
            self.is_favoured = True
        if not response.is_complete:
            # Nothing that came of it is sent: its body would stand behind a denial without one.
            response = _Response()
            self._keep_alive = False
        self._write(STATUS_LINES[response.status] + field_lines(response.headers), response.body)
        self._go_on()

    # Answering and ending.

    def _write_answer(self, answer: Answer) -> None:
        """Writes a grant."""
        transport = self._transport
        if transport is None or self._draining or self._is_head or not self._keep_alive:
            self._write(answer.head, answer.body)
            return
        server = self._server
        date = self._shared.date_lines(server.default_headers)
        transport.write(b"".join((answer.head, date, b"\r\n", answer.body)))
        server.total_requests += 1
        self._deadline = self._loop.time() + self._head_timeout

    def _write(self, head: bytes, body: bytes) -> None:
        """Writes a response, and ends the connection where it is the last one."""
        transport = self._transport
        if transport is None:
            return
        server = self._server
        if self._draining:
            self._keep_alive = False
        transport.write(
            b"".join(
                (
                    head,
                    self._shared.date_lines(server.default_headers),
                    b"\r\n" if self._keep_alive else b"Connection: close\r\n\r\n",
                    b"" if self._is_head else body,
                )
            )
        )
        server.total_requests += 1
        self._deadline = self._loop.time() + self._head_timeout
        if not self._keep_alive:
            self._end()

    def _refuse_malformed(self, problem: str, begin: bytes | bytearray) -> None:
        """Answers what is no request.

        Args:
            problem: What is wrong with it, for the log.
            begin: What it begins with.
        """
        peer = None if self._client is None else self._client[0]
        self._shared.malformed(problem, bytes(begin[:_SHOWN_BYTES]), peer)
        self._keep_alive = self._is_head = False
        self._write(_BAD_REQUEST_HEAD, _BAD_REQUEST)

    def _refuse_unread(self, detail: str) -> None:
        """Answers a head that is too much to be parsed: as a decision, where there are any."""
        if self._fast_path is None:
            self._refuse_malformed(detail, self._received)
            return
        self._deny(DenialReason.MALFORMED_CERTIFICATE, detail)

    def _deny(
        self, reason: DenialReason, detail: str, method: bytes = b"", target: bytes = b""
    ) -> None:
        """Answers with a denial that no application was asked for, and ends the connection."""
        if self._fast_path is not None:
            answer = self._fast_path.deny_unread(reason, detail, method, target)
            self._keep_alive, self._is_head = False, method == b"HEAD"
            self._deciding = 0
            self._write(answer.head, answer.body)

    def _end(self) -> None:
        """Says that no more will come, and reads on for a moment so that the answer arrives."""
        transport = self._transport
        if transport is None:
            return
        self._ending = True
        self._received.clear()
        self._hold()
        if self._client_is_done or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        transport.resume_reading()
        self._deadline = self._loop.time() + LINGER_SECONDS
        self._arm()

    def _discard(self, data: bytes) -> None:
        """Reads past what follows the last answer, or answers a peer that is not trusted."""
        if not self.trusted and not self._discarded:
            # 0. Before anything else, and without keeping anything.
            line = _REQUEST_LINE.match(data)
            seen = (b"", b"") if line is None else (line["method"], line["target"])
            self._deny(DenialReason.UNTRUSTED_PEER, UNTRUSTED_DETAIL, *seen)
        self._discarded += len(data)
        if self._discarded > LINGER_BYTES and self._transport is not None:
            self._transport.abort()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_time)

    def _check_time(self) -> None:
        """Closes the connection when its time is over. One timer; requests only move the hand."""
        transport = self._transport
        if transport is None:
            return
        now = self._loop.time()
        if self._task is not None:
            # A decision takes the time that it takes; the registry bounds it.
            self._deadline = now + self._head_timeout
        if now < self._deadline:
            self._arm()
        elif transport.get_write_buffer_size():
            transport.abort()  # The client does not even read its answers.
        else:
            transport.close()

    def shutdown(self) -> None:
        """Ends the connection after the request that is under way, or the next if it is near."""
        self._draining = True
        if self._task is None and not self._received and self._transport is not None:
            self._deadline = min(self._deadline, self._loop.time() + DRAIN_IDLE_SECONDS)
            self._arm()

    # What `Shared` asks when there are too many connections.

    @property
    def is_idle(self) -> bool:
        """Whether no decision is under way."""
        return self._task is None

    def worth(self) -> tuple[bool, float]:
        """Orders connections by how much is lost with them: favoured or not, and idle for long."""
        return self.is_favoured, self._deadline

    def cut_off(self) -> None:
        """Closes the connection, and frees at once what it holds."""
        transport = self._transport
        self.connection_lost(None)
        if transport is not None:
            transport.abort()


class _Response:
    """Collects what the application sends; a denial until it is complete."""

    def __init__(self) -> None:
        self.status = 403
        self.headers: list[tuple[bytes, bytes]] = [
            (b"cache-control", b"no-store"),
            (b"content-length", b"0"),
        ]
        self.body = b""
        self.is_complete = False
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Takes one message (ASGI 3)."""
        if message["type"] == "http.response.start":
            self._start = message
        elif self._start is not None:
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                self.status = self._start["status"]
                self.headers = list(self._start["headers"])
                self.is_complete = True


async def _no_body() -> Message:
    """All that an application here can receive."""
    return {"type": "http.disconnect"}
