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
import re
import socket
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

import httptools
import structlog

from nexus_auth.adapters.starlette.answers import STATUS_LINES, field_lines
from nexus_auth.adapters.starlette.gate import HEAD_ONLY
from nexus_auth.adapters.uvicorn.known_heads import KnownHeads

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from nexus_auth.adapters.starlette.answers import Answer
    from nexus_auth.adapters.starlette.auth_app import FastPath
    from nexus_auth.adapters.starlette.gate import Claim
    from nexus_auth.domain.ports import Headers

log = structlog.get_logger(__name__)

HEAD_TIMEOUT_SECONDS: Final = 10.0
"""How long a connection may be open without a complete head: half-open ones cannot pile up."""

MAX_HEAD_BYTES: Final = 128 * 1024
"""A certificate of 43 KB, the largest that proxies let through, takes 60 KB as PEM and some more
percent-encoded; twice that is still answered properly."""

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 1024 * 1024
"""How long, and for how much, a connection that is ending is still read. Closing it with unread
bytes would reset it, and the answer could get lost on its way."""

DRAIN_IDLE_SECONDS: Final = 1.0
"""How long an idle connection stays open once the service drains. A busy client sends its next
request in that time and learns from the answer that it was the last one. Closed at once, the
connection could cross a request that is on its way, and that request would be lost."""

_END_OF_HEAD: Final = b"\r\n\r\n"
_BARE_LINE_FEEDS: Final = b"\n\n"
_CR: Final = 13
_NO_HEAD: Final = len(_END_OF_HEAD) - 1

# RFC 9112 §3: method, target, version. The version's first digit says how a message is framed.
_REQUEST_LINE: Final = re.compile(
    rb"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]+) (?P<target>[\x21-\x7e\x80-\xff]+)"
    rb" HTTP/1\.(?P<minor>[0-9])\r\n"
)
_HTTP_1_0: Final = re.compile(rb"[^\r\n]* HTTP/1\.0\r\n")

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
    """What the connections of one server share: parsed heads, and the date as it is written."""

    __slots__ = ("_date", "_date_headers", "heads")

    def __init__(self) -> None:
        self.heads = KnownHeads()
        self._date_headers: list[tuple[bytes, bytes]] | None = None
        self._date = b""

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
    """

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
        self._parser = httptools.HttpRequestParser(self)

        # The connection.
        self._transport: asyncio.Transport | None = None
        self._client: tuple[str, int] | None = None
        self._server_name: tuple[str, int | None] | None = None
        self._is_trusted = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._received = bytearray()
        self._searched = 0
        self._task: asyncio.Task[None] | None = None
        self._write_paused = False
        self._client_is_done = False
        self._draining = False
        self._ending = False
        self._discarded = 0

        # The request that is being read.
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._http_version = "1.1"
        self._messages = 0
        self._keep_alive = False
        self._is_head = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the clock of a new connection."""
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
        self._is_trusted = self._fast_path is not None and self._fast_path.trusts(
            self._client, self._server_name
        )
        self._deadline = self._loop.time() + self._head_timeout
        self._arm()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forgets the connection. An answer that is being found is found in vain."""
        self._server.connections.discard(self)
        self._ending = True
        self._transport = None
        self._received.clear()
        if self._timer is not None:
            self._timer.cancel()

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
            self._discard(len(data))
        elif not self._received and self._task is None and not self._write_paused:
            # The usual case: nothing waits, and this is exactly one head.
            size = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
            # Where there is no empty line the size is 3: no head is as short as that.
            if _NO_HEAD < size == len(data) <= MAX_HEAD_BYTES and data[0] != _CR:
                self._handle(data)
            else:
                self._received += data
                self._take_heads()
        else:
            self._received += data
            if self._task is None and not self._write_paused:
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
        received = self._received
        while received and self._task is None and not self._ending and not self._write_paused:
            if received.startswith(b"\r\n"):
                # RFC 9112 §2.2: empty lines before a request are passed over.
                del received[:2]
                continue
            end = received.find(_END_OF_HEAD, self._searched)
            size = len(received) if end < 0 else end + len(_END_OF_HEAD)
            if size > MAX_HEAD_BYTES:
                self._refuse_oversized()
                return
            if end < 0:
                if received.find(_BARE_LINE_FEEDS, self._searched) >= 0:
                    # It would end otherwise, and llhttp would not take it: say so at once.
                    self._refuse_malformed()
                    return
                # The empty line may have begun.
                self._searched = max(0, size - len(_END_OF_HEAD) + 1)
                return
            head = bytes(received[:size])
            del received[:size]
            self._searched = 0
            self._handle(head)

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

    def on_message_complete(self) -> None:
        """Notes that the request has no body."""
        self._messages += 1
        self._keep_alive = self._parser.should_keep_alive()

    # Handling one request.

    def _handle(self, head: bytes) -> None:
        """Answers one head, at once or by a task."""
        if self._looks_left > 0:
            found = self._shared.heads.find(head)
            if found is not None:
                known, fields = found
                self._looks_left = NEW_HEADS_IN_A_ROW
                self._messages = 1
                self._keep_alive = True
                self._http_version = "1.1"
                self._target = known.target
                self._decide(known.method, fields, known.claim)
                return
        self._looks_left -= 1
        if self._looks_left <= -HEADS_NOT_LOOKED_UP:
            self._looks_left = NEW_HEADS_IN_A_ROW
        self._messages = 0
        self._keep_alive = False
        self._target = b""
        self._headers = []
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            # No other protocol is offered here, and the parser cannot go on after this.
            self._keep_alive = False
        except httptools.HttpParserError:
            self._handle_unusual(head)
            return
        self._http_version = self._parser.get_http_version()
        if self._http_version != "1.1":
            # Only HTTP/1.1 keeps connections without saying so. HTTP/0.9 and the text form of
            # HTTP/2, both of which llhttp lets pass, are nothing that a proxy would send.
            self._keep_alive = False
            if _HTTP_1_0.match(head) is None:
                self._refuse_malformed()
                return
        method = self._parser.get_method()
        claim = self._read()
        is_granted = self._decide(method, self._headers, claim)
        if is_granted and claim is not None and self._keep_alive and self._looks_left > 0:
            self._shared.heads.remember(head, self._headers, method, self._target, claim)

    def _handle_unusual(self, head: bytes) -> None:
        """Answers a head whose request line llhttp does not know, or rejects it."""
        line = _REQUEST_LINE.match(head)
        if line is None:
            self._refuse_malformed()
            return
        self._parser = httptools.HttpRequestParser(self)
        self._messages = 0
        self._headers = []
        minor = b"0" if line["minor"] == b"0" else b"1"
        try:
            self._parser.feed_data(b"POST / HTTP/1.%s\r\n%s" % (minor, head[line.end() :]))
        except httptools.HttpParserUpgrade:
            self._keep_alive = False
        except httptools.HttpParserError:
            self._refuse_malformed()
            return
        if minor == b"0":
            self._keep_alive = False
        self._http_version = self._parser.get_http_version()
        self._target = line["target"]
        self._decide(line["method"], self._headers, self._read())

    def _read(self) -> Claim | None:
        """What counts in the head that was parsed, where it may be decided on at once."""
        if self._fast_path is None or not self._is_trusted:
            return None
        try:
            return self._fast_path.read(self._headers)
        except Exception:
            # The application decides instead, and denies if it must.
            log.exception("fast_path_failed")
            return None

    def _decide(self, method: bytes, headers: Headers, claim: Claim | None) -> bool:
        """Answers at once, or by a task; returns whether it was at once, and so a grant."""
        if self._messages > 1:
            # Cannot be: the stream was cut at the first empty line. Then it must not go on either.
            self._refuse_malformed()
            return False
        self._is_head = method == b"HEAD"
        if claim is not None and self._is_trusted and self._fast_path is not None:
            try:
                answer = self._fast_path.answer(claim, headers, method, self._target)
            except Exception:
                # The application decides instead, and denies if it must.
                log.exception("fast_path_failed")
                answer = None
            if answer is not None:
                self._write_answer(answer)
                return True
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
        if not response.is_complete:
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

    def _refuse_malformed(self) -> None:
        self._keep_alive = self._is_head = False
        self._write(_BAD_REQUEST_HEAD, _BAD_REQUEST)

    def _refuse_oversized(self) -> None:
        """Answers a head that is too long to be parsed: as a decision, where there are any."""
        if self._fast_path is None:
            self._refuse_malformed()
            return
        self._keep_alive = self._is_head = False
        answer = self._fast_path.deny_unread("the head of the request is too long")
        self._write(answer.head, answer.body)

    def _end(self) -> None:
        """Says that no more will come, and reads on for a moment so that the answer arrives."""
        transport = self._transport
        if transport is None:
            return
        self._ending = True
        self._received.clear()
        if self._client_is_done or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        transport.resume_reading()
        self._deadline = self._loop.time() + LINGER_SECONDS
        self._arm()

    def _discard(self, size: int) -> None:
        self._discarded += size
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
        if self._task is None and not self._received and not self._ending and self._transport:
            self._deadline = min(self._deadline, self._loop.time() + DRAIN_IDLE_SECONDS)
            self._arm()


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
