from __future__ import annotations

import inspect
import ssl

import httpcore
import httpx
import pytest

from nexus_auth.adapters.bounded_http import BoundedTransport

HTTPCORE_ERRORS = [
    each for _, each in inspect.getmembers(httpcore, inspect.isclass) if issubclass(each, Exception)
]


class Failing(BoundedTransport):
    """A transport whose every request fails in the same way."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._pool = FailingPool(error)


class FailingPool(httpcore.AsyncConnectionPool):
    """What is under it."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self._error = error

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        raise self._error("boom")


@pytest.mark.parametrize("error", HTTPCORE_ERRORS)
async def test_every_error_from_below_is_one_of_httpx(error: type[Exception]) -> None:
    """Of the same name where there is one, so that users of httpx know what to catch."""
    request = httpx.Request("GET", "http://pylon.test:8000/", extensions={"timeout": {}})
    async with Failing(error) as transport:
        with pytest.raises(httpx.TransportError) as caught:
            await transport.handle_async_request(request)
    assert type(caught.value) is getattr(httpx, error.__name__, httpx.TransportError)
    assert isinstance(caught.value.__cause__, error)


def test_list_of_errors_is_not_empty() -> None:
    """The test above tests something."""
    assert {httpcore.ReadTimeout, httpcore.ConnectError} <= set(HTTPCORE_ERRORS)
