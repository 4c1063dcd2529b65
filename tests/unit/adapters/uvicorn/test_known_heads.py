"""A head that is known again is taken for what parsing it would give, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.adapters.starlette.gate import Claim
from nexus_auth.adapters.uvicorn.head_protocol import Shared
from nexus_auth.adapters.uvicorn.known_heads import HEADS_KEPT, KnownHeads
from tests.unit.adapters.uvicorn.test_head_protocol import (
    GRANT,
    Grants,
    connected,
    denies,
    rest,
)


def a_head(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    """A head of these lines."""
    return b"\r\n".join((line, b"Host: auth", *fields, b"", b""))


NAMED = a_head(b"X-Client-Cert: c", b"X-Request-ID: 1")

# Lines that have to do with a request's name, or look as if they had, and some others.
names = st.sampled_from([b"X-Request-ID", b"x-request-id", b"X-Request-Id", b"X_Request_ID"])
values = st.sampled_from(
    [b"", b"1", b"2", b"a-b", b" 1", b"1 ", b"1\x00", b"\x00", b"1\r", b"1\n", b"\xff", b"a" * 200]
)
separators = st.sampled_from([b": ", b":", b":  ", b" : "])
fields = st.one_of(
    st.builds(lambda name, colon, value: name + colon + value, names, separators, values),
    st.sampled_from(
        [
            *(b"X-Client-Cert: c", b"X-Client-Cert: d", b"X-Nexus-Auth-Policy: p", b"A: b"),
            *(b" folded", b"\tX-Request-ID: 1", b"A: X-Request-ID: 1", b"A: \rX-Request-ID: 1"),
            *(b"Connection: close", b"Content-Length: 1", b"Transfer-Encoding: chunked"),
            *(b"Content-Length: 0", b"Upgrade: x", b"Connection: upgrade", b"Expect: 100-continue"),
        ]
    ),
)
lines = st.sampled_from(
    [b"GET / HTTP/1.1", b"HEAD / HTTP/1.1", b"ODD / HTTP/1.1", b"GET /?X-Request-ID:%20 HTTP/1.1"]
)
heads = st.builds(
    lambda line, several: a_head(*several, line=line), lines, st.lists(fields, max_size=4)
)


@given(st.lists(heads, min_size=2, max_size=6))
@example([NAMED, a_head(b"X-Client-Cert: c", b"X-Request-ID: ")])
@example([NAMED, a_head(b"X-Client-Cert: c", b"X-Request-ID: \x00")])
@example([NAMED, NAMED.replace(b"X-Request-ID: 1", b"X-Request-ID: 1\r\n folded")])
@example([NAMED, NAMED.replace(b"X-Request-ID: 1", b"X-Request-ID:1\r\nX-Request-ID: 1")])
@example([a_head(b"X-Request-ID:1", b"X-Request-ID: %d" % number) for number in (1, 2)])
@example([NAMED, NAMED.replace(b"X-Request-ID", b"x-request-id"), NAMED.replace(b"1", b"2")])
async def test_knowing_heads_changes_nothing_that_can_be_seen(several: list[bytes]) -> None:
    """Whatever was known before: the same request is decided on, and the same answer written."""
    shared = Shared()
    for head in several * 2:
        knowing, ignorant = Grants(lambda: GRANT), Grants(lambda: GRANT)
        protocol, transport = connected(denies, knowing, shared=shared)
        protocol.data_received(head)
        fresh, fresh_transport = connected(denies, ignorant)
        fresh.data_received(head)
        await rest()
        assert knowing.seen == ignorant.seen
        assert transport.written == fresh_transport.written
        assert transport.done == fresh_transport.done


@pytest.mark.parametrize("spelt", [b"X-Request-ID", b"x-request-id", b"X-Request-Id"])
def test_requests_that_differ_in_their_name_are_known(spelt: bytes) -> None:
    """However the proxy spells the field; each is shown with its own name."""
    heads = KnownHeads()
    first = [(b"X-Client-Cert", b"c"), (spelt, b"1")]
    head = a_head(b"X-Client-Cert: c", spelt + b": 1")
    assert heads.find(head) is None
    heads.remember(head, first, b"GET", b"/", Claim(b"c"))
    for name in (b"2", b"0f" * 16, b"1"):
        found = heads.find(a_head(b"X-Client-Cert: c", spelt + b": " + name))
        assert found is not None
        assert found[1] == ((b"X-Client-Cert", b"c"), (spelt, name))
        # What is shared between requests never changes.
        assert found[0].fields == tuple(first)
    assert heads.find(a_head(b"X-Client-Cert: d", spelt + b": 1")) is None
    assert len(heads) == 1


def test_a_head_with_the_names_in_the_certificate_is_known_too() -> None:
    """Two more fields, of 256 bytes each at most behind nginx, fit beside any certificate."""
    heads = KnownHeads()
    names = [(b"X-Client-Cert-Subject", b"s" * 256), (b"X-Client-Cert-Issuer", b"i" * 256)]
    fields = [(b"X-Client-Cert", b"c" * 3000), *names, (b"X-Request-ID", b"1")]
    head = a_head(*(b": ".join(field) for field in fields))
    heads.remember(head, fields, b"GET", b"/", Claim(b"c" * 3000))
    assert heads.find(head.replace(b"ID: 1", b"ID: 2")) is not None


def test_so_many_are_kept_whichever_kind_they_are_of() -> None:
    """A proxy that begins to name its requests, or stops, finds room."""
    heads = KnownHeads()
    for number in range(HEADS_KEPT + 10):
        certificate = b"%d" % number
        for fields in (
            [(b"X-Client-Cert", certificate)],
            [(b"X-Client-Cert", certificate), (b"X-Request-ID", b"1")],
        ):
            head = a_head(*(b": ".join(field) for field in fields))
            heads.remember(head, fields, b"GET", b"/", Claim(certificate))
            assert heads.find(head)
            assert len(heads) <= HEADS_KEPT
    assert len(heads) == HEADS_KEPT


def test_empty_name_is_not_taken_for_one_that_was_left_out() -> None:
    """A head with an empty name has the same bytes as the key of heads with any other name."""
    heads = KnownHeads()
    fields = [(b"X-Client-Cert", b"c"), (b"X-Request-ID", b"1")]
    heads.remember(
        a_head(b"X-Client-Cert: c", b"X-Request-ID: 1"), fields, b"GET", b"/", Claim(b"")
    )
    empty = a_head(b"X-Client-Cert: c", b"X-Request-ID: ")
    assert heads.find(empty) is None
    heads.remember(empty, [fields[0], (b"X-Request-ID", b"")], b"GET", b"/", Claim(b""))
    found = heads.find(empty)
    assert found is not None
    assert found[1][1] == (b"X-Request-ID", b"")
    assert heads.find(a_head(b"X-Client-Cert: c", b"X-Request-ID: 2")) is None


@pytest.mark.parametrize("place", [0, 1, 2])
def test_name_may_stand_anywhere_among_the_fields(place: int) -> None:
    """What stands before and behind it stays as it is."""
    heads = KnownHeads()
    fields = [(b"X-Client-Cert", b"c"), (b"A", b"b")]

    def named(value: bytes) -> list[tuple[bytes, bytes]]:
        return [*fields[:place], (b"X-Request-ID", value), *fields[place:]]

    def head_of(value: bytes) -> bytes:
        return a_head(*(b": ".join(field) for field in named(value)))

    heads.remember(head_of(b"1"), named(b"1"), b"GET", b"/", Claim(b"c"))
    found = heads.find(head_of(b"2"))
    assert found is not None
    assert found[1] == tuple(named(b"2"))
    # Without any, or with an empty one, it is another head.
    assert heads.find(a_head(*(b": ".join(field) for field in fields))) is None
    assert heads.find(head_of(b"")) is None


@pytest.mark.parametrize(
    ("name", "is_plain"),
    [
        *((b"a" * 128, True), (b"0-Z", True)),
        *(
            (odd, False)
            for odd in (b"", b"a" * 129, b"1\x00", b"1 ", b" 1", b"1\xff", b"1\r", b"1_")
        ),
    ],
)
def test_only_a_plain_name_stands_for_another(
    name: bytes,
    is_plain: bool,  # noqa: FBT001 - a table
) -> None:
    """A parser may find anything in other characters; one is enough."""
    heads = KnownHeads()
    fields = [(b"X-Client-Cert", b"c"), (b"X-Request-ID", b"1")]
    heads.remember(NAMED, [(b"Host", b"auth"), *fields], b"GET", b"/", Claim(b"c"))
    assert (heads.find(NAMED.replace(b"1\r\n\r\n", name + b"\r\n\r\n")) is not None) is is_plain


def test_name_that_the_parser_read_differently_is_not_left_out() -> None:
    """The head is then known by all of its bytes alone."""
    heads = KnownHeads()
    fields = [(b"Host", b"auth"), (b"X-Client-Cert", b"c"), (b"X-Request-ID", b"another")]
    heads.remember(NAMED, fields, b"GET", b"/", Claim(b"c"))
    assert heads.find(NAMED.replace(b": 1\r\n\r\n", b": 2\r\n\r\n")) is None


def test_head_without_a_name_is_known_by_all_of_its_bytes() -> None:
    """Whatever stands in it."""
    heads = KnownHeads()
    head = a_head(b"X-Client-Cert: c", b"A: xyz")
    heads.remember(head, [(b"X-Client-Cert", b"c"), (b"A", b"xyz")], b"GET", b"/", Claim(b"c"))
    assert heads.find(head)
    assert heads.find(head.replace(b"xyz", b"xy")) is None


@pytest.mark.parametrize(
    ("size", "count", "is_kept"),
    [(4096, 40, True), (4097, 40, False), (4096, 41, False)],
)
def test_head_that_is_long_or_has_many_fields_is_not_kept(
    size: int,
    count: int,
    is_kept: bool,  # noqa: FBT001 - a table
) -> None:
    """Both bounds are the largest that is kept."""
    heads = KnownHeads()
    fields = [(b"X-Client-Cert", b"c"), *[(b"A", b"b")] * (count - 2)]
    around = len(a_head(*(b": ".join(field) for field in fields), b"B: "))
    fields.append((b"B", b"b" * (size - around)))
    head = a_head(*(b": ".join(field) for field in fields))
    assert (len(head), len(fields)) == (size, count)
    heads.remember(head, fields, b"GET", b"/", Claim(b"c"))
    assert (heads.find(head) is not None) is is_kept
