"""The WSGI middleware never grants what the ASGI middleware denies.

Three servers, by what WSGI makes of header lines: one that shows them, one that drops underscores,
and one that does neither.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth import AccessPolicy, Granted, SyncVerifier
from nexus_auth.adapters.headers.names import with_dots, with_underscores
from nexus_auth.adapters.starlette.gate import HEAD_ONLY, Gate
from nexus_auth.adapters.wsgi.middleware import NexusAuthMiddleware
from nexus_auth.testing import Subnet

SUBNET: Final = Subnet()
ALICE: Final = SUBNET.register("alice")
BOB: Final = SUBNET.register("bob")
(VALUE,) = ALICE.headers.values()
(OTHER,) = BOB.headers.values()
PEER: Final = ("127.0.0.1", 40_000)

VERIFIER: Final = SyncVerifier(SUBNET.verifier)
GATE: Final = Gate.for_application(
    verifier=SUBNET.verifier,
    trusted_proxies=[PEER[0]],
    header="X-Client-Cert",
    header_format="percent-encoded-pem",
    policy=AccessPolicy(name="all"),
    server_keeps_trailers_apart=False,
)

NAMES: Final = st.sampled_from(
    [
        *(each for spelt in with_underscores("X-Client-Cert") for each in (spelt, spelt.upper())),
        *with_dots("X-Client-Cert")[1:],
        *("X-Hotkey", "X_Hotkey", "Remote-User", "X-Forwarded-For", "Transfer-Encoding", "Cookie"),
    ]
)
VALUES: Final = st.sampled_from(
    [VALUE, OTHER, "", " ", f"{VALUE},{VALUE}", f"{VALUE},", f" {VALUE} ", "127.0.0.1", "chunked"]
)


def environ_of(lines: list[tuple[str, str]], *, drops: bool) -> dict[str, Any]:
    """What a server makes of header lines: one name, one value."""
    environ: dict[str, Any] = {"REMOTE_ADDR": PEER[0], "REQUEST_METHOD": "GET"}
    for name, value in lines:
        if not (drops and "_" in name):
            key = "HTTP_" + name.upper().replace("-", "_")
            environ[key] = f"{environ[key]},{value}" if key in environ else value.strip(" ")
    return environ


class Connection:
    """The proxy's."""

    family = None

    def getpeername(self) -> tuple[str, int]:
        return PEER


def server(kind: str, lines: list[tuple[str, str]]) -> tuple[dict[str, Any], Any]:
    """An environ, and a `start_response` that may show the lines."""
    environ = environ_of(lines, drops=kind == "drops")

    def start(_: str, __: list[tuple[str, str]]) -> None:
        pass

    if kind == "drops":
        channel = SimpleNamespace(socket=Connection())
        environ["waitress.client_disconnected"] = SimpleNamespace(__self__=channel)
    if kind == "shows":
        environ["gunicorn.socket"] = Connection()
        owner = type("Response", (), {"__module__": "gunicorn.http.wsgi"})()
        owner.req = SimpleNamespace(headers=lines)
        return environ, Shown(owner)
    return environ, start


class Shown:
    """A bound method, as far as it counts."""

    def __init__(self, owner: Any) -> None:
        self.__self__ = owner

    def __call__(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Starts no response."""


@pytest.mark.parametrize("kind", ["shows", "drops", "hides"])
@example(lines=[("X-Client-Cert", VALUE)])
@given(lines=st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_wsgi_grants_no_more_than_asgi(kind: str, lines: list[tuple[str, str]]) -> None:
    """And, where the lines are shown, exactly as much."""
    scope: dict[str, Any] = {
        "type": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in lines],
        "client": PEER,
        "server": None,
        # None of these servers mixes trailers in.
        "extensions": {HEAD_ONLY: {}},
    }
    expected = asyncio.run(GATE.decide(scope))
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], _: Any) -> list[bytes]:
        seen.append(environ)
        return []

    environ, start_response = server(kind, lines)
    app = NexusAuthMiddleware(application, verifier=VERIFIER, trusted_proxies=[PEER[0]])
    app(environ, start_response)
    if isinstance(expected, Granted):
        assert kind != "shows" or seen
    else:
        assert seen == []
    assert kind != "hides" or seen == []
    for granted in seen:
        assert isinstance(expected, Granted)
        assert granted["REMOTE_USER"] == expected.hotkey.address
        assert "HTTP_X_CLIENT_CERT" not in granted
