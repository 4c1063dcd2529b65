"""Tokens are recognised, never kept."""

from __future__ import annotations

import pytest

from nexus_auth.adapters.devnet.records import TokenDigest


def test_recognises_its_token_alone() -> None:
    """One step away is another token."""
    digest = TokenDigest.of("token")
    assert digest.matches("token")
    for other in ("", "toke", "token ", "Token", "tokén", "token\udcff", "\N{SNOWMAN}"):
        assert not digest.matches(other)


def test_says_nothing_of_the_token() -> None:
    """Neither its text nor, by being equal, that two tokens are the same."""
    digest = TokenDigest.of("token")
    assert "token" not in repr(digest)
    assert b"token" not in digest.encoded
    assert digest != TokenDigest.of("token")


def test_is_rebuilt_from_what_was_stored() -> None:
    """The encoded form is all there is."""
    assert TokenDigest(TokenDigest.of("token").encoded).matches("token")


@pytest.mark.parametrize("encoded", [b"", bytes(47), bytes(49)])
def test_refuses_what_is_no_digest(encoded: bytes) -> None:
    """An instance that exists is valid."""
    with pytest.raises(ValueError, match="not the digest"):
        TokenDigest(encoded)
