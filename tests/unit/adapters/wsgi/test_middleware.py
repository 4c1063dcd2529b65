"""The check around a WSGI application."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pytest
import structlog.testing
from flask import Flask, request
from werkzeug.test import EnvironBuilder

from nexus_auth import (
    AccessPolicy,
    CertificateVerifier,
    ConfigurationError,
    DenialReason,
    Denied,
    Granted,
    NotHotkeys,
    SyncVerifier,
    connect,
)
from nexus_auth.adapters.starlette.answers import DENIALS
from nexus_auth.adapters.wsgi.middleware import NexusAuthMiddleware
from nexus_auth.testing import Caller, Subnet

PROXY: Final = "127.0.0.1"

Environ = dict[str, Any]


class Application:
    """Keeps the environ of each request that it is given."""

    def __init__(self) -> None:
        self.seen: list[Environ] = []

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.seen.append(environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]


@pytest.fixture
def application() -> Application:
    """What is protected."""
    return Application()


@pytest.fixture
def subnet() -> Subnet:
    """As an application's own tests have it."""
    return Subnet()


@pytest.fixture
def alice(subnet: Subnet) -> Caller:
    """A registered caller."""
    return subnet.register("alice")


def guard(application: Any, verifier: Any, **options: Any) -> NexusAuthMiddleware:
    """The middleware behind a proxy that removes every spelling of the header."""
    options = {"trusted_proxies": [PROXY], "proxy_removes_spellings": True, **options}
    return NexusAuthMiddleware(application, verifier=verifier, **options)


def an_environ(headers: dict[str, str] | None = None, **more: Any) -> Environ:
    """A request through the proxy."""
    environ = EnvironBuilder(headers=[*(headers or {}).items()]).get_environ()
    return {**environ, "REMOTE_ADDR": PROXY, **more}


def ask(app: NexusAuthMiddleware, environ: Environ) -> tuple[str, dict[str, str], bytes]:
    """The answer to one request."""
    started: list[tuple[str, dict[str, str]]] = []
    body = app(environ, lambda status, headers: started.append((status, dict(headers))))
    ((status, fields),) = started
    return status, fields, b"".join(body)


def test_grant_names_the_caller_to_the_application(
    application: Application, subnet: Subnet, alice: Caller
) -> None:
    """In REMOTE_USER, in HTTP_X_HOTKEY, and as values; the certificate does not go further."""
    assert ask(guard(application, subnet.verifier), an_environ(alice.headers))[0] == "200 OK"
    (seen,) = application.seen
    assert seen["REMOTE_USER"] == seen["HTTP_X_HOTKEY"] == alice.hotkey.address
    assert seen["nexus_auth.hotkey"] == alice.hotkey
    assert isinstance(seen["nexus_auth.decision"], Granted)
    assert "HTTP_X_CLIENT_CERT" not in seen


@pytest.mark.parametrize("name", ["mallory", "nothing", "stranger"])
def test_denial_is_answered_as_by_the_asgi_middleware(
    application: Application, subnet: Subnet, alice: Caller, name: str
) -> None:
    """The fixed body and headers of the reason, and nothing from the request."""
    environ, reason = {
        "mallory": (
            an_environ(subnet.impostor(alice).headers),
            DenialReason.KEY_MISMATCH,
        ),
        "nothing": (an_environ(), DenialReason.NO_CERTIFICATE),
        "stranger": (
            an_environ(alice.headers, REMOTE_ADDR="192.0.2.1"),
            DenialReason.UNTRUSTED_PEER,
        ),
    }[name]
    app = guard(application, subnet.verifier)
    status, fields, body = ask(app, dict(environ))
    answer = DENIALS[reason]
    assert (status, body) == ("403 Forbidden", answer.body)
    assert fields == {
        name.decode().title(): value.decode() for name, value in DENIALS[reason].headers
    }
    assert fields["X-Nexus-Auth-Reason"] == reason.value
    assert fields["Cache-Control"] == "no-store"
    assert "X-Hotkey" not in fields
    assert ask(app, {**environ, "REQUEST_METHOD": "HEAD"}) == (status, fields, b"")
    assert application.seen == []


FORGED: Final = dict.fromkeys(
    (
        *("HTTP_X_HOTKEY", "HTTP_X_HOTKEY_UID", "HTTP_X_HOTKEY_ANYTHING", "HTTP_X-HOTKEY"),
        *("HTTP_X.HOTKEY", "http_x_hotkey", "HTTP_X_HOTKEY.UID", "HTTP_X_Hotkey-Stake"),
        *("REMOTE_USER", "AUTH_TYPE", "HTTP_REMOTE_USER", "HTTP_REMOTE-USER", "Remote_User"),
        *("HTTP_X-CLIENT-CERT", "HTTP_X.CLIENT_CERT", "HTTP_X_client_CERT"),
        *("nexus_auth.hotkey", "nexus_auth.decision", "nexus_auth.anything"),
    ),
    "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
)


@pytest.mark.parametrize("on_denial", ["reject", "anonymous"])
def test_forged_claims_are_removed_in_every_case(
    application: Application, subnet: Subnet, alice: Caller, on_denial: str
) -> None:
    """From a grant, from a denied request that goes on, in every spelling."""
    app = guard(application, subnet.verifier, on_denial=on_denial)
    del subnet.registry._known[alice.hotkey]
    ask(app, an_environ(alice.headers, **FORGED))
    for seen in application.seen:
        assert not {"REMOTE_USER", "nexus_auth.hotkey"} & seen.keys()
        assert isinstance(seen["nexus_auth.decision"], Denied)
        assert not {key for key in FORGED if key in seen} - {"nexus_auth.decision"}
    assert len(application.seen) == (on_denial == "anonymous")
    subnet.register("alice")
    forged = {key: value for key, value in FORGED.items() if "CERT" not in key.upper()}
    ask(app, an_environ(alice.headers, **forged))
    seen = application.seen[-1]
    assert seen["REMOTE_USER"] == seen["HTTP_X_HOTKEY"] == alice.hotkey.address
    assert {key for key in forged if key in seen} == {
        *("REMOTE_USER", "HTTP_X_HOTKEY", "nexus_auth.hotkey", "nexus_auth.decision"),
    }


def test_other_headers_are_left_alone(
    application: Application, subnet: Subnet, alice: Caller
) -> None:
    """The application's own authentication and headers that only look alike stay."""
    kept = {"HTTP_AUTHORIZATION": "Bearer x", "HTTP_X_HOTKEYS": "a", "HTTP_COOKIE": "a=b"}
    ask(guard(application, subnet.verifier), an_environ(alice.headers, **kept))
    assert kept.items() <= application.seen[0].items()


def test_two_spellings_in_one_environ_are_two_headers(
    application: Application, subnet: Subnet, alice: Caller
) -> None:
    """Where a server keeps both apart, neither is believed."""
    environ = an_environ(alice.headers)
    app = guard(application, subnet.verifier)
    assert ask(app, dict(environ))[0] == "200 OK"
    for other in ("HTTP_X-CLIENT-CERT", "HTTP_X-CLIENT_CERT"):
        assert ask(app, {**environ, other: environ["HTTP_X_CLIENT_CERT"]})[0] == "403 Forbidden"


def test_spelling_that_is_not_known_proves_nothing(
    application: Application, subnet: Subnet, alice: Caller
) -> None:
    """Without the promise, unless the name has no hyphen; and the log says what to do."""
    app = NexusAuthMiddleware(application, verifier=subnet.verifier, trusted_proxies=[PROXY])
    with structlog.testing.capture_logs() as logs:
        ask(app, an_environ())
        ask(app, an_environ(alice.headers, REMOTE_ADDR="192.0.2.1"))
    assert logs == []
    with structlog.testing.capture_logs() as logs:
        _, fields, _ = ask(app, an_environ(alice.headers))
        ask(app, an_environ(alice.headers))
        ask(app, an_environ())
    assert fields["X-Nexus-Auth-Reason"] == "no-certificate"
    (line,) = logs
    assert line["event"] == "certificate_not_believed"
    assert "proxy_removes_spellings=True" in line["problem"]
    (value,) = alice.headers.values()
    app = guard(
        application, subnet.verifier, proxy_removes_spellings=False, header="XClientCertificate"
    )
    assert ask(app, an_environ({"XClientCertificate": value}))[0] == "200 OK"
    assert ask(app, an_environ({"XClientCertificate": f"{value},{value}"}))[0] == "403 Forbidden"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": PROXY},
        {"X-Forwarded-For": f"192.0.2.1, {PROXY}"},
        {"Forwarded": f"for={PROXY}"},
        {"X-Real-Ip": f"::ffff:{PROXY}"},
        {"X-Padding": "a" * 33_000},
    ],
)
def test_peer_that_may_come_from_a_header_is_not_believed(
    application: Application, subnet: Subnet, alice: Caller, headers: dict[str, str]
) -> None:
    """No port tells it from the connection's own here, so that its address alone is enough."""
    app = guard(application, subnet.verifier)
    with structlog.testing.capture_logs() as logs:
        _, fields, _ = ask(app, an_environ({**alice.headers, **headers}))
    assert fields["X-Nexus-Auth-Reason"] == "untrusted-peer"
    assert [line["event"] for line in logs] == ["peer_not_believed"]
    assert "ProxyFix" in logs[0]["problem"]
    others = dict.fromkeys(headers, "192.0.2.1")
    assert ask(app, an_environ({**alice.headers, **others}))[0] == "200 OK"


@pytest.mark.parametrize("peer", [None, "", "localhost", "<local>", "unix:", "unix", 7])
def test_missing_address_is_no_unix_socket(
    application: Application, subnet: Subnet, alice: Caller, peer: object
) -> None:
    """An unknown peer is an untrusted one, also where unix sockets are trusted."""
    app = guard(application, subnet.verifier, trusted_proxies=["unix", PROXY])
    environ = an_environ(alice.headers)
    environ["REMOTE_ADDR"] = peer
    assert ask(app, environ)[1]["X-Nexus-Auth-Reason"] == "untrusted-peer"


def test_chunked_request_proves_nothing_unless_promised(
    application: Application, subnet: Subnet, alice: Caller
) -> None:
    """A server may have put trailers among the headers."""
    environ = an_environ({**alice.headers, "Transfer-Encoding": "chunked"})
    app = guard(application, subnet.verifier)
    assert ask(app, dict(environ))[1]["X-Nexus-Auth-Reason"] == "no-certificate"
    app = guard(application, subnet.verifier, server_keeps_trailers_apart=True)
    assert ask(app, dict(environ))[0] == "200 OK"


def test_policy_decides_among_the_registered(
    application: Application, subnet: Subnet, alice: Caller
) -> None:
    """As everywhere."""
    policy = AccessPolicy(name="others", rules=(NotHotkeys(frozenset({alice.hotkey})),))
    app = guard(application, subnet.verifier, policy=policy)
    assert ask(app, an_environ(alice.headers))[1]["X-Nexus-Auth-Reason"] == "not-permitted"


def test_any_form_of_verifier_will_do(
    application: Application, subnet: Subnet, alice: Caller
) -> None:
    """A synchronous one, which stays its owner's to close, or what one is made of."""
    with SyncVerifier(subnet.verifier) as verifier:
        assert ask(guard(application, verifier), an_environ(alice.headers))[0] == "200 OK"
        assert isinstance(verifier.verify(alice.pem), Granted)
    # Closed: no decision, so a denial.
    with structlog.testing.capture_logs() as logs:
        _, fields, _ = ask(guard(application, verifier), an_environ(alice.headers))
    assert fields["X-Nexus-Auth-Reason"] == "registry-unavailable"
    assert [line["event"] for line in logs] == ["decision_failed"]
    assert "the verifier is closed" in logs[0]["problem"]


@pytest.mark.parametrize("on_denial", ["reject", "anonymous"])
def test_verifier_that_cannot_be_opened_is_a_denial(
    application: Application, alice: Caller, on_denial: str
) -> None:
    """The log says why, once, and shows no token."""

    def wrong() -> AbstractAsyncContextManager[CertificateVerifier]:
        return connect("http://127.0.0.1:1", netuid=1, identity_token="s3cret")

    app = guard(application, wrong, on_denial=on_denial)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            ask(app, an_environ(alice.headers))
    for seen in application.seen:
        assert not {"REMOTE_USER", "HTTP_X_HOTKEY"} & seen.keys()
    (line,) = logs
    assert line["event"] == "no_verifier"
    assert "identity" in line["problem"]
    assert "s3cret" not in str(logs)
    with pytest.raises(ConfigurationError):
        SyncVerifier(wrong).verify(None)


@pytest.mark.parametrize(
    "options",
    [
        {"on_denial": "pass"},
        {"header": "X_Client_Cert"},
        {"header_format": "pem"},
        {"trusted_proxies": "127.0.0.1"},
        {"trusted_proxies": ["localhost"]},
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    application: Application, subnet: Subnet, options: dict[str, Any]
) -> None:
    """When the application is made, not with the first caller."""
    with pytest.raises(ValueError, match=r"\w"):
        guard(application, subnet.verifier, **options)


def test_application_of_flask_tests_itself(subnet: Subnet, alice: Caller) -> None:
    """With Flask's own client, the headers of a caller, and no more."""
    app = Flask("app")

    @app.get("/")
    def hello() -> str:
        return f"hello {request.remote_user} {request.headers['X-Hotkey']}"

    app.wsgi_app = guard(app.wsgi_app, subnet.verifier)  # type: ignore[method-assign]
    client = app.test_client()
    answer = client.get("/", headers=alice.headers)
    assert answer.text == f"hello {alice.hotkey} {alice.hotkey}"
    assert client.get("/", headers=subnet.stranger("mallory").headers).status_code == 403
    assert client.get("/", headers={"X-Hotkey": alice.hotkey.address}).status_code == 403


def test_nothing_that_the_application_does_is_caught(subnet: Subnet, alice: Caller) -> None:
    """Its errors are its server's."""

    def broken(_: Environ, __: Callable[..., Any]) -> Iterable[bytes]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guard(broken, subnet.verifier)(an_environ(alice.headers), print)


def test_values_that_no_server_gives_are_denials(
    application: Application, subnet: Subnet, alice: Caller
) -> None:
    """Text beyond Latin-1, surrogates, or no text at all."""
    app = guard(application, subnet.verifier)
    for value in ("\u20ac", "\udc80", "\x00", 7, None, b"x", io.BytesIO()):
        assert ask(app, an_environ(HTTP_X_CLIENT_CERT=value))[0] == "403 Forbidden"
    (value,) = alice.headers.values()
    assert ask(app, an_environ(HTTP_X_CLIENT_CERT=value, HTTP_X_A="\udc80"))[0] == "200 OK"


def test_import_loads_no_framework() -> None:
    """A WSGI application pays neither for Starlette nor for a server."""
    script = "import nexus_auth.wsgi, sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30
    )
    assert not set(done.stdout.split()) & {"starlette", "uvicorn", "httpx", "flask", "django"}
