"""A client that says exactly what it is told to: raw HTTP/1.1 and raw HTTP/2 over TLS."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import h2.config
import h2.connection
import h2.events

TIMEOUT_SECONDS: Final = 20

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Identity:
    """A client certificate and its key, in files; both None for a client without."""

    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The last header of this name."""
        return {key.lower(): value for key, value in self.headers}.get(name)


REFUSED_BY_CLOSING: Final = Answer(status=0)
"""The connection ended without an answer: a refusal as well."""


def tls_context(
    identity: Identity,
    *,
    version: ssl.TLSVersion | None = None,
    protocol: str = "http/1.1",
) -> ssl.SSLContext:
    """Makes a context that trusts the test's server and shows the identity."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if identity.certificate is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    return context


def connect(
    port: int,
    context: ssl.SSLContext,
    *,
    session: ssl.SSLSession | None = None,
    server_hostname: str = "localhost",
) -> ssl.SSLSocket:
    """Opens a TLS connection to a loopback port."""
    plain = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=server_hostname, session=session)


def http1_request(
    *,
    method: str = "GET",
    target: str = "/",
    headers: Headers = (),
    body: bytes = b"",
    chunks: bool = False,
    trailers: Headers = (),
) -> bytes:
    """Writes a request as it stands; nothing is checked."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers]
    if chunks:
        lines.append("Transfer-Encoding: chunked")
    elif body:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    if not chunks:
        return head.encode("latin-1") + body
    tail = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    return head.encode("latin-1") + b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(body), body, tail.encode())


def exchange(connection: ssl.SSLSocket, request: bytes, *, method: str = "GET") -> Answer:
    """Sends one HTTP/1.1 request and reads one answer."""
    try:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        body = b"" if response.status == http.HTTPStatus.SWITCHING_PROTOCOLS else response.read()
    except (OSError, http.client.HTTPException):
        return REFUSED_BY_CLOSING
    return Answer(response.status, response.getheaders(), body)


def ask(
    port: int,
    identity: Identity,
    request: bytes | None = None,
    *,
    version: ssl.TLSVersion | None = None,
    method: str = "GET",
) -> Answer:
    """Sends one HTTP/1.1 request over a connection of its own."""
    try:
        with connect(port, tls_context(identity, version=version)) as connection:
            return exchange(connection, request or http1_request(method=method), method=method)
    except (OSError, ssl.SSLError):
        return REFUSED_BY_CLOSING


def ask_http2(
    port: int,
    identity: Identity,
    *,
    method: str = "GET",
    target: str = "/",
    headers: Headers = (),
    body: bytes = b"",
    trailers: Headers = (),
    pseudo: Headers | None = None,
    version: ssl.TLSVersion | None = None,
) -> Answer:
    """Sends one HTTP/2 request; headers go out as they are given."""
    opening = pseudo or (
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", target),
    )
    try:
        with connect(port, tls_context(identity, version=version, protocol="h2")) as connection:
            if connection.selected_alpn_protocol() != "h2":
                raise AssertionError("the proxy does not speak HTTP/2")
            return _exchange_http2(connection, [*opening, *headers], body, trailers)
    except (OSError, ssl.SSLError):
        return REFUSED_BY_CLOSING


def _exchange_http2(
    connection: ssl.SSLSocket, headers: Headers, body: bytes, trailers: Headers
) -> Answer:
    state = h2.connection.H2Connection(
        h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    )
    state.initiate_connection()
    state.send_headers(1, list(headers), end_stream=not body and not trailers)
    if body or trailers:
        state.send_data(1, body, end_stream=not trailers)
    if trailers:
        state.send_headers(1, list(trailers), end_stream=True)
    connection.sendall(state.data_to_send())
    status, got, received = 0, list[tuple[str, str]](), io.BytesIO()
    while True:
        data = connection.recv(65536)
        if not data:
            return REFUSED_BY_CLOSING
        for event in state.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                got = [(_text(name), _text(value)) for name, value in event.headers or []]
                status = int(dict(got)[":status"])
            elif isinstance(event, h2.events.DataReceived):
                received.write(event.data or b"")
                state.acknowledge_received_data(event.flow_controlled_length or 0, 1)
            elif isinstance(event, h2.events.StreamEnded):
                return Answer(status, got, received.getvalue())
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                return REFUSED_BY_CLOSING
        connection.sendall(state.data_to_send())


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
