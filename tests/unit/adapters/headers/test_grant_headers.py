from __future__ import annotations

import pytest

from nexus_auth.adapters.headers.names import GrantHeader, GrantHeaders


def test_headers_are_listed_with_commas() -> None:
    """What is shown can be read again."""
    parsed = GrantHeaders.parse("stake, uid")
    assert parsed.headers == {GrantHeader.UID, GrantHeader.STAKE}
    assert str(parsed) == "uid,stake"
    assert [header.header for header in GrantHeader] == [
        "X-Hotkey-Uid",
        "X-Hotkey-Validator",
        "X-Hotkey-Stake",
    ]


@pytest.mark.parametrize("text", ["", "uid,", "UID", "hotkey", "uid;stake"])
def test_unknown_header_is_refused(text: str) -> None:
    """And the known ones are named."""
    with pytest.raises(ValueError, match="uid, validator, stake"):
        GrantHeaders.parse(text)
