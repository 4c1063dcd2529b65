from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.adapters.addresses import TcpAddress, UnixAddress
from nexus_auth.adapters.proxies.site import (
    parse_host,
    parse_keepalive,
    parse_path,
    parse_rate,
    parse_resolvers,
    parse_tcp_address,
    parse_upstream,
)

# What has a meaning in at least one of the configuration languages.
SPECIAL = set(" \t\r\n\"'`$%{}()<>;#\\|&,?*!^")


@pytest.mark.parametrize("parse", [parse_path, parse_host, parse_upstream, parse_rate])
@given(text=st.text(max_size=40) | st.text(alphabet="/:a.-;{}\"'$ \n[]1", max_size=20))
def test_nothing_special_survives(parse: Callable[[str], object], text: str) -> None:
    """An accepted argument has no character that a configuration could misread."""
    with contextlib.suppress(ValueError):
        assert SPECIAL.isdisjoint(str(parse(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("app.example:65535", TcpAddress("app.example", 65535)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("unix:/run/a.sock", UnixAddress(Path("/run/a.sock"))),
    ],
)
def test_an_upstream_reads_back(text: str, expected: object) -> None:
    """What is written is what was read."""
    assert parse_upstream(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a:0",
        "a:65536",
        "a:1;b",
        "a b:1",
        "a:1\n",
        "::1:80",
        "[::g]:80",
        "-a:1",
        "http://a:1",
        "unix:a.sock",
        "unix:/a b",
        "unix:/" + "a" * 107,
    ],
)
def test_a_wrong_upstream_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r"expected|at most"):
        parse_upstream(text)


def test_listening_on_every_interface_is_for_listening_alone() -> None:
    """Only a listener may leave out the host."""
    assert parse_tcp_address(":443", every_interface=True) == TcpAddress("", 443)


@pytest.mark.parametrize("path", ["a", "", "/a;b", "/a b", "/a\n", '/"', "/$a", "/{a}", "/é"])
def test_a_wrong_path_is_refused(path: str) -> None:
    """A path is absolute and plain."""
    with pytest.raises(ValueError, match="absolute path"):
        parse_path(path)


@pytest.mark.parametrize("text", ["20/s", "300/m", "1/m", "999999/s"])
def test_a_rate_reads_back(text: str) -> None:
    """What is written is what was read."""
    assert str(parse_rate(text)) == text


@pytest.mark.parametrize("text", ["", "0/s", "20", "20/h", "-1/s", "1000000/s", "20/s;", "020/s"])
def test_a_wrong_rate_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="such as 20/s"):
        parse_rate(text)


def test_name_servers_are_addresses_with_or_without_a_port() -> None:
    """Port 53 is the usual one, and a name server's name could not be looked up."""
    assert parse_resolvers("10.0.0.2,[::1]:5353,::1") == (
        TcpAddress("10.0.0.2", 53),
        TcpAddress("::1", 5353),
        TcpAddress("::1", 53),
    )
    for text in ("", "dns.example", "10.0.0.2;", "10.0.0.2,", "10.0.0.2 10.0.0.3", "fe80::1%x;y"):
        with pytest.raises(ValueError, match="expected"):
            parse_resolvers(text)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "5s", "10000"])
def test_a_wrong_keepalive_is_refused(text: str) -> None:
    """Whole seconds."""
    with pytest.raises(ValueError, match="whole seconds"):
        parse_keepalive(text)
