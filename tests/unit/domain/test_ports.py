from __future__ import annotations

import pytest

from nexus_auth.domain.ports import IssuedKeyPair, Registration
from tests.builders import NOW, a_key, public_bytes


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(31), id="short"),
        pytest.param(b"x" * 33, id="long"),
        pytest.param(bytes(32), id="small order"),
        pytest.param(b"\x01" + bytes(30) + b"\x80", id="small order, sign bit set"),
    ],
)
def test_unusable_key_is_no_registration(key: bytes) -> None:
    """A key under which anybody can sign is never taken for registered."""
    with pytest.raises(ValueError, match="registered key"):
        Registration(public_key=key, expires_at=NOW)


def test_usable_key_is_a_registration() -> None:
    """The neighbour of the refusals."""
    key = public_bytes(a_key())
    assert Registration(public_key=key, expires_at=NOW).public_key == key


def test_private_key_is_not_shown() -> None:
    """No way of turning an issued pair into text shows the private half."""
    pair = IssuedKeyPair(
        public_key=public_bytes(a_key()), private_key=b"secret-secret-secret-secret-1234"
    )
    for text in (repr(pair), str(pair), f"{pair}"):
        assert "secret" not in text
