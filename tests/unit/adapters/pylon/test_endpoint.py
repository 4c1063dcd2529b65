from __future__ import annotations

import pytest

from nexus_auth.adapters.pylon.endpoint import parse_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://pylon:8000", "http://pylon:8000"),
        (" https://pylon.example/base/\n", "https://pylon.example/base"),
        ("HTTPS://Pylon.example", "https://Pylon.example"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("http://pylon/a@b", "http://pylon/a@b"),
    ],
)
def test_base_url_is_read(text: str, endpoint: str) -> None:
    """With its scheme in lower case: https is https, however it is written."""
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        *("", "pylon:8000", "//pylon", "ftp://pylon", "http://", "http://:8000", "http://[::1"),
        *("http://pylon:99999", "http://pylon:port", "http://pylon/?a=b", "http://pylon/#a"),
        *("http://pylon?", "http://pylon#", "http://py lon", "http://pylon/a b"),
        *("http://py\nlon", "http://pylon:80\t80", "http://pylon/\x1b[2J"),
        *("http://me:hush@pylon", "http://me:hush@", "http://@pylon", "http://me:hu?sh@pylon"),
    ],
)
def test_what_is_no_base_url_is_refused(text: str) -> None:
    """Without a word of it: there may be a password in it."""
    with pytest.raises(ValueError, match=r"expected a base URL|credentials do not") as caught:
        parse_endpoint(text)
    assert "hush" not in str(caught.value)
