"""Requests to a node over HTTP: one POST each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

import httpx

from nexus_auth.adapters.bounded_http import AnswerOutOfBounds, read_bounded
from nexus_auth.adapters.chain.rpc import (
    Connect,
    Exchange,
    NodeAnswerInvalid,
    NodeUnreachable,
    status_failure,
)
from nexus_auth.adapters.server_trust import AUTHORITIES_VARIABLE, explain_refusal

HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}


def connect_http(
    client: httpx.AsyncClient,
    endpoint: str,
    *,
    connect_timeout_seconds: float,
    read_timeout_seconds: float,
) -> Connect:
    """Builds the transport to one node. The client bounds what it reads, and follows no redirect.

    Args:
        client: Keeps the connections. It stays open.
        endpoint: The address of the node.
        connect_timeout_seconds: How long a connection may take to open.
        read_timeout_seconds: How long a whole answer may take.
    """
    timeout = httpx.Timeout(read_timeout_seconds, connect=connect_timeout_seconds)

    async def exchange(request: bytes, max_bytes: int) -> bytes:
        try:
            # httpx's read timeout starts anew with every byte; this one does not.
            async with (
                asyncio.timeout(connect_timeout_seconds + read_timeout_seconds),
                client.stream(
                    "POST", endpoint, content=request, headers=HEADERS, timeout=timeout
                ) as response,
            ):
                status = response.status_code
                if status == HTTPStatus.OK:
                    return await read_bounded(response, max_bytes)
        except AnswerOutOfBounds as exc:
            raise NodeAnswerInvalid(f"gave an answer that {exc}") from None
        except Exception as exc:  # noqa: BLE001 - whatever the library meets, the port has its own errors.
            raise NodeUnreachable(describe_failure(exc)) from None
        raise status_failure(status)

    @asynccontextmanager
    async def connect() -> AsyncIterator[Exchange]:
        yield exchange

    return connect


def describe_failure(exc: Exception) -> str:
    """What to say of a node with which no exchange was possible. Repeats no text of the node."""
    refusal = explain_refusal(exc, authorities=AUTHORITIES_VARIABLE, address="NEXUS_CHAIN_ENDPOINT")
    if refusal is not None:
        return f"is not trusted: {refusal.problem}; {refusal.remedy}"
    if isinstance(exc, TimeoutError | httpx.TimeoutException):
        return f"did not answer in time ({type(exc).__name__})"
    is_ours = isinstance(exc, httpx.ConnectError | OSError)  # the text of this machine
    return f"could not be asked ({type(exc).__name__}{f': {exc}' if is_ours else ''})"
