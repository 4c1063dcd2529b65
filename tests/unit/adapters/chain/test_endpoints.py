"""What counts as the address of a node, and as the name of a chain."""

from __future__ import annotations

import pytest

from nexus_auth.adapters.chain.endpoints import MAX_ENDPOINTS, parse_endpoints, parse_genesis


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("ws://node", ("ws://node",)),
        ("WSS://node:443/", ("wss://node:443/",)),
        ("http://[::1]:9944, https://b/path?key=1", ("http://[::1]:9944", "https://b/path?key=1")),
    ],
)
def test_addresses_are_read_in_their_order(text: str, endpoints: tuple[str, ...]) -> None:
    """The preferred one is first; white space around a comma counts for nothing."""
    assert parse_endpoints(text) == endpoints


@pytest.mark.parametrize(
    "text",
    [
        *("", "node:9944", "ftp://node", "ws://", "ws://node:0", "ws://node:x", "ws://a b"),
        *("ws://user:secret@node", "ws://node#part", "ws://node,", "ws://a,ws://a", "ws://\nnode"),
        ",".join(f"ws://node{number}" for number in range(MAX_ENDPOINTS + 1)),
    ],
)
def test_other_text_is_refused_and_not_repeated(text: str) -> None:
    """It may hold a password."""
    with pytest.raises(ValueError, match=r"expected|credentials") as caught:
        parse_endpoints(text)
    assert "secret" not in str(caught.value)


def test_chain_is_named_by_the_hash_of_its_block_0() -> None:
    """In either case; anything else is no name of a chain."""
    assert parse_genesis("0x" + "Ab" * 32) == "0x" + "ab" * 32
    for text in ("", "ab" * 32, "0x" + "ab" * 31, "0x" + "ag" * 32):
        with pytest.raises(ValueError, match="block 0"):
            parse_genesis(text)
