"""What is read of a WSGI request beside its environ, by the server's own objects.

tests/integration/servers/test_wsgi.py holds that real servers have these objects.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.adapters.headers.names import with_dots, with_underscores
from nexus_auth.adapters.starlette.gate import HEAD_ONLY
from nexus_auth.adapters.wsgi.request import build_scope, find_claims

HEADER = "X-Client-Cert"


class Connected:
    """A connection on loopback, or the end of one that is gone."""

    family = socket.AF_INET

    def __init__(self, *, is_gone: bool = False) -> None:
        self._is_gone = is_gone

    def getpeername(self) -> tuple[str, int]:
        if self._is_gone:
            raise OSError(107, "not connected")
        return ("127.0.0.9", 4711)


def from_gunicorn(*lines: tuple[str, str]) -> Any:
    """What gunicorn gives as `start_response`."""
    owner = type("Response", (), {"__module__": "gunicorn.http.wsgi", "start": print})()
    owner.req = SimpleNamespace(headers=list(lines))
    return SimpleNamespace(__self__=owner)


def scope_of(
    environ: dict[str, Any], start_response: Any = None, *, promised: bool = False
) -> tuple[dict[str, Any], bool]:
    """The scope of a request, and whether its certificate was left out."""
    return build_scope(environ, start_response, header=HEADER, has_one_spelling=promised)


def certificates(scope: dict[str, Any]) -> list[bytes]:
    """The values of the header that counts."""
    return [value for name, value in scope["headers"] if name == b"x-client-cert"]


@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
def test_peer_is_that_of_the_connection(key: str) -> None:
    """Whatever the environ says."""
    scope, _ = scope_of({key: Connected(), "REMOTE_ADDR": "127.0.0.1"})
    assert (scope["client"], scope["server"]) == (("127.0.0.9", 4711), None)
    assert HEAD_ONLY in scope["extensions"]


@pytest.mark.parametrize(
    "connection", [Connected(is_gone=True), None, "a text", SimpleNamespace(family=None)]
)
def test_connection_that_names_no_peer_has_none(connection: Any) -> None:
    """A client that went away is no unix socket, nor is an odd value."""
    scope, _ = scope_of({"gunicorn.socket": connection, "REMOTE_ADDR": ""})
    assert scope["client"] in {None, ("", None)}
    assert scope["server"] is None


@pytest.fixture
def unix() -> Iterator[socket.socket]:
    """A unix socket."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        yield one


def test_unix_socket_is_recognised_by_the_socket(unix: socket.socket) -> None:
    """Waitress calls its peer `localhost` there, others leave the address empty."""
    channel = SimpleNamespace(socket=unix)
    method = SimpleNamespace(__self__=channel)
    for environ in ({"gunicorn.socket": unix}, {"waitress.client_disconnected": method}):
        scope, _ = scope_of({**environ, "REMOTE_ADDR": "localhost"})
        assert (scope["client"], scope["server"]) == (None, ("", None))


def test_server_that_shows_nothing_vouches_for_nothing() -> None:
    """Neither for its peer nor for the place of trailers."""
    scope, _ = scope_of({"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "4711"})
    assert scope["client"] == ("127.0.0.1", None)
    assert scope["extensions"] == {}


class Handler(BaseHTTPRequestHandler):
    """What reads requests in wsgiref and in Django's development server, after it read one."""

    def __init__(self, *lines: tuple[str, str]) -> None:
        self.headers = Message()
        for name, value in lines:
            self.headers[name] = value
        self.connection: Any = Connected()
        self.close_connection = False


def from_handler(handler: Any) -> Any:
    """What wsgiref gives as `start_response`."""
    return SimpleNamespace(__self__=SimpleNamespace(request_handler=handler))


def test_connection_and_lines_of_the_standard_library_are_shown() -> None:
    """By the handler, which is no other object's of the same name."""
    environ = {"HTTP_X_CLIENT_CERT": "one,two", "REMOTE_ADDR": "127.0.0.1"}
    handler = Handler((HEADER, "one"), ("X_Client_Cert", "two"))
    scope, is_hidden = scope_of(environ, from_handler(handler))
    assert (certificates(scope), is_hidden) == ([b"one"], False)
    assert scope["client"] == ("127.0.0.9", 4711)
    assert HEAD_ONLY in scope["extensions"]
    other = SimpleNamespace(headers={HEADER: "one"}, connection=Connected())
    scope, is_hidden = scope_of(environ, from_handler(other))
    assert (certificates(scope), is_hidden) == ([], True)
    assert scope["client"] == ("127.0.0.1", None)


@pytest.mark.parametrize("name", ["Transfer-Encoding", "content-length"])
def test_body_is_the_last_of_its_connection(name: str) -> None:
    """In Django's development server, which leaves some bodies unread."""
    handler = Handler((name, "1"))
    scope_of({}, from_handler(handler))
    assert handler.close_connection
    handler = Handler((HEADER, "1"))
    scope_of({}, from_handler(handler))
    assert not handler.close_connection


@pytest.mark.parametrize("spelling", with_underscores(HEADER)[1:])
def test_lines_of_the_server_count_where_they_are_shown(spelling: str) -> None:
    """One environ name, two headers: only the hyphens are the proxy's."""
    environ = {"gunicorn.socket": Connected(), "HTTP_X_CLIENT_CERT": "forged,proxy"}
    scope, is_hidden = scope_of(
        environ, from_gunicorn((spelling.upper(), "forged"), (HEADER.upper(), "proxy"))
    )
    assert (certificates(scope), is_hidden) == ([b"proxy"], False)
    scope, _ = scope_of(environ, from_gunicorn((spelling.upper(), "forged")))
    assert certificates(scope) == []
    scope, _ = scope_of(environ, from_gunicorn((HEADER, "one"), (HEADER, "two")))
    assert certificates(scope) == [b"one", b"two"]


def test_lines_count_under_gunicorn_alone() -> None:
    """Its objects without its connection are not its own."""
    environ = {"HTTP_X_CLIENT_CERT": "forged"}
    scope, is_hidden = scope_of(environ, from_gunicorn((HEADER, "forged")))
    assert (certificates(scope), is_hidden) == ([], True)


def test_nothing_is_left_out_where_there_is_no_certificate() -> None:
    """Whatever else is in the environ; what is no text is no header."""
    scope, is_hidden = scope_of({"HTTP_X_OTHER": "a", "HTTP_X_NUMBER": 7, "REMOTE_ADDR": None})
    assert (scope["headers"], is_hidden) == ([(b"x-other", b"a")], False)
    assert scope["client"] == ("", None)


def test_lines_of_a_middleware_in_between_do_not_count() -> None:
    """What it calls headers comes from the environ, in which both spellings are one."""
    environ = {"gunicorn.socket": Connected(), "HTTP_X_CLIENT_CERT": "forged"}
    owner = SimpleNamespace(
        req=SimpleNamespace(headers=[(HEADER, "forged")]),
        request_handler=SimpleNamespace(headers={HEADER: "forged"}),
    )
    for start_response in (print, SimpleNamespace(__self__=owner)):
        scope, is_hidden = scope_of(environ, start_response)
        assert (certificates(scope), is_hidden) == ([], True)


@pytest.mark.parametrize(
    ("software", "expected"),
    [
        ("Werkzeug/3.1.0", 1),
        ("Werkzeug/3.1.9", 1),
        ("Werkzeug/4.0", 1),
        ("Werkzeug/10.0.1", 1),
        ("Werkzeug/3.0.9", 0),
        ("Werkzeug/2.3.8", 0),
        ("Werkzeug", 0),
        ("other Werkzeug/3.1.0", 0),
        (None, 0),
    ],
)
def test_older_development_servers_do_not_drop_underscores(
    software: str | None, expected: int
) -> None:
    """The release says so; one that is not known proves nothing."""
    environ = {
        "werkzeug.socket": Connected(),
        "SERVER_SOFTWARE": software,
        "HTTP_X_CLIENT_CERT": "a",
    }
    assert len(certificates(scope_of(environ)[0])) == expected
    del environ["werkzeug.socket"]
    assert certificates(scope_of(environ)[0]) == []


def test_joined_headers_are_counted_as_often_as_they_may_have_come() -> None:
    """X-Forwarded-Client-Cert has commas of its own, of which one server more must say so."""
    environ = {
        "waitress.client_disconnected": None,
        "HTTP_X_CLIENT_CERT": "one, two",
    }
    assert certificates(scope_of(environ)[0]) == [b"one", b" two"]
    assert certificates(scope_of(environ, promised=True)[0]) == [b"one, two"]


@pytest.mark.parametrize("name", ["X-Hotkey", "X-Hotkey-Uid", HEADER])
def test_every_spelling_is_a_claim(name: str) -> None:
    """With hyphens, underscores or dots, in any case."""
    for spelt in (*with_underscores(name), *with_dots(name)):
        for key in (f"HTTP_{spelt}", f"HTTP_{spelt}".upper(), f"http_{spelt}".lower()):
            assert find_claims({key: "a", "HTTP_X_OTHER": "b"}, HEADER) == [key]


@given(environ=st.dictionaries(st.text(max_size=20), st.text(max_size=20) | st.none()))
def test_any_environ_has_a_scope(environ: dict[str, Any]) -> None:
    """Nothing is raised, and nothing is vouched for."""
    scope, _ = scope_of(environ)
    assert scope["extensions"] == {} or "werkzeug.socket" in environ or "gunicorn.socket" in environ
    find_claims(environ, HEADER)
