"""A stream of requests is answered as its requests are one by one, however it is cut."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from nexus_auth.adapters.starlette.answers import Answer
from nexus_auth.adapters.starlette.gate import Claim
from nexus_auth.adapters.uvicorn.head_protocol import MAX_FIELDS, Shared
from nexus_auth.domain.ports import Headers
from tests.unit.adapters.uvicorn.test_head_protocol import GRANT, Grants, connected, denies

GOOD = b"GET /a HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: c\r\n\r\n"

LINES = st.sampled_from(
    [
        *(b"GET / HTTP/1.1", b"HEAD /b?c HTTP/1.1", b"ODD / HTTP/1.1", b"GET / HTTP/1.0"),
        *(
            b"POST / HTTP/1.1",
            b"CONNECT a:1 HTTP/1.1",
            b"CONNECT / HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
        ),
        *(
            b"GET / HTTP/1.2",
            b"GET / RTSP/1.1",
            b"GET / HTTP/2.0",
            b"GET /",
            b"",
            b"\n",
            b"\r",
            b" GET / HTTP/1.1",
        ),
        *(b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET /\t HTTP/1.1", b"(G) / HTTP/1.1"),
        *(b"GET /  HTTP/1.1", b"CONNECT  a:1 HTTP/1.1", b"GET / RTSP/1.1", b"SOURCE / ICE/1.1"),
    ]
)
FIELDS = st.sampled_from(
    [
        *(b"Host: a b", b"host:", b"Host: [::1]:80"),
        *(b"X-Client-Cert: c", b"X-Client-Cert: d", b"X-Request-ID: 1", b"X-Request-ID: 2"),
        *(
            b"Content-Length: 0",
            b"Content-Length: 30",
            b"Content-Length: +1",
            b"Content-Length: 3,3",
        ),
        *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Connection: close"),
        *(
            b"Connection: upgrade",
            b"Upgrade: x",
            b"Connection: keep-alive",
            b"Expect: 100-continue",
        ),
        *(
            b" folded",
            b"A : b",
            b"A: \x00",
            b"A: \xff",
            b"A:b\nB: c",
            b"A:b\rB: c",
            b"no colon",
            b":",
        ),
        b"a:b\r\n" * MAX_FIELDS + b"a:b",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\n\r\n", b"\r\r\n", b""])
HOSTS = st.sampled_from([b"Host: auth"] * 8 + [b"A: b"])
HEADS = st.builds(
    lambda line, host, fields: b"\r\n".join([line, host, *fields, b"", b""]),
    st.one_of(st.just(b"GET / HTTP/1.1"), LINES),
    HOSTS,
    st.lists(FIELDS, max_size=2),
)
GOOD_OR_NOT = st.one_of(st.just(GOOD), HEADS)
UNENDED = st.builds(lambda head, end: head[:-2] + end, HEADS, ENDS)
STREAMS = st.lists(
    st.one_of(
        st.just(GOOD), HEADS, UNENDED, st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\n\r", b"x"])
    ),
    min_size=1,
    max_size=6,
)
Decided = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]
"""Method, target and fields of a request that got a decision."""
CUTS = st.lists(st.integers(0, 600), max_size=8)


@dataclass(frozen=True)
class Outcome:
    """What can be seen of a connection: what was decided on, what was written, whether it ended."""

    decided: tuple[Decided, ...]
    written: bytes
    is_over: bool


async def outcome_of(*pieces: bytes, shared: Shared | None = None) -> Outcome:
    """Sends pieces over a connection of its own. The certificate `c` is remembered, others not."""
    decided: list[Decided] = []

    def note(method: bytes, target: bytes, headers: Headers) -> None:
        fields = tuple((name.lower(), value.strip(b" \t")) for name, value in headers)
        decided.append((method, target, fields))

    class Remembering(Grants):
        def answer(
            self, claim: Claim, headers: Headers, method: bytes, target: bytes
        ) -> Answer | None:
            if (b"X-Client-Cert", b"c") not in headers:
                return None
            note(method, target, headers)
            return GRANT

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        target = scope["raw_path"] + (b"?" + scope["query_string"]).removesuffix(b"?")
        note(scope["method"].encode(), target, scope["headers"])
        await denies(scope, receive, send)

    protocol, transport = connected(app, Remembering(lambda: None), shared)
    for piece in filter(None, pieces):
        protocol.data_received(piece)
        await rest()
    return Outcome(tuple(decided), transport.written, "write_eof" in transport.done)


async def rest() -> None:
    """Lets every task end, also those that others begin."""
    for _ in range(30):
        await asyncio.sleep(0)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces."""
    ends = sorted({*(place % (len(stream) + 1) for place in places), len(stream)})
    return [stream[begin:end] for begin, end in itertools.pairwise([0, *ends])]


@given(STREAMS, CUTS)
@example([GOOD, b"\n"], [])
@example([b"\n", GOOD], [])
@example([GOOD, b"\r\n\n", GOOD], [len(GOOD)])
@example([b"\r", b"\n", GOOD], [1])
@example([GOOD, b"GET / HTTP/1.1\nHost: a\r\n\r\n", GOOD], [])
async def test_where_a_stream_is_cut_changes_nothing(parts: list[bytes], places: list[int]) -> None:
    """The same decisions, answers and end: in one piece, in any, and byte by byte."""
    stream, shared = b"".join(parts), Shared()
    whole = await outcome_of(stream)
    assert await outcome_of(*cut(stream, places)) == whole
    assert await outcome_of(*(bytes([byte]) for byte in stream)) == whole
    # Nor does it change anything which heads are known.
    for _ in range(2):
        assert await outcome_of(*cut(stream, places), shared=shared) == whole


@given(st.lists(GOOD_OR_NOT, min_size=1, max_size=5), CUTS)
@example(
    [GOOD, GOOD, GOOD.replace(b"GET", b"POST").replace(b"Host", b"Content-Length: 5\r\nHost")], []
)
@example([GOOD, b"GET / HTTP/1.1\r\nA:b\nHost: auth\r\n\r\n", GOOD], [])
@example([GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), GOOD], [])
@example([GOOD, b"CONNECT / HTTP/1.1\r\nHost: auth\r\n\r\n", GOOD], [])
async def test_each_request_is_answered_as_it_is_alone(
    heads: list[bytes], places: list[int]
) -> None:
    """Nothing of a request stays for the next, until one ends the connection."""
    expected = Outcome((), b"", is_over=False)
    for head in heads:
        alone = await outcome_of(head)
        expected = Outcome(
            expected.decided + alone.decided, expected.written + alone.written, alone.is_over
        )
        if alone.is_over:
            break
    assert await outcome_of(*cut(b"".join(heads), places)) == expected


@given(st.lists(GOOD_OR_NOT, min_size=1, max_size=4))
@example([GOOD, GOOD])
@example([GOOD.replace(b" /a", b"  /a")])
@example([GOOD.replace(b" HTTP", b"  HTTP")])
@example([GOOD.replace(b"HTTP", b"RTSP")])
@example([b"ODD / HTTP/1.1\r\nHost: auth\r\n\r\n"])
@example([b"CONNECT a:1 HTTP/1.1\r\nHost: auth\r\nTransfer-Encoding: gzip\r\n\r\n"])
async def test_what_is_decided_on_is_what_a_strict_reader_sees(heads: list[bytes]) -> None:
    """A differential test against h11: nothing is granted that it reads differently or rejects."""
    decided = (await outcome_of(b"".join(heads))).decided
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(b"".join(heads))
    for number, (method, target, fields) in enumerate(decided, start=1):
        event = reader.next_event()
        assert isinstance(event, h11.Request)
        assert (event.method, event.target, tuple(event.headers)) == (method, target, fields)
        if number < len(decided):
            # Only a request without a body has another one behind it.
            assert isinstance(reader.next_event(), h11.EndOfMessage)
            reader.send(h11.Response(status_code=403, headers=[(b"content-length", b"0")]))
            reader.send(h11.EndOfMessage())
            reader.start_next_cycle()


@pytest.mark.parametrize("before", [b"", GOOD * 3])
@pytest.mark.parametrize(
    ("head", "is_last"),
    [
        (GOOD, False),
        (GOOD.replace(b"GET", b"ODD"), False),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.2"), False),
        (GOOD.replace(b"Host", b"Content-Length: 0\r\nHost"), False),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), True),
        (
            GOOD.replace(b"HTTP/1.1", b"HTTP/1.0").replace(
                b"Host", b"Connection: keep-alive\r\nHost"
            ),
            True,
        ),
        (GOOD.replace(b"GET", b"ODD").replace(b"HTTP/1.1", b"HTTP/1.0"), True),
        (GOOD.replace(b"GET /a", b"CONNECT a:1"), True),
        (GOOD.replace(b"GET /a", b"CONNECT /a"), True),
        (GOOD.replace(b"GET /a", b"CONNECT a:1").replace(b"HTTP/1.1", b"HTTP/1.2"), True),
        (GOOD.replace(b"Host", b"Connection: close\r\nHost"), True),
        (GOOD.replace(b"Host", b"Content-Length: 1\r\nHost"), True),
        (GOOD.replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"), True),
        (GOOD.replace(b"Host", b"Connection: upgrade\r\nUpgrade: x\r\nHost"), True),
    ],
)
async def test_what_follows_is_answered_where_it_is_a_request(
    before: bytes, head: bytes, *, is_last: bool
) -> None:
    """Nothing is taken for a request behind one that has a body, or ends its connection."""
    outcome = await outcome_of(before + head + GOOD)
    assert len(outcome.decided) == (3 if before else 0) + (1 if is_last else 2)
    assert outcome.is_over is is_last
    assert (b"Connection: close" in outcome.written) is is_last


@pytest.mark.parametrize("before", [b"", GOOD * 3])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /a HTTP/1.1\nHost: auth\r\nX-Client-Cert: c\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: auth\nX-Client-Cert: c\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: auth\r\nA: b\nX-Client-Cert: c\r\n\r\n",
        b"GET /a HTTP/1.1\nHost: auth\nX-Client-Cert: c\n\n",
        b"\nGET /a HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: c\r\n\r\n",
        b"\rGET /a HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: c\r\n\r\n",
    ],
)
async def test_bare_line_end_ends_the_connection(before: bytes, head: bytes) -> None:
    """However many good requests came before: it is refused, and nothing behind it is answered."""
    outcome = await outcome_of(before, head, GOOD)
    assert len(outcome.decided) == (3 if before else 0)
    assert outcome.written.count(b"HTTP/1.1 400 ") == 1
    assert outcome.is_over
