"""The strict reader of requests is strict: it is what grants are compared with."""

from __future__ import annotations

from typing import Final

import pytest

from fuzz.strict_http import Ending, read_requests

GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n"
NEXT: Final = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def test_requests_of_one_connection_are_read_in_order() -> None:
    """With their fields, names as they were written and values without what is around them."""
    stream = b"\r\n" + GET + b"x-A:\t b c \r\nX-A:\r\n\r\n" + NEXT
    (first, second), ending = read_requests(stream)
    assert (first.method, first.target, first.at) == (b"GET", b"/", 2)
    assert first.fields == ((b"Host", b"a"), (b"x-A", b"b c"), (b"X-A", b""))
    assert first.values_of(b"x-a") == [b"b c", b""]
    assert second.target == b"/next"
    assert stream[second.at :] == NEXT
    assert not first.may_refuse
    assert not first.may_end
    assert ending is Ending.CLEAN


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(GET + b"host: a\r\n\r\n", id="two Hosts"),
        pytest.param(GET.replace(b"1.1", b"1.0") + b"host: b\r\n\r\n", id="two Hosts, HTTP/1.0"),
        pytest.param(b"\n" + GET + b"\r\n", id="bare LF first"),
        pytest.param(b"\r" + GET + b"\r\n", id="bare CR first"),
        pytest.param(b"\r\n\n" + GET + b"\r\n", id="bare LF after an empty line"),
        pytest.param(b" " + GET + b"\r\n", id="space first"),
        pytest.param(GET.replace(b" HTTP/1.1", b"") + b"\r\n", id="HTTP/0.9"),
        pytest.param(GET.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n", id="HTTP/2.0"),
        pytest.param(GET.replace(b"HTTP/1.1", b"RTSP/1.1") + b"\r\n", id="RTSP"),
        pytest.param(GET.replace(b"HTTP/1.1", b"HTTP/1.1 ") + b"\r\n", id="space behind"),
        pytest.param(GET.replace(b"GET", b"G(T") + b"\r\n", id="no token"),
        pytest.param(GET.replace(b"GET /", b"GET\t/") + b"\r\n", id="tab"),
        pytest.param(GET.replace(b" / ", b" /\0 ") + b"\r\n", id="NUL in the target"),
        pytest.param(GET + b" X: a\r\n\r\n", id="folded line"),
        pytest.param(GET + b"X : a\r\n\r\n", id="space before the colon"),
        pytest.param(GET + b": a\r\n\r\n", id="no name"),
        pytest.param(GET + b"X\r\n\r\n", id="no colon"),
        pytest.param(GET + b"X: a\nY: b\r\n\r\n", id="bare LF"),
        pytest.param(GET + b"X: a\rY: b\r\n\r\n", id="bare CR"),
        pytest.param(GET + b"X: a\0\r\n\r\n", id="NUL"),
        pytest.param(GET + b"X: \x7f\r\n\r\n", id="DEL"),
        pytest.param(GET + b"X\x80: a\r\n\r\n", id="0x80 in a name"),
        pytest.param(GET + b"Content-Length: +1\r\n\r\n", id="signed length"),
        pytest.param(GET + b"Content-Length:\r\n\r\n", id="empty length"),
        pytest.param(GET + b"Content-Length: 1\r\ncontent-length: 2\r\n\r\n", id="two lengths"),
        pytest.param(GET + b"Content-Length: 1, 2\r\n\r\n", id="two lengths in one"),
        pytest.param(
            GET + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", id="both framings"
        ),
        pytest.param(GET + b"Transfer-Encoding: gzip\r\n\r\n", id="not chunked"),
        pytest.param(GET + b"Transfer-Encoding: chunked, gzip\r\n\r\n", id="chunked not last"),
        pytest.param(GET + b"Transfer-Encoding: chunked, chunked\r\n\r\n", id="chunked twice"),
        pytest.param(GET + b"Transfer-Encoding:\r\n\r\n", id="no coding"),
    ],
)
def test_what_is_no_request_ends_the_reading(stream: bytes) -> None:
    """First or behind a good one, and nothing behind it is read."""
    assert read_requests(stream + NEXT) == ([], Ending.MALFORMED)
    requests, ending = read_requests(NEXT + stream + NEXT)
    assert len(requests) == 1
    assert ending is Ending.MALFORMED


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(GET + b"Content-Length: 1\r\n\r\n", id="body"),
        pytest.param(GET + b"Transfer-Encoding: Chunked\r\n\r\n", id="chunked"),
        pytest.param(GET + b"Connection: a, CLOSE\r\n\r\n", id="close"),
        pytest.param(GET.replace(b"GET /", b"CONNECT a:1") + b"\r\n", id="tunnel"),
    ],
)
def test_behind_the_last_request_nothing_is_read(head: bytes) -> None:
    """A body, a tunnel, or an announced end."""
    requests, ending = read_requests(head + NEXT)
    assert [request.target for request in requests] != [b"/next"]
    assert (len(requests), ending) == (1, Ending.LAST)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"\r\n\r\n" + GET + b"\r\n", id="two empty lines first"),
        pytest.param(GET.replace(b"GET ", b"GET  ") + b"\r\n", id="two spaces"),
        pytest.param(GET.replace(b"1.1", b"1.9") + b"\r\n", id="HTTP/1.9"),
        pytest.param(GET.replace(b" / ", b" /\xe4 ") + b"\r\n", id="raw byte in the target"),
        pytest.param(GET.replace(b"Host: a", b"Host: a b") + b"\r\n", id="no host"),
        pytest.param(GET + b"Content-Length: 0\r\ncontent-length: 0\r\n\r\n", id="zero twice"),
    ],
)
def test_what_may_be_refused_is_marked(head: bytes) -> None:
    """A MAY or a SHOULD of RFC 9112: to read it or to refuse it are both right."""
    (first, second), ending = read_requests(head + NEXT)
    assert first.may_refuse
    assert not second.may_refuse
    assert ending is Ending.CLEAN


def test_unfinished_head_is_no_request_yet() -> None:
    """The rest may come."""
    assert read_requests(GET) == ([], Ending.UNFINISHED)
    assert read_requests(b"\r") == ([], Ending.UNFINISHED)
    assert read_requests(b"\r\n") == ([], Ending.CLEAN)
