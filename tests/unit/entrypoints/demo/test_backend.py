from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from nexus_auth.entrypoints.demo.backend import EchoBackend


@pytest.fixture
def backend() -> Iterator[EchoBackend]:
    """A running application."""
    backend = EchoBackend()
    backend.start()
    yield backend
    backend.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_application_tells_what_it_saw(backend: EchoBackend, method: str) -> None:
    """Every header comes back, repeated ones too, and the visit is counted."""
    connection = http.client.HTTPConnection("127.0.0.1", backend.server_port, timeout=5)
    connection.putrequest(method, "/a?b")
    connection.putheader("X-Hotkey", "one")
    connection.putheader("X-Hotkey", "two")
    connection.endheaders()
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["path"] == "/a?b"
    assert [line for line in answer["headers"] if line.startswith("X-Hotkey")] == [
        "X-Hotkey: one",
        "X-Hotkey: two",
    ]
    assert backend.requests == 1


def test_body_is_never_taken_for_a_request(backend: EchoBackend) -> None:
    """Proxies keep connections open and send the next caller's request on them."""
    connection = http.client.HTTPConnection("127.0.0.1", backend.server_port, timeout=5)
    for expected in (1, 2):
        connection.request("POST", "/", body=b"hello")
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        assert backend.requests == expected
    connection.close()


def test_application_that_never_started_can_be_closed() -> None:
    """The demo may fail before it comes to that."""
    EchoBackend().close()
