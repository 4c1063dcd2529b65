from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.adapters.starlette.trusted_peers import TrustedPeers


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


@given(text=st.text(max_size=40))
def test_any_text_is_a_list_or_a_value_error(text: str) -> None:
    """Nothing but `ValueError` comes out of parsing, and any host gets an answer."""
    try:
        proxies = TrustedPeers.parse(text)
    except ValueError:
        proxies = TrustedPeers()
    assert proxies.include((text, 1), None) in {True, False}
