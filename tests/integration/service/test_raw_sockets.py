"""What goes over the wire, byte by byte: everything that is not an ordinary request."""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import pytest
import uvicorn

from nexus_auth.adapters.headers.formats import der_from_percent_encoded_pem
from nexus_auth.adapters.starlette.auth_app import AuthApp
from nexus_auth.adapters.starlette.gate import Gate
from nexus_auth.adapters.uvicorn.head_protocol import (
    MAX_EMPTY_LINES,
    MAX_FIELDS,
    HeadProtocol,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.verifier import CertificateVerifier
from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_nginx_header
from tests.fakes import FakeClock, FakeRegistry
from tests.integration.real import wait_until_ready

CERTIFICATE: Final = to_nginx_header(a_certificate())
GRANTING: Final = b"X-Client-Cert: " + CERTIFICATE + b"\r\n"
TIMEOUT_SECONDS: Final = 20.0
HEAD_TIMEOUT_SECONDS: Final = 0.4
"""Instead of ten seconds, so that the tests are quick."""

GRANTED: Final = b"HTTP/1.1 200 OK\r\n"
DENIED: Final = b"HTTP/1.1 403 Forbidden\r\n"
REFUSED: Final = b"HTTP/1.1 400 Bad Request\r\n"


@dataclass(frozen=True)
class Listener:
    """A running server, and the registry behind it."""

    port: int
    registry: FakeRegistry
    server: uvicorn.Server

    def connect(self) -> socket.socket:
        """Opens a connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def exchange(self, *pieces: bytes, answers: int = 1, pause_seconds: float = 0.0) -> bytes:
        """Sends pieces one by one, and reads so many answers, or until the connection ends."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause_seconds)
            return read_answers(connection, answers)


def read_answers(connection: socket.socket, count: int) -> bytes:
    """Reads so many whole answers, or what there is until the connection ends."""
    received = b""
    while True:
        rest, whole = received, 0
        while match := re.match(
            rb"HTTP/1.1 .*?\r\nContent-Length: (\d+)\r\n.*?\r\n\r\n",
            rest,
            re.DOTALL | re.IGNORECASE,
        ):
            end = match.end() + int(match[1])
            if len(rest) < end:
                break
            rest, whole = rest[end:], whole + 1
        if whole >= count:
            return received
        data = connection.recv(65536)
        if not data:
            return received
        received += data


class SlowRegistry(FakeRegistry):
    """Takes a moment for those who are not at hand."""

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        await asyncio.sleep(0.05)
        return await super().lookup(hotkey, presented=presented)


@contextmanager
def listening(
    registry: FakeRegistry,
    *,
    own_protocol: bool = True,
    head_timeout_seconds: float = HEAD_TIMEOUT_SECONDS,
) -> Iterator[Listener]:
    """Serves the auth application in a thread of its own."""
    clock = FakeClock()
    gate = Gate(
        verifier=CertificateVerifier(registry=registry, clock=clock),
        header="X-Client-Cert",
        der_from=der_from_percent_encoded_pem,
        trusted_peers=None,
    )
    app = AuthApp(gate=gate, clock=clock, reuse=timedelta(seconds=5))
    protocol = functools.partial(
        HeadProtocol, fast_path=app.fast_path, head_timeout_seconds=head_timeout_seconds
    )
    config = uvicorn.Config(
        app,
        http=protocol if own_protocol else "httptools",  # type: ignore[arg-type] # called like a class
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until_ready(lambda: server.started, what="uvicorn")
        try:
            yield Listener(port, registry, server)
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    """The auth application under our protocol, which knows alice."""
    with listening(FakeRegistry({a_hotkey("alice"): public_bytes(a_key("alice"))})) as listener:
        yield listener


def a_request(line: bytes = b"GET / HTTP/1.1", *fields: bytes) -> bytes:
    """A request of these lines."""
    return b"\r\n".join([line, b"Host: auth", *fields, b"", b""])


WELL_FORMED: Final = [
    b"GET / HTTP/1.1",
    b"GET /a/b?c=d&e=%00 HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"GET http://auth:8080/x HTTP/1.1",
    b"GET https://auth/x HTTP/1.1",
    b"CONNECT auth:8080 HTTP/1.1",
    b"PROPFIND / HTTP/1.1",
    b"FOO / HTTP/1.1",
    b"get / HTTP/1.1",
    b"M-SEARCH * HTTP/1.1",
    b"DESCRIBE / HTTP/1.1",
    b"!#$%&'*+-.^_`|~09 / HTTP/1.1",
    b"A" * 300 + b" / HTTP/1.1",
    b"FOO * HTTP/1.1",
    b"FOO http://auth/x HTTP/1.1",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1",
    b"GET / HTTP/1.0",
    b"FOO / HTTP/1.0",
    b"GET / HTTP/1.2",
    b'GET /"<>{|}^`\\ HTTP/1.1',
    b"GET /\xc3\xa4 HTTP/1.1",
]


@pytest.mark.parametrize("line", WELL_FORMED)
def test_every_request_line_gets_a_decision(listener: Listener, line: bytes) -> None:
    """With the certificate a grant, without it a denial, never anything else."""
    for _ in range(2):  # the second time the caller is remembered
        granted = listener.exchange(a_request(line, GRANTING[:-2]))
        assert granted.startswith(GRANTED)
        assert b"\r\nX-Hotkey: " + a_hotkey("alice").address.encode() + b"\r\n" in granted
    denied = listener.exchange(a_request(line))
    assert denied.startswith(DENIED)
    assert b"\r\nX-Nexus-Auth-Reason: no-certificate\r\n" in denied
    assert b"X-Hotkey" not in denied
    assert b"X-Accel-Expires" not in denied


def test_head_request_is_answered_without_a_body(listener: Listener) -> None:
    """What follows on the connection is the next answer."""
    with listener.connect() as connection:
        connection.sendall(a_request(b"HEAD / HTTP/1.1", GRANTING[:-2]))
        connection.sendall(a_request())
        answers = b""
        while b"No client certificate" not in answers:
            answers += connection.recv(65536)
    head, _, rest = answers.partition(b"\r\n\r\n")
    assert head.startswith(GRANTED)
    assert b"Content-Length: 14" in head
    assert rest.startswith(DENIED)


NOT_COUNTED: Final = [
    (GRANTING + GRANTING, b"no-certificate"),
    (b"X-Client-Cert:\r\n" + GRANTING, b"no-certificate"),
    (GRANTING + b"x-client-cert: \r\n", b"no-certificate"),
    (b"X_Client_Cert: " + CERTIFICATE + b"\r\n", b"no-certificate"),
    (b"X-Client_Cert: " + CERTIFICATE + b"\r\n", b"no-certificate"),
    (b"X-Client-Cert: " + CERTIFICATE + b", " + CERTIFICATE + b"\r\n", b"malformed-certificate"),
    (b"X-Client-Cert: " + CERTIFICATE + b",\r\n", b"malformed-certificate"),
    (b"X-Client-Cert: \r\n", b"no-certificate"),
    (b"X-Client-Cert: \xff\r\n", b"bad-encoding"),
]


@pytest.mark.parametrize(("fields", "reason"), NOT_COUNTED)
def test_anything_but_one_certificate_header_is_denied(
    listener: Listener, fields: bytes, reason: bytes
) -> None:
    """Repeated, joined, empty, spelt otherwise."""
    assert listener.exchange(a_request(b"GET / HTTP/1.1", GRANTING[:-2])).startswith(GRANTED)
    answer = listener.exchange(b"GET / HTTP/1.1\r\nHost: auth\r\n" + fields + b"\r\n")
    assert answer.startswith(DENIED)
    assert b"\r\nX-Nexus-Auth-Reason: " + reason + b"\r\n" in answer


@pytest.mark.parametrize(
    "spelling", [b"X-Client-Cert: %s", b"x-client-cert:%s", b"X-CLIENT-CERT: \t%s \t"]
)
def test_case_and_white_space_play_no_part(listener: Listener, spelling: bytes) -> None:
    """RFC 9110 §5.1 and §5.5."""
    assert listener.exchange(a_request(b"GET / HTTP/1.1", spelling % CERTIFICATE)).startswith(
        GRANTED
    )


TRAILERS: Final = [
    # All at once, byte-wise apart, and after the head.
    (
        b"POST / HTTP/1.1\r\nHost: auth\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + GRANTING
        + b"\r\n",
    ),
    (
        b"POST / HTTP/1.1\r\nHost: auth\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\na\r\n",
        b"0\r\n" + GRANTING + b"\r\n",
    ),
    (
        b"POST / HTTP/1.1\r\nHost: auth\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n",
        GRANTING + b"\r\n",
    ),
]


@pytest.mark.parametrize("pieces", TRAILERS)
@pytest.mark.parametrize("own_protocol", [True, False])
def test_trailers_never_count(pieces: tuple[bytes, ...], *, own_protocol: bool) -> None:
    """Under our protocol, and under uvicorn's own, which mixes them into the headers."""
    registry = FakeRegistry({a_hotkey("alice"): public_bytes(a_key("alice"))})
    with listening(registry, own_protocol=own_protocol) as listener:
        assert listener.exchange(*pieces, pause_seconds=0.02).lower().startswith(DENIED.lower())


def test_chunked_request_with_a_certificate_is_granted(listener: Listener) -> None:
    """It is the head that counts; what comes after it is not looked at."""
    answer = listener.exchange(
        b"POST / HTTP/1.1\r\nHost: auth\r\nTransfer-Encoding: chunked\r\n" + GRANTING + b"\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
    )
    assert answer.startswith(GRANTED)


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_body_is_never_taken_for_a_request(
    listener: Listener, after: int, *, in_pieces: bool
) -> None:
    """One answer, and the end of the connection, whatever the body looks like and came before."""
    good = a_request(b"GET / HTTP/1.1", GRANTING[:-2])
    for framing in (
        *(b"Content-Length: %d" % length for length in (len(good), 3, len(good) + 10)),
        b"Transfer-Encoding: chunked",
    ):
        head = a_request(b"POST / HTTP/1.1", framing)
        pieces = (good * after, head, good) if in_pieces else (good * after + head + good,)
        pause = 0.01 if in_pieces else 0
        answers = listener.exchange(*pieces, answers=after + 2, pause_seconds=pause)
        assert answers.count(GRANTED) == after
        answer = answers[answers.rindex(b"HTTP/1.1 ") :]
        assert answers.count(b"HTTP/1.1 ") == after + 1
        assert answer.startswith(DENIED)
        assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("line", [b"CONNECT auth:8080 HTTP/1.1", b"CONNECT / HTTP/1.1"])
def test_connect_is_the_last_request_of_its_connection(listener: Listener, line: bytes) -> None:
    """Also with a target that no CONNECT has: what follows it would be a tunnel's."""
    good = a_request(b"GET / HTTP/1.1", GRANTING[:-2])
    answer = listener.exchange(a_request(line, GRANTING[:-2]) + good, answers=2)
    assert answer.startswith(GRANTED)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    "host",
    [
        *(b"nexus-auth", b"nexus_auth", b"unix", b"localhost:8080", b"", b"auth:", b":80"),
        *(b"127.0.0.1", b"[::1]", b"[fe80::1%25eth0]:8080", b"%2Frun%2Fauth.sock", b"auth."),
    ],
)
def test_host_may_be_any_name_or_address(listener: Listener, host: bytes) -> None:
    """RFC 9110 §7.2, and what proxies send; it decides nothing."""
    head = b"GET / HTTP/1.1\r\nHost: " + host + b" \r\n" + GRANTING + b"\r\n"
    assert listener.exchange(head).startswith(GRANTED)


def test_http_1_0_needs_no_host(listener: Listener) -> None:
    """RFC 9112 §3.2 asks HTTP/1.1 for it."""
    assert listener.exchange(b"GET / HTTP/1.0\r\n" + GRANTING + b"\r\n").startswith(GRANTED)


@pytest.mark.parametrize("empty", [b"\r\n", b"\r\n" * MAX_EMPTY_LINES])
def test_empty_lines_before_a_request_are_passed_over(listener: Listener, empty: bytes) -> None:
    """RFC 9112 §2.2. They are counted anew before each request."""
    good = a_request(b"GET / HTTP/1.1", GRANTING[:-2])
    assert listener.exchange((empty + good) * 3, answers=3).count(GRANTED) == 3


@pytest.mark.parametrize("pieces", [(b"\r", b"\n"), (b"\r\n\r", b"\n"), (b"\r", b"\n\r", b"\n")])
def test_empty_line_may_come_in_pieces(listener: Listener, pieces: tuple[bytes, ...]) -> None:
    """A carriage return is bare only when it is known what follows."""
    good = a_request(b"GET / HTTP/1.1", GRANTING[:-2])
    for before in ((), (good,)):
        answers = listener.exchange(
            *before, *pieces, good, answers=len(before) + 1, pause_seconds=0.01
        )
        assert answers.count(GRANTED) == len(before) + 1


@pytest.mark.parametrize("pieces", [(b"\n",), (b"\r", b"\r"), (b"\r", b"G"), (b"\r\n", b"\n")])
def test_bare_line_end_is_refused_at_once(listener: Listener, pieces: tuple[bytes, ...]) -> None:
    """It is answered by itself, and not with the request before it."""
    good = a_request(b"GET / HTTP/1.1", GRANTING[:-2])
    for before in ((), (good,)):
        answers = listener.exchange(*before, *pieces, answers=len(before) + 1, pause_seconds=0.01)
        assert answers.count(GRANTED) == len(before)
        assert answers.count(REFUSED) == 1


@pytest.mark.parametrize("field", [b"a:b", b"a: " + b"b" * 100])
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"FOO / HTTP/1.1"])
def test_request_of_too_many_fields_is_denied(
    listener: Listener, line: bytes, field: bytes
) -> None:
    """As one that is too long; one of as many as may be gets its decision."""
    for more, is_granted in ((0, True), (1, False), (500, False)):
        fields = [field] * (MAX_FIELDS - 2 + more)
        for _ in range(2):
            answer = listener.exchange(a_request(line, GRANTING[:-2], *fields))
            assert answer.startswith(GRANTED if is_granted else DENIED)
            assert (b"\r\nConnection: close\r\n" in answer) is not is_granted
            assert (b"Reason: malformed-certificate\r\n" in answer) is not is_granted


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("name", [b"X-Client-Cerd", b"X-Client-Dert", b"Y-Client-Cert"])
def test_other_header_of_the_same_length_is_not_the_certificate(
    listener: Listener, name: bytes, after: int
) -> None:
    """Also beside it, and where the caller is remembered."""
    good, other = a_request(b"GET / HTTP/1.1", GRANTING[:-2]), name + b": " + CERTIFICATE
    alone = a_request(b"GET / HTTP/1.1", other)
    beside = a_request(b"GET / HTTP/1.1", other, GRANTING[:-2])
    answers = listener.exchange(good * after + alone + beside, answers=after + 2)
    statuses = re.findall(rb"HTTP/1.1 (\d+)", answers)
    assert statuses == [b"200"] * after + [b"403", b"200"]
    assert b"\r\nX-Nexus-Auth-Reason: no-certificate\r\n" in answers


def test_large_body_does_not_lose_the_answer(listener: Listener) -> None:
    """A client that sends its whole body first still reads what was decided."""
    body = b"a" * 500_000
    head = a_request(b"POST / HTTP/1.1", b"Content-Length: %d" % len(body), GRANTING[:-2])
    assert listener.exchange(head, body).startswith(GRANTED)


def test_expectation_is_answered_with_the_decision(listener: Listener) -> None:
    """Nobody is asked to go on with a body that is not wanted."""
    fields = (b"Expect: 100-continue", b"Content-Length: 5")
    assert listener.exchange(a_request(b"PUT / HTTP/1.1", *fields)).startswith(DENIED)
    assert listener.exchange(a_request(b"PUT / HTTP/1.1", *fields, GRANTING[:-2])).startswith(
        GRANTED
    )


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c", b"TLS/1.0"])
def test_nobody_is_offered_another_protocol(listener: Listener, upgrade: bytes) -> None:
    """An upgrade is a request like any other, and the last one on its connection."""
    fields = (b"Connection: Upgrade", b"Upgrade: " + upgrade)
    answer = listener.exchange(a_request(b"GET / HTTP/1.1", *fields) + a_request(), answers=2)
    assert answer.startswith(DENIED)
    assert answer.count(b"HTTP/1.1 ") == 1
    granted = listener.exchange(a_request(b"GET / HTTP/1.1", *fields, GRANTING[:-2]))
    assert granted.startswith(GRANTED)


MALFORMED: Final = [
    b"GET / HTTP/1.1\nHost: auth\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nX: a\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nX: a\r" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nX-Client-Cert : " + CERTIFICATE + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nX: a\r\n X-Client-Cert: b\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nX: \x00\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nno colon\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
    + GRANTING
    + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nContent-Length: 3\r\nContent-Length: 4\r\n"
    + GRANTING
    + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nContent-Length: -1\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nContent-Length: +1\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nTransfer-Encoding: gzip\r\n" + GRANTING + b"\r\n",
    b"FOO / HTTP/1.1\r\nHost: auth\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
    + GRANTING
    + b"\r\n",
    b"GET /\r\n" + GRANTING + b"\r\n",
    b"GET HTTP/1.1\r\nHost: auth\r\n" + GRANTING + b"\r\n",
    b"(GET) / HTTP/1.1\r\nHost: auth\r\n" + GRANTING + b"\r\n",
    b"G\xc3\x84T / HTTP/1.1\r\nHost: auth\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\nHost: auth\n" + GRANTING[:-2] + b"\n\n",
    *(
        line + b"\r\nHost: auth\r\n" + GRANTING + b"\r\n"
        for line in (b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / RTSP/1.1", b"GET / RTSP/1.0")
    ),
    b"hello\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + GRANTING + b"\r\n",
    b"FOO / HTTP/1.1\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.2\r\n" + GRANTING + b"\r\n",
    b"GET http://auth/ HTTP/1.1\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nHost: auth\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: auth\r\nhOST:\r\n" + GRANTING + b"\r\n",
    b"GET / HTTP/1.0\r\nHost: auth\r\nHost: auth\r\n" + GRANTING + b"\r\n",
    *(
        b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n" + GRANTING + b"\r\n"
        for host in (
            b"a b",
            b"a,\tb",
            b"a/b",
            b"user@auth",
            b"[::1",
            b"::1",
            b"a:b",
            b"\xc3\xa4",
            b'"a"',
        )
    ),
    b"\n" + a_request(b"GET / HTTP/1.1", GRANTING[:-2]),
    b"\r" + a_request(b"GET / HTTP/1.1", GRANTING[:-2]),
    b"\r\n\n" + a_request(b"GET / HTTP/1.1", GRANTING[:-2]),
    b"\r\r\n" + a_request(b"GET / HTTP/1.1", GRANTING[:-2]),
    b"\r\n" * (MAX_EMPTY_LINES + 1) + a_request(b"GET / HTTP/1.1", GRANTING[:-2]),
    b"GET / HTTP/2.0\r\n" + GRANTING + b"\r\n",
    a_request(b"GET / RTSP/1.1", GRANTING[:-2]),
    a_request(b"DESCRIBE / RTSP/1.0", GRANTING[:-2]),
    a_request(b"SOURCE / ICE/1.1", GRANTING[:-2]),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\r\n\r\n",
]


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("request_bytes", MALFORMED)
def test_malformed_request_is_refused_and_the_connection_closed(
    listener: Listener, request_bytes: bytes, after: int
) -> None:
    """Never a grant, whatever was granted before it, and nothing after it is answered."""
    good = a_request(b"GET / HTTP/1.1", GRANTING[:-2])
    answers = listener.exchange(good * after + request_bytes + good, answers=after + 2)
    assert answers.count(b"HTTP/1.1 ") == after + 1
    assert answers.count(GRANTED) == after
    answer = answers[answers.rindex(b"HTTP/1.1 ") :]
    assert answer.startswith(REFUSED)
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("size", [1_000, 60_000, 100_000, 130_500])
def test_long_head_gets_a_decision(listener: Listener, size: int) -> None:
    """A certificate of 43 KB is turned down as what it is, whatever arrives in which pieces."""
    head = a_request(b"GET / HTTP/1.1", b"X-Client-Cert: " + b"A" * size)
    assert listener.exchange(head).startswith(DENIED)
    half = len(head) // 2
    assert listener.exchange(head[:half], head[half:], pause_seconds=0.05).startswith(DENIED)


def test_endless_head_is_denied_too(listener: Listener) -> None:
    """Well-formed or not, nobody reads that far; and the memory is bounded."""
    answer = listener.exchange(b"GET / HTTP/1.1\r\n" + GRANTING + b"X: " + b"a" * 140_000)
    assert answer.startswith(DENIED)
    assert b"\r\nX-Nexus-Auth-Reason: malformed-certificate\r\n" in answer
    assert b"\r\nConnection: close\r\n" in answer


def test_long_padding_around_a_certificate_changes_nothing(listener: Listener) -> None:
    """Other headers may be as long as they like within the bound."""
    padded = a_request(b"GET / HTTP/1.1", b"X: " + b"a" * 100_000, GRANTING[:-2])
    assert listener.exchange(padded).startswith(GRANTED)


def test_request_may_come_byte_by_byte(listener: Listener) -> None:
    """Pieces play no part."""
    head = a_request(b"GET / HTTP/1.1", GRANTING[:-2])
    assert listener.exchange(*[head[at : at + 1] for at in range(len(head))]).startswith(GRANTED)
    assert listener.exchange(b"\r\n", b"\r\n\r\n", head).startswith(GRANTED)


@pytest.mark.parametrize("size", range(1, 6))
def test_first_piece_may_have_any_size(listener: Listener, size: int) -> None:
    """Three bytes are no head either, though that is where the search for its end fails."""
    head = a_request(b"GET / HTTP/1.1", GRANTING[:-2])
    for before in (b"", head):
        answers = listener.exchange(
            *filter(None, (before, head[:size], head[size:])),
            answers=2 if before else 1,
            pause_seconds=0.02,
        )
        assert answers.count(GRANTED) == (2 if before else 1)


def test_pipelined_requests_are_answered_in_order() -> None:
    """Also where the first one waits for the registry and the next ones need not."""
    registry = SlowRegistry({a_hotkey("alice"): public_bytes(a_key("alice"))})
    stranger = to_nginx_header(a_certificate(hotkey=a_hotkey("bob"), key=a_key("bob")))
    with listening(registry) as listener:
        assert listener.exchange(a_request(b"GET / HTTP/1.1", GRANTING[:-2])).startswith(GRANTED)
        certificates = [stranger, CERTIFICATE, b"x", CERTIFICATE, stranger, CERTIFICATE]
        requests = [a_request(b"GET / HTTP/1.1", b"X-Client-Cert: " + c) for c in certificates]
        answers = listener.exchange(b"".join(requests), answers=len(requests))
        statuses = re.findall(rb"HTTP/1.1 (\d+)", answers)
        assert statuses == [b"403", b"200", b"403", b"200", b"403", b"200"]
        assert re.findall(rb"Reason: (\S+)", answers) == [
            b"not-registered",
            b"malformed-certificate",
            b"not-registered",
        ]


def test_many_pipelined_requests_from_one_who_does_not_read() -> None:
    """Each gets its answer when the client reads at last; nobody else waits meanwhile."""
    request = a_request(b"GET / HTTP/1.1", GRANTING[:-2])
    registry = FakeRegistry({a_hotkey("alice"): public_bytes(a_key("alice"))})
    # However long this machine takes between two reads, the connection is not closed for that.
    with listening(registry, head_timeout_seconds=3600) as listener, listener.connect() as client:
        client.settimeout(0)
        # Until nothing more is taken: what the kernel keeps for both sides is full, and so the
        # service holds answers that are not read.
        sent, refused = bytearray(), 0
        while refused < 20:
            rest = (request * 100)[len(sent) % len(request) :]
            try:
                size = client.send(rest)
            except BlockingIOError:
                refused += 1
                # Another client gets through, and by then the loop has turned.
                assert listener.exchange(request).startswith(GRANTED)
            else:
                sent += rest[:size]
                refused = 0
        whole, begun = divmod(len(sent), len(request))
        client.settimeout(None)
        missing = request[begun:] if begun else b""
        sender = threading.Thread(target=client.sendall, args=(missing,))
        sender.start()
        count, received = whole + bool(missing), bytearray()
        answered = 0
        while answered < count:
            data = client.recv(1 << 20)
            assert data
            received += data
            answered += received.count(b"Access granted")
            del received[: max(0, received.rfind(b"Access granted") + 1)]
        sender.join()
        assert answered == count


@pytest.mark.parametrize(
    ("request_bytes", "is_kept"),
    [
        (a_request(), True),
        (a_request(b"GET / HTTP/1.1", GRANTING[:-2]), True),
        (a_request(b"FOO / HTTP/1.1"), True),
        (a_request(b"GET / HTTP/1.1", b"Connection: close"), False),
        (a_request(b"GET / HTTP/1.1", b"Connection: close", GRANTING[:-2]), False),
        (a_request(b"FOO / HTTP/1.1", b"Connection: close"), False),
        (a_request(b"POST / HTTP/1.1", b"Content-Length: 0"), True),
        (a_request(b"GET / HTTP/1.0"), False),
        (a_request(b"GET / HTTP/1.0", b"Connection: keep-alive", GRANTING[:-2]), False),
        (a_request(b"FOO / HTTP/1.0", b"Connection: keep-alive"), False),
        (a_request(b"FOO / HTTP/1.0"), False),
    ],
)
def test_connection_is_kept_where_the_client_wants_it(
    listener: Listener, request_bytes: bytes, *, is_kept: bool
) -> None:
    """And ended, plainly announced, where it does not."""
    with listener.connect() as connection:
        connection.sendall(request_bytes)
        first = read_answers(connection, 1)
        assert (b"\r\nConnection: close\r\n" in first) is not is_kept
        if is_kept:
            connection.sendall(a_request())
            assert read_answers(connection, 1).startswith(DENIED)
        else:
            assert connection.recv(100) == b""


def test_client_that_closes_its_half_still_gets_its_answer() -> None:
    """The decision may take a moment."""
    registry = SlowRegistry({})
    with listening(registry) as listener, listener.connect() as connection:
        connection.sendall(a_request(b"GET / HTTP/1.1", GRANTING[:-2]))
        connection.shutdown(socket.SHUT_WR)
        assert read_answers(connection, 1).startswith(DENIED)
        assert connection.recv(100) == b""


def seconds_until_closed(connection: socket.socket) -> float:
    """How long the other side keeps a connection open."""
    began = time.monotonic()
    assert connection.recv(100) == b""
    return time.monotonic() - began


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: auth\r\n", b"\r\n"])
def test_connection_without_a_complete_head_is_closed(listener: Listener, sent: bytes) -> None:
    """Half-open connections cannot pile up."""
    with listener.connect() as connection:
        connection.sendall(sent)
        assert seconds_until_closed(connection) > HEAD_TIMEOUT_SECONDS * 0.5


def test_dripping_does_not_extend_the_time(listener: Listener) -> None:
    """A byte now and then is no complete head either."""
    with listener.connect() as connection:
        began = time.monotonic()
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with suppress(OSError):
            while time.monotonic() - began < TIMEOUT_SECONDS:
                connection.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - began < TIMEOUT_SECONDS


def test_idle_connection_is_closed_and_a_busy_one_kept() -> None:
    """Each answer starts the time anew."""
    head_timeout_seconds = 2.0
    with (
        listening(FakeRegistry({}), head_timeout_seconds=head_timeout_seconds) as listener,
        listener.connect() as connection,
    ):
        began = time.monotonic()
        while time.monotonic() - began < head_timeout_seconds * 1.2:
            connection.sendall(a_request())
            assert read_answers(connection, 1).startswith(DENIED)
            time.sleep(head_timeout_seconds / 5)
        assert connection.recv(100) == b""


def test_slow_decision_is_waited_for() -> None:
    """The time is for the head, not for the answer."""

    class VerySlow(FakeRegistry):
        async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> None:
            await asyncio.sleep(HEAD_TIMEOUT_SECONDS * 2)

    with listening(VerySlow({})) as listener:
        assert listener.exchange(a_request(b"GET / HTTP/1.1", GRANTING[:-2])).startswith(DENIED)


def test_listener_counts_its_connections_down_again(listener: Listener) -> None:
    """Nothing is left over from all of the above."""
    wait_until_ready(
        lambda: not listener.server.server_state.connections, what="the end of all connections"
    )
    assert not listener.server.server_state.tasks
