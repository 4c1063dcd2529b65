"""What needs no connection; `tests/integration/client` has the rest."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import httpx
import pytest

from nexus_auth.adapters.tls import httpx_transport
from nexus_auth.client import Caller, RequestRefused, SyncCaller
from nexus_auth.domain.errors import (
    CredentialsError,
    HotkeyNotRegistered,
    InvalidHotkey,
    NexusAuthError,
    RegistryAnswerInvalid,
    RegistryUnavailable,
    ServerKeyMismatch,
    ServerKeyUnknown,
)
from nexus_auth.domain.hotkey import Hotkey
from tests.builders import a_hotkey
from tests.fakes import FakeClock, FakeRegistry

MINER = a_hotkey("miner")
OTHER = a_hotkey("other")

Make = Callable[..., httpx.AsyncClient | httpx.Client]


@pytest.fixture(params=["async", "sync"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a client, over a registry that knows no hotkey."""
    caller = Caller(registry=FakeRegistry(), clock=FakeClock())
    return caller.http_client if request.param == "async" else SyncCaller(caller).http_client


@pytest.mark.parametrize(
    "option",
    [
        *("verify", "cert", "proxy", "proxies", "mounts", "transport", "trust_env"),
        *("http1", "http2", "app", "certificates", "anything"),
    ],
)
def test_option_that_chooses_whom_to_trust_is_refused(make: Make, option: str) -> None:
    """And every other one that is not known, whatever its value."""
    with pytest.raises(TypeError, match=f"http_client takes no '{option}'"):
        make(**{option: None})


def test_options_of_httpx_are_passed_on(make: Make) -> None:
    """Each that it names, to the client itself."""
    client = make(
        base_url="https://miner:8443/v1",
        headers={"X-Name": "value"},
        timeout=3.0,
        params={"a": "b"},
        follow_redirects=True,
        max_redirects=2,
        auth=("user", "password"),
        limits=httpx.Limits(max_connections=1),
        default_encoding="latin-1",
        event_hooks={},
        cookies={"a": "b"},
    )
    request = client.build_request("GET", "/x")
    assert str(request.url) == "https://miner:8443/v1/x?a=b"
    assert request.headers["X-Name"] == "value"
    assert request.headers["Cookie"] == "a=b"
    assert (client.timeout, client.follow_redirects) == (httpx.Timeout(3.0), True)
    assert (client.max_redirects, client.trust_env) == (2, False)


def test_every_option_is_one_of_httpx() -> None:
    """None is promised that httpx does not take."""
    for kind in (httpx.AsyncClient, httpx.Client):
        assert set(httpx_transport._OPTIONS) <= inspect.signature(kind).parameters.keys()


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8443",
        "https://miner",
        "miner/",
        "miner:port",
        "user@miner",
        "miner?x",
        "mi\\ner",
        "::1",
    ],
)
def test_host_that_is_none_is_refused(make: Make, host: str) -> None:
    """A URL, and an IPv6 address without brackets, among them."""
    with pytest.raises(ValueError, match="expected host or host:port"):
        make(hotkeys={host: MINER})


def test_two_hotkeys_for_one_host_are_refused(make: Make) -> None:
    """The port is 443 where none is named, and case does not count."""
    make(hotkeys={"miner": MINER, "MINER:443": MINER})
    with pytest.raises(ValueError, match="two hotkeys"):
        make(hotkeys={"miner": MINER, "MINER:443": OTHER})


def test_hotkey_that_is_none_is_refused(make: Make) -> None:
    """Before anything is called."""
    with pytest.raises(InvalidHotkey):
        make(hotkeys={"miner": "5F..."})


@pytest.mark.parametrize(
    ("hosts", "url", "hotkey"),
    [
        ({"miner": MINER}, "https://miner/", MINER),
        ({"miner": MINER}, "https://MINER:443/", MINER),
        ({"miner": MINER}, "https://miner:8443/", None),
        ({"miner:8443": MINER}, "https://miner:8443/", MINER),
        ({"[::1]:8443": MINER}, "https://[::1]:8443/", MINER),
        ({"[::1]": MINER}, "https://[::1]/", MINER),
        ({"[::1]:8443": MINER}, "https://[::1]/", None),
        ({"bücher.example": MINER}, "https://xn--bcher-kva.example/", MINER),
        ({"miner": MINER}, "https://miner./", None),
        ({"miner": MINER}, "https://miner@other/", None),
    ],
)
def test_host_of_a_request_is_looked_up(
    hosts: dict[str, Hotkey], url: str, hotkey: Hotkey | None
) -> None:
    """As it is called, not as it is written; what is not the same host has no hotkey."""
    connections = httpx_transport._Connections(hosts)
    request = httpx.Request("GET", url)
    if hotkey is not None:
        found, raw = connections.route(request)
        assert found == hotkey
        assert raw.url.host == f"{MINER}@".encode() + request.url.raw_host
        assert raw.extensions["sni_hostname"] == request.url.raw_host.decode()
        return
    with pytest.raises(RequestRefused, match="names no hotkey"):
        connections.route(request)


def test_request_belongs_to_its_origin() -> None:
    """What httpx makes of it for a redirect has its extensions, and goes nowhere else."""
    connections = httpx_transport._Connections({"a": MINER, "b": MINER})
    first = httpx.Request("GET", "https://a/", extensions={"hotkey": MINER})
    connections.route(first)
    connections.route(httpx.Request("GET", "https://a:443/x", extensions=first.extensions))
    for url in ("https://a:444/", "https://b/"):
        with pytest.raises(RequestRefused, match="another origin"):
            connections.route(httpx.Request("GET", url, extensions=first.extensions))


def test_extensions_that_a_program_keeps_are_not_changed() -> None:
    """The same dictionary serves for requests to several hosts."""
    connections = httpx_transport._Connections({})
    kept = {"hotkey": MINER}
    for url in ("https://a/", "https://b/"):
        connections.route(httpx.Request("GET", url, extensions=kept))
    assert kept == {"hotkey": MINER}


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (
            ServerKeyMismatch(hotkey="h", expected="e", found=None, named="n"),
            httpx.ConnectError,
        ),
        (HotkeyNotRegistered("h"), httpx.ConnectError),
        (RegistryUnavailable("away"), httpx.ConnectError),
        (RegistryAnswerInvalid("odd"), httpx.ConnectError),
        (CredentialsError("no pair"), httpx.ConnectError),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_errors_are_of_both_kinds(error: NexusAuthError, also: type[Exception]) -> None:
    """With the text and the attributes of ours."""
    with pytest.raises(type(error)) as caught, httpx_transport._errors():
        raise error
    assert isinstance(caught.value, also)
    assert str(caught.value) == str(error)
    for name, value in vars(error).items():
        assert getattr(caught.value, name) == value


def test_key_that_is_gone_at_the_end_of_the_handshake_is_not_known() -> None:
    """As where it was not known before; the text says more."""
    with pytest.raises(httpx.ConnectError, match="no news") as caught, httpx_transport._errors():
        raise ServerKeyUnknown("h", "no news")
    assert isinstance(caught.value, RegistryUnavailable)
