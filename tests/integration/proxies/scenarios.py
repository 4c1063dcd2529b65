"""What is tried with every proxy: one table for all of them.

Whatever a scenario does, one thing always holds: what reaches the application carries exactly one
hotkey, and it is the caller's own.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nexus_auth.adapters.headers.names import CERTIFICATE_HEADERS, with_underscores
from tests.builders import a_hotkey
from tests.integration.proxies.client import (
    Answer,
    Headers,
    Identity,
    ask,
    ask_http2,
    connect,
    exchange,
    http1_request,
    tls_context,
)
from tests.integration.proxies.stack import Stack

LET_IN: Final = "let in"
REFUSED: Final = "refused"
SAFE: Final = "let in or refused"
"""An odd request: a proxy may refuse it, or let it pass under the caller's own name."""

ALICE: Final = a_hotkey("alice").address
BOB: Final = a_hotkey("bob").address


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table.

    Attributes:
        group: The part of the table that it belongs to.
        title: What is tried.
        expected: `LET_IN`, `REFUSED` or `SAFE`.
        run: Does it.
    """

    group: str
    title: str
    expected: str
    run: Callable[[Stack], Answer]

    @property
    def name(self) -> str:
        """Group and title: unique in the table."""
        return f"{self.group}: {self.title}"


def bobs_certificate_in_every_format(stack: Stack) -> list[str]:
    """A certificate is public: an attacker has everybody's."""
    identity = stack.people["bob"]
    if identity.certificate is None:
        raise AssertionError("bob has a certificate")
    pem = identity.certificate.read_bytes()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    encoded, escaped = base64.b64encode(der).decode(), quote(pem, safe="")
    return [escaped, encoded, f":{encoded}:", f'Hash=00;Cert="{escaped}"']


def forged_certificates(stack: Stack, *, underscores: bool = False) -> Headers:
    """Every certificate header in every format, with bob's certificate in it."""
    names = [
        spelling
        for name in CERTIFICATE_HEADERS
        for spelling in (with_underscores(name)[1:] if underscores else (name,))
    ]
    # Long ones add up: one format for each name, all formats in turn.
    values = bobs_certificate_in_every_format(stack)
    return [(name, values[i % len(values)]) for i, name in enumerate(names)][:24]


def forged_with_underscores(stack: Stack) -> Headers:
    """The same, with underscores for hyphens."""
    return forged_certificates(stack, underscores=True)


def everything_forged(stack: Stack) -> Headers:
    """Everything that a proxy says, said by a client."""
    return [("X-Hotkey", BOB), *forged_certificates(stack)]


def _lower(headers: Headers) -> Headers:
    return [(name.lower(), value) for name, value in headers]


Run = Callable[[Stack], Answer]
HeadersOrMaker = Headers | Callable[[Stack], Headers]


def _made(headers: HeadersOrMaker, stack: Stack) -> Headers:
    return headers(stack) if callable(headers) else headers


def http1(
    who: str = "alice",
    *,
    method: str = "GET",
    target: str = "/",
    headers: HeadersOrMaker = (),
    body: bytes = b"",
    trailers: Headers | None = None,
    version: ssl.TLSVersion | None = None,
) -> Run:
    """One HTTP/1.1 request."""

    def run(stack: Stack) -> Answer:
        request = http1_request(
            method=method,
            target=target,
            headers=_made(headers, stack),
            body=body,
            chunks=trailers is not None,
            trailers=trailers or (),
        )
        return stack.ask(who, request, method=method, version=version)

    return run


def http1_raw(request: bytes) -> Run:
    """These bytes."""
    return lambda stack: stack.ask("alice", request)


def http2(
    who: str = "alice",
    *,
    method: str = "GET",
    headers: HeadersOrMaker = (),
    body: bytes = b"",
    trailers: Headers = (),
    pseudo: Headers | None = None,
    version: ssl.TLSVersion | None = None,
) -> Run:
    """One HTTP/2 request."""
    return lambda stack: ask_http2(
        stack.port,
        stack.people[who],
        method=method,
        headers=_made(headers, stack),
        body=body,
        trailers=trailers,
        pseudo=pseudo,
        version=version,
    )


def resumed(version: ssl.TLSVersion) -> Run:
    """A request over a TLS session that an earlier connection began."""

    def run(stack: Stack) -> Answer:
        context = tls_context(stack.people["alice"], version=version)
        with connect(stack.port, context) as first:
            exchange(first, http1_request())
            session = first.session
        with connect(stack.port, context, session=session) as second:
            # Caddy 2.11 resumes no session that began with a client certificate.
            if not second.session_reused and stack.proxy != "caddy":
                raise AssertionError("the session was not resumed")
            return exchange(second, http1_request())

    return run


def upgrade(protocol: str, who: str = "alice", *, more: Headers = ()) -> Run:
    """A request to change the protocol, which also tries to have X-Hotkey removed."""
    return http1(
        who,
        headers=[
            ("Connection", "Upgrade, HTTP2-Settings, X-Hotkey"),
            ("Upgrade", protocol),
            ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
            *more,
        ],
    )


def extended_connect(protocol: str) -> Headers:
    """The pseudo-headers that stand for an upgrade in HTTP/2 (RFC 8441 §4)."""
    return [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/"),
    ]


def mood(status: str | None, *headers: str) -> Run:
    """A request while the auth service answers this, or hangs up; X-Hotkey is forged."""

    def run(stack: Stack) -> Answer:
        if status is None:
            stack.moody.hangs_up()
        else:
            stack.moody.answers(status, *headers, body="" if status.startswith("204") else "Hello")
        request = http1_request(headers=[("X-Hotkey", ALICE)])
        return ask(stack.moody_port, stack.people["alice"], request)

    return run


def _over_tls() -> Iterator[Scenario]:
    group = "Registered"
    for version, shown in ((ssl.TLSVersion.TLSv1_2, "1.2"), (ssl.TLSVersion.TLSv1_3, "1.3")):
        yield Scenario(group, f"TLS {shown}, HTTP/1.1", LET_IN, http1(version=version))
        yield Scenario(group, f"TLS {shown}, HTTP/2", LET_IN, http2(version=version))
        yield Scenario(group, f"TLS {shown}, session resumed", LET_IN, resumed(version))
    yield Scenario(group, "a certificate of 12 KB", LET_IN, http1("alice, 12 KB"))
    long = [("X-Long", "a" * 20_000)]
    yield Scenario(group, "a header of 20 KB", LET_IN, http1(headers=long))
    long = [("X-Long-Wanted", "20000")]
    yield Scenario(group, "an answer with a header of 20 KB", LET_IN, http1(headers=long))
    body = b"a" * 3_000_000
    yield Scenario(group, "a body of 3 MB", LET_IN, http1(method="POST", body=body))
    yield Scenario(group, "GET with a body", LET_IN, http1(body=b"hello"))
    for method in ("HEAD", "OPTIONS", "DELETE"):
        yield Scenario(group, method, LET_IN, http1(method=method))
    yield Scenario(group, "WebSocket", LET_IN, upgrade("websocket"))


def _not_entitled() -> Iterator[Scenario]:
    group = "Not entitled"
    for who, shown in (
        ("nobody", "no certificate"),
        ("carol", "not registered"),
        ("mallory as alice", "another key than the registered one"),
        ("expired", "expired"),
        ("early", "not valid yet"),
        ("alice by ECDSA", "not an Ed25519 key"),
    ):
        yield Scenario(group, f"{shown}, HTTP/1.1", REFUSED, http1(who))
        yield Scenario(group, f"{shown}, HTTP/2", REFUSED, http2(who))
    yield Scenario(group, "a certificate of 40 KB", REFUSED, http1("alice, 40 KB"))
    title = "no certificate, everything forged"
    yield Scenario(group, f"{title}, HTTP/1.1", REFUSED, http1("nobody", headers=everything_forged))
    yield Scenario(
        group,
        f"{title}, HTTP/2",
        REFUSED,
        http2("nobody", headers=lambda stack: _lower(everything_forged(stack))),
    )
    for target in (
        "//auth",
        "/../auth",
        "/%2e%2e/auth",
        "/.nexus-auth-subrequest",
        "/.nexus-auth-subrequest/",
        "http://nexus-auth/",
        "https://localhost/",
        "/healthz",
        "*",
    ):
        run = http1("nobody", target=target)
        yield Scenario(group, f"no certificate, target `{target}`", REFUSED, run)
    for method in ("HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW"):
        run = http1("nobody", method=method)
        yield Scenario(group, f"no certificate, {method}", REFUSED, run)
    for protocol in ("websocket", "h2c"):
        run = upgrade(protocol, "nobody")
        yield Scenario(group, f"no certificate, upgrade to {protocol}", REFUSED, run)
        run = http2("nobody", pseudo=extended_connect(protocol))
        yield Scenario(group, f"no certificate, `:protocol {protocol}`, HTTP/2", REFUSED, run)


def _forged() -> Iterator[Scenario]:
    group = "Registered, and forging"
    rows: list[tuple[str, Callable[[Stack], Headers]]] = [
        ("`X-Hotkey`", lambda _stack: [("X-Hotkey", BOB)]),
        ("`x-hotkey` twice", lambda _stack: [("x-hotkey", BOB), ("X-HOTKEY", BOB)]),
        ("`X_Hotkey`", lambda _stack: [("X_Hotkey", BOB)]),
        ("`X.Hotkey`", lambda _stack: [("X.Hotkey", BOB)]),
        ("every certificate header", forged_certificates),
        ("every certificate header, with underscores", forged_with_underscores),
        ("`X-Hotkey` and every certificate header", everything_forged),
    ]
    for title, headers in rows:
        yield Scenario(group, f"{title}, HTTP/1.1", LET_IN, http1(headers=headers))
        lower = _lowered(headers)
        yield Scenario(group, f"{title}, HTTP/2", LET_IN, http2(headers=lower))
    for title, names in (
        ("`Connection: X-Hotkey`", ["X-Hotkey"]),
        ("`Connection` naming every header", ["close", "X-Hotkey", *CERTIFICATE_HEADERS]),
    ):
        connection = ("Connection", ", ".join(names))
        # Envoy does not like long lists there.
        expected = LET_IN if len(names) == 1 else SAFE
        yield Scenario(group, title, expected, http1(headers=[connection]))
        yield Scenario(
            group,
            f"{title}, and everything forged",
            expected,
            http1(headers=_with(connection, everything_forged)),
        )


def _lowered(headers: Callable[[Stack], Headers]) -> Callable[[Stack], Headers]:
    return lambda stack: _lower(headers(stack))


def _with(
    header: tuple[str, str], headers: Callable[[Stack], Headers]
) -> Callable[[Stack], Headers]:
    return lambda stack: [header, *headers(stack)]


def _odd() -> Iterator[Scenario]:
    group = "Registered, and odd"
    for title, name, value in (
        ("a space after the name", "X-Hotkey ", BOB),
        ("a tab after the name", "X-Hotkey\t", BOB),
        ("a space before the name", " X-Hotkey", BOB),
        ("a zero byte in the name", "X-Hotkey\0", BOB),
        ("a line feed in a value", "X-A", f"b\nX-Hotkey: {BOB}"),
        ("a carriage return in a value", "X-A", f"b\rX-Hotkey: {BOB}"),
        ("a folded line", "X-A", f"b\r\n X-Hotkey: {BOB}"),
        ("two colons", "X-Hotkey:", BOB),
    ):
        odd = [(name, value)]
        yield Scenario(group, f"{title}, HTTP/1.1", SAFE, http1(headers=odd))
        yield Scenario(group, f"{title}, HTTP/2", SAFE, http2(headers=_lower(odd)))
    yield from _odd_trailers(group)
    chunked = b"Transfer-Encoding: chunked\r\n"
    for title, rest in (
        (
            "`Content-Length` and `Transfer-Encoding`",
            b"Content-Length: 6\r\n" + chunked + b"\r\n0\r\n\r\nX",
        ),
        (
            "an unknown `Transfer-Encoding`",
            b"Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\nhello",
        ),
        (
            "`Transfer-Encoding` with a space",
            b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\nhello",
        ),
        (
            "two `Content-Length`",
            b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        ),
    ):
        request = b"POST / HTTP/1.1\r\nHost: localhost\r\n" + rest
        yield Scenario(group, title, SAFE, http1_raw(request))
    yield Scenario(group, "HTTP/1.0", SAFE, http1_raw(b"GET / HTTP/1.0\r\n\r\n"))
    for target in ("//auth", "/../auth", "/.nexus-auth-subrequest", "http://nexus-auth/", "*"):
        yield Scenario(group, f"target `{target}`", SAFE, http1(target=target))
    for method in ("TRACE", "CONNECT", "BREW"):
        yield Scenario(group, method, SAFE, http1(method=method))
    yield Scenario(group, "upgrade to h2c", SAFE, upgrade("h2c"))
    both = [("Upgrade", "websocket")]
    yield Scenario(group, "upgrade to h2c or WebSocket", SAFE, upgrade("h2c", more=both))
    both = [("Upgrade", "h2c")]
    yield Scenario(group, "upgrade to WebSocket or h2c", SAFE, upgrade("websocket", more=both))
    yield Scenario(group, "upgrade to a list", SAFE, upgrade("websocket, h2c"))
    for protocol in ("websocket", "h2c"):
        title = f"`:protocol {protocol}` (RFC 8441), HTTP/2"
        yield Scenario(group, title, SAFE, http2(pseudo=extended_connect(protocol)))
    long = [("X-Long", "a" * 60_000)]
    yield Scenario(group, "a header of 60 KB", SAFE, http1(headers=long))
    yield from _odd_http2(group)


def _odd_trailers(group: str) -> Iterator[Scenario]:
    trailers = [("x-hotkey", BOB)]
    announced = [("trailer", "x-hotkey"), ("te", "trailers")]
    nothing: list[tuple[str, str]] = []
    for headers, shown in ((nothing, ""), (announced, ", announced")):
        title = f"`X-Hotkey` in trailers{shown}"
        yield Scenario(
            group,
            f"{title}, HTTP/1.1",
            SAFE,
            http1(method="POST", headers=headers, body=b"hi", trailers=trailers),
        )
        for body, what in ((b"hi", ""), (b"", ", no body")):
            yield Scenario(
                group,
                f"{title}{what}, HTTP/2",
                SAFE,
                http2(method="POST", headers=headers, body=body, trailers=trailers),
            )
    length = [("content-length", "2")]
    yield Scenario(
        group,
        "`X-Hotkey` in trailers beside a `Content-Length`, HTTP/2",
        SAFE,
        http2(method="POST", headers=length, body=b"hi", trailers=trailers),
    )


def _odd_http2(group: str) -> Iterator[Scenario]:
    usual = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": "/"}
    for title, changed in (
        ("a request within `:method`", {":method": f"GET / HTTP/1.1\r\nX-Hotkey: {BOB}\r\nX-A:"}),
        ("a request within `:path`", {":path": f"/ HTTP/1.1\r\nX-Hotkey: {BOB}\r\nX-A:"}),
        ("a header within `:authority`", {":authority": f"localhost\r\nX-Hotkey: {BOB}"}),
        ("a header within `:scheme`", {":scheme": f"https\r\nX-Hotkey: {BOB}"}),
        ("an unknown pseudo-header", {":x-hotkey": BOB}),
    ):
        pseudo = list({**usual, **changed}.items())
        yield Scenario(group, f"{title}, HTTP/2", SAFE, http2(pseudo=pseudo))
    for title, headers in (
        ("`connection: x-hotkey`", [("connection", "x-hotkey")]),
        ("`transfer-encoding: chunked`", [("transfer-encoding", "chunked")]),
        ("upper case", [("X-Hotkey", BOB)]),
        ("a pseudo-header after a header", [("x-a", "b"), (":path", "/b")]),
    ):
        yield Scenario(group, f"{title}, HTTP/2", SAFE, http2(headers=headers))


def _auth_service() -> Iterator[Scenario]:
    group = "Registered, and the auth service"
    yield Scenario(
        group, "is down", REFUSED, lambda stack: ask(stack.orphan_port, stack.people["alice"])
    )
    yield Scenario(group, "hangs up", REFUSED, mood(None))
    name = f"X-Hotkey: {ALICE}"
    for title, status, headers in (
        ("answers 200 without a hotkey", "200 OK", ()),
        ("answers 200 with an empty hotkey", "200 OK", ("X-Hotkey: ",)),
        ("answers 200 with nonsense for a hotkey", "200 OK", ("X-Hotkey: bob",)),
        ("answers 200 with two hotkeys in one", "200 OK", (f"{name}, {BOB}",)),
        ("answers 204 without a hotkey", "204 No Content", ()),
        ("answers 302 with a hotkey", "302 Found", ("Location: /", name)),
        ("answers 401 with a hotkey", "401 Unauthorized", (name,)),
        ("answers 403 with a hotkey", "403 Forbidden", (name,)),
        ("answers 404 with a hotkey", "404 Not Found", (name,)),
        ("answers 500 with a hotkey", "500 Internal Server Error", (name,)),
    ):
        yield Scenario(group, title, REFUSED, mood(status, *headers))
    yield Scenario(group, "answers 200 with a hotkey", LET_IN, mood("200 OK", name))


def judge(scenario: Scenario, stack: Stack) -> str:
    """Runs a scenario, checks what always holds, and says what came of it."""
    count = len(stack.application.records)
    answer = scenario.run(stack)
    reached = stack.since(count)
    for record in reached:
        # Resumed sessions and such send more than one request, all of them alice's.
        if record.hotkeys != [ALICE]:
            raise AssertionError(f"the application saw the hotkeys {record.hotkeys}: {record}")
        if BOB in repr((record.headers, record.trailers)):
            # A folded line belongs to the value before it, whatever it looks like.
            names = {name for name, value in record.headers if BOB in value}
            if not names <= {"x-a", "host"} or record.trailers:
                raise AssertionError(f"a forged value reached the application: {record}")
        _check_no_certificate(record.headers, stack)
        upgrades = [value.lower() for name, value in record.headers if name == "upgrade"]
        if upgrades not in ([], ["websocket"]):
            raise AssertionError(f"an upgrade was passed on: {record}")
        if not _named_by_connection(record.headers) <= {"close", "keep-alive", "upgrade"}:
            raise AssertionError(f"the next one may take a header away: {record}")
    if scenario.expected == LET_IN and answer.status not in {200, 101}:
        raise AssertionError(f"the application let the caller in, who was told {answer.status}")
    if not reached:
        if answer.status in {200, 101}:
            raise AssertionError(f"nobody was let in, and the client was told {answer.status}")
        return "403" if answer.status == 403 else REFUSED
    return LET_IN


def _named_by_connection(headers: tuple[tuple[str, str], ...]) -> set[str]:
    """What whoever is next may take away (RFC 9110 §7.6.1)."""
    values = ",".join(value for name, value in headers if name == "connection")
    return {name.strip().lower() for name in values.split(",")} - {""}


def _check_no_certificate(headers: tuple[tuple[str, str], ...], stack: Stack) -> None:
    certificates = bobs_certificate_in_every_format(stack)
    for name, value in headers:
        if any(certificate in value for certificate in certificates):
            raise AssertionError(f"a forged certificate reached the application in {name}")


def rotated(stack: Stack, who: str) -> Identity:
    """The identity that somebody has after changing their key."""
    return stack.people[f"{who}'s new key"]


SCENARIOS: Final = tuple(
    scenario
    for part in (_over_tls, _not_entitled, _forged, _odd, _auth_service)
    for scenario in part()
)
