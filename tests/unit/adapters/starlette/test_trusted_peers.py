from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.adapters.starlette.trusted_peers import (
    TrustedPeers,
    is_named,
    is_rewritten,
    is_unnamed,
)


@pytest.mark.parametrize(
    ("text", "host", "expected"),
    [
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.8", False),
        ("10.0.0.0/8, fd00::/8", "10.255.0.1", True),
        ("10.0.0.0/8, fd00::/8", "fd00::1", True),
        ("10.0.0.0/8, fd00::/8", "11.0.0.1", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:11.1.2.3", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::1", "127.0.0.1", False),
        ("127.0.0.1", "localhost", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0/0", "::1", False),
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "11.1.2.3", False),
        ("::ffff:10.0.0.7", "10.0.0.7", True),
        ("::ffff:10.0.0.7", "10.0.0.8", False),
        ("::ffff:0:0/96", "192.0.2.1", True),
        ("64:ff9b::/96", "192.0.2.1", False),
    ],
)
def test_a_peer_is_trusted_by_its_address(text: str, host: str, *, expected: bool) -> None:
    """An address counts, and nothing that merely looks like one."""
    assert TrustedPeers.parse(text).include((host, 1), None) is expected


def test_a_list_is_shown_as_it_can_be_read_again() -> None:
    """In reports and on the status page."""
    listed = TrustedPeers.parse("10.0.0.7, 192.168.0.0/16,fd00::/8")
    assert str(listed) == "10.0.0.7/32,192.168.0.0/16,fd00::/8"
    assert TrustedPeers.parse(str(listed)) == listed


def test_an_empty_list_trusts_nobody() -> None:
    """No proxies means no proxies."""
    assert not TrustedPeers().include(("127.0.0.1", 1), ("127.0.0.1", 80))
    assert not TrustedPeers().include(None, ("/run/app.sock", None))


@pytest.mark.parametrize("text", ["", ",", "10.0.0.1/8", "10.0.0", "proxy", "10.0.0.1,", "::g"])
def test_a_wrong_list_is_refused(text: str) -> None:
    """A slip of the pen is told, not guessed at."""
    with pytest.raises(ValueError, match="addresses or networks"):
        TrustedPeers.parse(text)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("::/0", "2000::/3"),
        ("::/80", "one family"),
        ("::fffe:0:0/95", "one family"),
        ("fe80::1%eth0", "zone"),
        ("fe80::%eth0/64", "zone"),
        ("::ffff:10.0.0.1/104", "is neither"),
    ],
)
def test_entry_that_cannot_mean_what_it_says_is_refused(entry: str, problem: str) -> None:
    """Peers are compared without zone and mapping: these would match too much, or nothing."""
    for read in (TrustedPeers.parse, lambda text: TrustedPeers.of([text])):
        with pytest.raises(ValueError, match=f"addresses or networks.*{problem}"):
            read(entry)


ADDRESS = "127.0.0.1"
PORT = 12345
V6 = "fe80::1"
FULL_WIDTH = "12345".translate({ord(digit): 0xFF10 + int(digit) for digit in "12345"})
ARABIC = "12345".translate({ord(digit): 0x0660 + int(digit) for digit in "12345"})


@pytest.mark.parametrize(
    "client",
    [
        (ADDRESS, 0),
        [ADDRESS, 0],
        (ADDRESS, "0"),
        (ADDRESS, None),
        (ADDRESS, ""),
        (ADDRESS, "http"),
        (ADDRESS, -1),
        (ADDRESS, 65536),
        (ADDRESS, True),
        (ADDRESS,),
        (),
    ],
)
def test_peer_without_a_port_is_rewritten(client: Any) -> None:
    """Every peer of TCP has a port, from 1 to 65535; none that stands in a header has to."""
    assert is_rewritten(client, [])


@pytest.mark.parametrize("port", [1, 65535])
def test_peer_with_any_port_of_tcp_is_none_of_a_header(port: int) -> None:
    """The first and the last are ports."""
    assert not is_rewritten((ADDRESS, port), [])


@pytest.mark.parametrize("client", [(ADDRESS, PORT), [ADDRESS, PORT], (ADDRESS, str(PORT)), None])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        # A caller on this machine, behind a proxy on this machine.
        [("x-forwarded-for", ADDRESS), ("x-real-ip", ADDRESS), ("x-forwarded-port", "443")],
        [("x-forwarded-for", f"{ADDRESS}:443"), ("forwarded", f"for={ADDRESS}")],
        [("host", f"{ADDRESS}:{PORT}"), ("content-length", str(PORT))],
        [("x-forwarded-for", ADDRESS), ("host", f"a:{PORT}"), ("content-length", str(PORT))],
        [("x-forwarded-for", f"192.0.2.1:{PORT}")],
        [("x-forwarded-for", ADDRESS), ("x-serial", f"{PORT}6"), ("x-span", f"a{PORT}")],
        [("x-forwarded-for", ADDRESS), ("x-serial", f"{PORT}.5"), ("x-span", f"1.{PORT}")],
        [("x-forwarded-for", ADDRESS), ("cookie", "a=caf\u00e9; b=\u0665")],
        [("x-forwarded-for", "127.0.0.11"), ("x-forwarded-port", str(PORT))],
    ],
)
def test_peer_of_the_connection_is_none_of_a_header(
    client: Any, headers: list[tuple[str, str]]
) -> None:
    """A forwarding header may name the same address: the port is the connection's own."""
    assert not is_rewritten(client, [(name.encode(), value.encode()) for name, value in headers])


@pytest.mark.parametrize(
    "port",
    ["12345", "+12345", "0012345", "1_2_345", " 12345\t", FULL_WIDTH, ARABIC, "12345\xa0"],
)
@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (ADDRESS, ADDRESS),
        (ADDRESS, f" {ADDRESS} "),
        (ADDRESS, f"192.0.2.1, {ADDRESS}"),
        (ADDRESS, "::ffff:127.0.0.1"),
        (ADDRESS, "[::ffff:7f00:1]"),
        (ADDRESS, f'for="{ADDRESS}";by=x'),
        ("::ffff:127.0.0.1", ADDRESS),
        (V6, V6),
        (V6, "[fe80:0::0001]"),
        (f"{V6}%eth0", f"[{V6}%eth0]"),
        (f"{V6}%=a b", f"[{V6}%=a b]"),
        (V6, f'for="[{V6}]"'),
    ],
)
def test_address_and_port_that_stand_in_headers_are_rewritten(
    peer: str, address: str, port: str
) -> None:
    """Under whatever name, spelt in any way that some server reads, in one header or in two."""
    for headers in (
        [("x-forwarded-for", f"{address.strip()}:{port}")],
        [("x-real-ip", address), ("x-real-port", port)],
        [("a", "1"), ("x-forwarded-for", address), ("x-forwarded-port", "80"), ("b", port)],
    ):
        assert is_rewritten((peer, PORT), [(name.encode(), v.encode()) for name, v in headers])
        with contextlib.suppress(UnicodeEncodeError):
            assert is_rewritten(
                (peer, PORT), [(name.encode(), v.encode("latin-1")) for name, v in headers]
            )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"12345", False),
        (b"12345," + b",".join(b"192.0.2.%d" % number for number in range(64)), False),
        (b"12345," + b",".join(b"192.0.2.%d" % number for number in range(65)), True),
        # Without the port nothing is looked through; what could hold it, only so far.
        (b"a," * 40_000, False),
        (b"a," * 16_383 + b"\xc3\xa9", False),
        (b"a," * 40_000 + b"\xc3\xa9", True),
    ],
)
def test_more_than_is_looked_through_counts_as_naming_the_peer(
    value: bytes, *, expected: bool
) -> None:
    """A request costs no more than a few milliseconds, and what is not read is not believed."""
    assert is_rewritten((ADDRESS, PORT), [(b"x", value)]) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", False),
        (b"192.0.2.1", False),
        (b"127.0.0.11, 127.0.0", False),
        (b"127.0.0.1", True),
        (b"192.0.2.1, 127.0.0.1", True),
        (b'for="127.0.0.1:4711"', True),
        (b"[::ffff:127.0.0.1]", True),
        (b"caf\xe9;127.0.0.1", True),
        (b",".join(b"192.0.2.%d" % number for number in range(64)), False),
        (b",".join(b"192.0.2.%d" % number for number in range(65)), True),
        (b"a," * 16_384, False),
        (b"a," * 16_384 + b"a", True),
    ],
)
def test_address_in_a_header_is_enough_where_the_port_proves_nothing(
    value: bytes, *, expected: bool
) -> None:
    """Whatever the port; and an unknown peer is in no header."""
    for port in (None, 0, 4711):
        assert is_named((ADDRESS, port), [(b"x", value)]) is expected
    assert not is_named((ADDRESS, None), [(b"host", b"127.0.0.1"), (b"content-length", b"1")])
    assert not is_named(None, [(b"x", value)])
    assert is_named((ADDRESS, None), [(b"y", b"127.0.0.1"), (b"x", b"a")])
    assert is_named((ADDRESS, None), [(b"x", b"a"), (b"y", b"127.0.0.1")])


@pytest.mark.parametrize(
    ("client", "server", "expected"),
    [
        (None, None, True),
        (None, ("/run/app.sock", None), False),
        (None, (ADDRESS, 80), False),
        (("", "0"), ("/run/app.sock", "0"), True),
        ((), None, True),
        ((ADDRESS, 0), None, False),
    ],
)
def test_server_that_names_no_peer_is_told_from_one_that_has_none(
    client: Any, server: Any, *, expected: bool
) -> None:
    """Only the former is worth a line in the log: it can never be trusted."""
    assert is_unnamed(client, server) is expected


@given(text=st.text(max_size=40))
def test_any_text_is_a_list_or_a_value_error(text: str) -> None:
    """Nothing but `ValueError` comes out of parsing, and any host gets an answer."""
    try:
        proxies = TrustedPeers.parse(text)
    except ValueError:
        proxies = TrustedPeers()
    assert proxies.include((text, 1), None) in {True, False}
