"""Any stream of bytes, cut anywhere, through the head protocol and the auth app.

What is granted is compared with a strict reading of RFC 9112 (`strict_http.py`) and with h11, and
what the strict reader sees is answered. The protocol is used as uvicorn uses it: bytes in, bytes
out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import h11
import uvicorn
from uvicorn.server import ServerState

from fuzz import strict_http
from fuzz.people import ALICE, BOB, DER, a_verifier, event_loop, with_certificates
from fuzz.promises import PropertyBroken, require
from fuzz.strict_http import Ending, Request
from nexus_auth.adapters.headers.formats import der_from_percent_encoded_pem
from nexus_auth.adapters.starlette.auth_app import AuthApp
from nexus_auth.adapters.starlette.gate import Gate
from nexus_auth.adapters.uvicorn.head_protocol import HeadProtocol, Shared
from nexus_auth.domain.errors import CertificateRejected
from tests.fakes import FakeClock

MAX_BYTES: Final = 4096
WORDS: Final = (
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\x7f", b"\x80"),
    *(b"{alice}", b"{bob}", b"{mallory}", b"X-Client-Cert: ", b"X-Client-Cert: {alice}\r\n"),
    *(b"Host: a\r\n", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"X-Request-ID: a1\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"gzip, ", b"Connection: close\r\n", b"keep-alive"),
    *(b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n"),
    *(b"GET ", b"HEAD ", b"CONNECT ", b"PURGE ", b"SOURCE ", b"DESCRIBE ", b"PRI * "),
    *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/2.0\r\n", b" RTSP/1.1\r\n", b" ICE/1.1\r\n"),
    *(b"GET / HTTP/1.1\r\nHost: a\r\n", b"http://a/", b"*"),
)

GRANTED, DENIED, MALFORMED = 200, 403, 400

_FIELD: Final = b"x-client-cert"
_PEOPLE: Final = {DER["alice"]: ALICE.address.encode(), DER["bob"]: BOB.address.encode()}
_MANY_FIELDS: Final = 50
_MANY_BYTES: Final = 60_000
"""From here on the service may deny and end the connection; its bounds are at twice as much."""

_PAUSE: Final = 0x80
_TO_LINE_END: Final = 0x7F
_MOST_PIECES: Final = 64
"""In a cut: whether the event loop runs before more comes, and the number of bytes; or up to the
next line end, where most that can go wrong begins. After so many pieces the rest comes at once."""
_TURNS: Final = 100

_LINE_END: Final = re.compile(rb"[\r\n]")
_RESPONSE: Final = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its status, and the hotkey that a grant names."""

    status: int
    hotkey: bytes | None


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_paused = self.is_closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("10.0.0.7", 1234), "sockname": ("127.0.0.1", 8080)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        require(not self.is_closed, "nothing is written after the end")
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever buffered."""

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


def _build_app() -> AuthApp:
    clock = FakeClock()
    gate = Gate(
        verifier=a_verifier(),
        header=_FIELD.decode(),
        der_from=der_from_percent_encoded_pem,
        trusted_peers=None,
    )
    return AuthApp(gate=gate, clock=clock, reuse=timedelta(seconds=5))


_app: Final = _build_app()
_config: Final = uvicorn.Config(_app, interface="asgi3", log_config=None)
_config.load()


def check(data: bytes) -> None:
    """Sends a stream at once and in pieces. The first line says how it is cut, the rest is sent."""
    cuts, _, text = data.partition(b"\n")
    stream = with_certificates(text)
    shared = Shared()
    answers = converse(stream, b"", shared)
    in_pieces = converse(stream, cuts, shared)
    require(answers == in_pieces, f"the same answers however it is cut: {answers}, {in_pieces}")
    requests, ending = strict_http.read_requests(stream)
    if not any(map(_is_large, requests)):
        slowly = converse(stream, b"", shared, has_fast_path=False)
        require(_grants(answers) == _grants(slowly), "the same grants without the fast path")
    require_grants_agree(answers, requests)
    _require_answers(answers, requests, ending)
    _require_h11_agrees(stream, answers, requests)


def converse(
    stream: bytes, cuts: bytes, shared: Shared, *, has_fast_path: bool = True
) -> list[Answer]:
    """What one connection answers to a stream that comes in pieces."""
    loop = event_loop()
    state = ServerState()
    fast_path = _app.fast_path if has_fast_path else None
    protocol = HeadProtocol(_config, state, {}, loop, fast_path=fast_path, shared=shared)
    transport = _Transport()
    protocol.connection_made(transport)
    for piece, pauses in _pieces(stream, cuts):
        protocol.data_received(piece)
        if pauses or transport.is_paused:
            _run(loop, state)
    _run(loop, state)
    answers = [
        Answer(int(status), dict(re.findall(rb"([^:\r\n]+): ([^\r\n]*)", fields)).get(b"X-Hotkey"))
        for status, fields in _RESPONSE.findall(bytes(transport.written))
    ]
    protocol.connection_lost(None)
    _run(loop, state)
    return answers


def _pieces(stream: bytes, cuts: bytes) -> Iterator[tuple[bytes, bool]]:
    """The pieces of a stream, each with whether there is a pause after it."""
    for number in range(_MOST_PIECES if cuts else 0):
        cut = cuts[number % len(cuts)]
        size = cut & ~_PAUSE
        if size == _TO_LINE_END:
            line_end = _LINE_END.search(stream, 1)
            size = len(stream) if line_end is None else line_end.start()
        yield stream[:size], bool(cut & _PAUSE)
        stream = stream[size:]
    yield stream, False


def _run(loop: asyncio.AbstractEventLoop, state: ServerState) -> None:
    """Lets the loop run until no request waits for its answer."""
    for _ in range(_TURNS):
        loop.call_soon(loop.stop)
        loop.run_forever()
        if not state.tasks:
            return
    raise PropertyBroken("every request is answered")


def require_grants_agree(answers: list[Answer], requests: list[Request]) -> None:
    """Every grant is for the certificate that a strict reader sees in the same request."""
    for number, answer in enumerate(answers):
        require(answer.status in {GRANTED, DENIED, MALFORMED}, "a decision, or 400")
        require((answer.status == GRANTED) == (answer.hotkey is not None), "grants name a hotkey")
        if answer.status == GRANTED:
            require(number < len(requests), "a grant for what is no request to a strict reader")
            require(
                answer.hotkey == _caller_of(requests[number]),
                "a grant for the certificate that a strict reader sees",
            )


def _require_answers(answers: list[Answer], requests: list[Request], ending: Ending) -> None:
    """What the strict reader sees is answered, and nothing else is."""
    for number, request in enumerate(requests):
        is_last = number + 1 == len(requests)
        if _is_large(request) or request.may_refuse:
            return
        require(number < len(answers), "an answer to every request")
        expected = DENIED if _caller_of(request) is None else GRANTED
        require(answers[number].status == expected, f"{expected} for {request}")
        if request.may_end and len(answers) == number + 1:
            return
        if is_last and ending in {Ending.LAST, Ending.CLEAN}:
            require(len(answers) == number + 1, "no answer to what is no request")
    if ending is Ending.MALFORMED:
        require(
            [each.status for each in answers[len(requests) :]] == [MALFORMED], "400, and the end"
        )


def _grants(answers: list[Answer]) -> list[tuple[int, bytes | None]]:
    return [
        (number, answer.hotkey) for number, answer in enumerate(answers) if answer.status == GRANTED
    ]


def _is_large(request: Request) -> bool:
    size = sum(len(name) + len(value) + 4 for name, value in request.fields)
    return len(request.fields) > _MANY_FIELDS or size + len(request.target) > _MANY_BYTES


def _caller_of(request: Request) -> bytes | None:
    """Whom the one certificate field of a request proves, among those who are registered."""
    values = request.values_of(_FIELD)
    if len(values) != 1:
        return None
    try:
        return _PEOPLE.get(der_from_percent_encoded_pem(values[0]))
    except CertificateRejected:
        return None


def _require_h11_agrees(stream: bytes, answers: list[Answer], requests: list[Request]) -> None:
    """h11 sees what was granted as the strict reader does, or refuses what may be refused."""
    for answer, request in zip(answers, requests, strict=False):
        if answer.status != GRANTED:
            continue
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1024 * 1024)
        connection.receive_data(stream[request.at :])
        try:
            seen = connection.next_event()
        except h11.RemoteProtocolError:
            require(request.may_refuse, "h11 refuses only what may be refused")
            continue
        fields = [(name.lower(), value) for name, value in request.fields]
        require(
            isinstance(seen, h11.Request)
            and (seen.method, seen.target) == (request.method, request.target)
            and list(seen.headers) == fields,
            "h11 and the strict reader see one request",
        )


def seeds() -> dict[str, bytes]:
    """Honest streams, and the ways to confuse a reader that are known."""
    get = b"GET /a?b=c HTTP/1.1\r\nHost: auth\r\n"
    alice = b"X-Client-Cert: {alice}\r\n"
    request = get + alice + b"\r\n"
    named = get + b"X-Request-ID: 7f\r\n" + alice + b"\r\n"
    streams = {
        "grant": request,
        "pipelined": request + get + b"X-Client-Cert: {bob}\r\n\r\n" + get + b"\r\n" + request,
        "named": named + named.replace(b"7f", b"80") + named.replace(b"7f", b"x y"),
        "stranger": get + b"x-client-cert: {mallory}\r\n\r\n",
        "two-fields": get + alice + alice.lower() + b"\r\n",
        "joined": get + b"X-Client-Cert: {alice}, {alice}\r\n\r\n",
        "underscores": get + b"X_Client_Cert: {alice}\r\n\r\n",
        "empty-lines-first": b"\r\n\r\n" + request,
        "unusual-method": request.replace(b"GET", b"PURGE") + request.replace(b"GET", b"get"),
        "head": request.replace(b"GET", b"HEAD") + request,
        "options": request.replace(b"GET /a?b=c", b"OPTIONS *") + request,
        "absolute": request.replace(b"/a?b=c", b"http://a/b"),
        "connect": request.replace(b"GET /a?b=c", b"CONNECT a:443") + request,
        "body": get + alice + b"Content-Length: 5\r\n\r\nGET /" + request,
        "empty-body": get + alice + b"Content-Length: 0\r\n\r\n" + request,
        "chunked": get + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + alice + b"\r\n" + request,
        "both-lengths": get + alice + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "two-lengths": get + alice + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
        "close": get + alice + b"Connection: keep-alive, close\r\n\r\n" + request,
        "upgrade": get + alice + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n" + request,
        "old-version": request.replace(b"1.1", b"1.0") + request,
        "folded": get + b"X-Client-Cert:\r\n {alice}\r\n\r\n",
        "space-before-colon": get + b"X-Client-Cert : {alice}\r\n\r\n",
        "bare-line-feed": get + b"X: a\nX-Client-Cert: {alice}\r\n\r\n",
        "nul": get + b"X: a\0b\r\n" + alice + b"\r\n",
        "no-version": b"GET /\r\n" + alice + b"\r\n",
        "version-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + request,
        "other-protocols": request.replace(b"HTTP", b"RTSP") + request,
        "source": request.replace(b"GET", b"SOURCE").replace(b"HTTP", b"ICE"),
        "no-host": request.replace(b"Host: auth\r\n", b"") + request,
        "two-hosts": get + b"host: b\r\n" + alice + b"\r\n" + request,
        "bare-line-ends": b"\n" + request + b"\r" + request,
        "bare-line-feed-between": request + b"\r\n\n" + request,
        "many-fields": get + b"a: b\r\n" * 200 + alice + b"\r\n" + request,
        "unfinished": request + get + alice,
        "other-text": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n" + request,
    }
    cuts = (b"", b"\x01", b"\x81", b"\x07\x93\x40", b"\x7f\x01", b"\xff\x82")
    return {
        name: cuts[number % len(cuts)] + b"\n" + stream
        for number, (name, stream) in enumerate(streams.items())
    }
