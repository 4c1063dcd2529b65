from __future__ import annotations

import pytest

from nexus_auth.adapters.pylon.api import (
    FirstGenerationApi,
    IdentityApi,
    OpenAccessApi,
    parse_endpoint,
)
from tests.builders import a_hotkey


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


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("sn12-validator", "sn12-validator"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("a b?c#d%2F", "a%20b%3Fc%23d%252F"),
        ("höhle", "h%C3%B6hle"),
        ("\udcff", "%FF"),
        ("x\r\nHost: evil", "x%0D%0AHost%3A%20evil"),
    ],
)
def test_identity_name_is_one_path_segment(name: str, segment: str) -> None:
    """Whatever the name, it cannot reach another path."""
    api = IdentityApi(netuid=12, name=name, token="t")
    assert (
        api.certificates_path == f"/api/v1/identity/{segment}/subnet/12/block/latest/certificates"
    )
    assert api.issuing_path == f"/api/v1/identity/{segment}/subnet/12/certificates/self"


def test_paths_are_those_of_each_dialect() -> None:
    """Open access names the subnet, the first generation names nothing."""
    alice = a_hotkey("alice")
    assert (
        OpenAccessApi(netuid=7).certificate_path(alice)
        == f"/api/v1/subnet/7/block/latest/certificates/{alice}"
    )
    assert FirstGenerationApi().certificate_path(alice) == f"/api/v1/certificates/{alice}"
    assert FirstGenerationApi().neuron_paths == ("/api/v1/neurons/latest",)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "tökén", "nul\0"])
def test_token_that_cannot_travel_in_a_header_is_refused(token: str) -> None:
    """It is refused here, where the message does not repeat it."""
    for build in (
        lambda: IdentityApi(netuid=1, name="a", token=token),
        lambda: OpenAccessApi(netuid=1, token=token),
        lambda: FirstGenerationApi(token=token),
    ):
        with pytest.raises(ValueError, match=r"^a token is printable ASCII without spaces$"):
            build()


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_identity_without_a_usable_name_is_refused(name: str) -> None:
    """An empty segment would be another path."""
    with pytest.raises(ValueError, match=r"name|surrogates"):
        IdentityApi(netuid=1, name=name, token="t")


def test_tokens_do_not_show() -> None:
    """Neither repr nor str of a dialect shows its token."""
    for api in (
        IdentityApi(netuid=1, name="a", token="hunter2"),
        OpenAccessApi(netuid=1, token="hunter2"),
        FirstGenerationApi(token="hunter2"),
    ):
        assert "hunter2" not in f"{api} {api!r}"
