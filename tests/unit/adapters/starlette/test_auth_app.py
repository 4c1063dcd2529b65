"""The auth listener's application, under any ASGI server."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing
from starlette.types import Message, Scope

from nexus_auth.adapters.headers.formats import der_from_percent_encoded_pem
from nexus_auth.adapters.headers.names import GrantHeader
from nexus_auth.adapters.starlette import auth_app as module
from nexus_auth.adapters.starlette.answers import DENIALS, Answer
from nexus_auth.adapters.starlette.auth_app import AuthApp
from nexus_auth.adapters.starlette.gate import HEAD_ONLY, Gate, admit_registered
from nexus_auth.adapters.starlette.trusted_peers import TrustedPeers
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.neuron import Neuron, StakeKind
from nexus_auth.domain.policy import AccessPolicy, MinStake, OnlyHotkeys, PolicySet
from nexus_auth.domain.ports import Headers
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.verifier import CertificateVerifier
from tests.builders import NOW, a_certificate, a_hotkey, a_key, public_bytes, to_nginx_header
from tests.fakes import FakeClock, FakeRegistry

ALICE = a_hotkey("alice")
CERTIFICATE = to_nginx_header(a_certificate())
HEADER = b"x-client-cert"


class Witness:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[Decision, bytes, bytes]] = []

    def decided(
        self, decision: Decision, *, seconds: float, method: bytes, target: bytes, headers: Headers
    ) -> None:
        self.seen.append((decision, method, target))


class FailingRegistry(FakeRegistry):
    """A registry with a defect."""

    def peek(self, hotkey: object) -> None:
        raise RuntimeError("a defect")


def an_app(
    *,
    registry: FakeRegistry | None = None,
    reuse: timedelta = timedelta(seconds=5),
    clock: FakeClock | None = None,
    trusted_peers: TrustedPeers | None = None,
    policies: Callable[[], PolicySet] = admit_registered,
    **others: Any,
) -> AuthApp:
    """The application, which knows alice."""
    clock = clock or FakeClock()
    gate = Gate(
        verifier=CertificateVerifier(
            registry=registry or FakeRegistry({ALICE: public_bytes(a_key("alice"))}), clock=clock
        ),
        header="X-Client-Cert",
        der_from=der_from_percent_encoded_pem,
        trusted_peers=trusted_peers,
        policies=policies,
        reads_policy_header=True,
    )
    return AuthApp(gate=gate, clock=clock, reuse=reuse, **others)


def at_once(app: AuthApp, headers: Headers) -> Answer | None:
    """What a server gets from the fast path for these headers."""
    claim = app.fast_path.read(headers)
    return None if claim is None else app.fast_path.answer(claim, headers, b"GET", b"/")


def a_scope(*headers: tuple[bytes, bytes], **others: Any) -> Scope:
    """An HTTP request as a server hands it over."""
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": list(headers),
        "client": ("10.0.0.7", 1234),
        **others,
    }


async def ask(app: AuthApp, scope: Scope) -> tuple[int, dict[str, str], bytes]:
    """Makes one request; status, headers, body."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body is nobody's business")

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, body = sent
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    names = [name for name, _ in start["headers"]]
    assert len(set(names)) == len(names)
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, body["body"]


async def test_registered_caller_is_granted() -> None:
    """Status, headers and body are those of the contract, and no others."""
    assert await ask(an_app(), a_scope((HEADER, CERTIFICATE))) == (
        200,
        {
            "x-hotkey": ALICE.address,
            "x-accel-expires": "5",
            "content-length": "14",
            "content-type": "text/plain; charset=utf-8",
        },
        b"Access granted",
    )


REFUSED_HEADERS: list[tuple[list[tuple[bytes, bytes]], DenialReason]] = [
    ([], DenialReason.NO_CERTIFICATE),
    ([(HEADER, b"")], DenialReason.NO_CERTIFICATE),
    ([(HEADER, CERTIFICATE), (HEADER, CERTIFICATE)], DenialReason.NO_CERTIFICATE),
    ([(HEADER, b""), (HEADER, CERTIFICATE)], DenialReason.NO_CERTIFICATE),
    ([(b"X-Client-Cert", CERTIFICATE), (HEADER, CERTIFICATE)], DenialReason.NO_CERTIFICATE),
    ([(b"x_client_cert", CERTIFICATE)], DenialReason.NO_CERTIFICATE),
    ([(b"x-client-cert-2", CERTIFICATE)], DenialReason.NO_CERTIFICATE),
    ([(b"ssl-client-cert", CERTIFICATE)], DenialReason.NO_CERTIFICATE),
    ([(HEADER, CERTIFICATE + b"," + CERTIFICATE)], DenialReason.MALFORMED_CERTIFICATE),
    ([(HEADER, CERTIFICATE + b", " + CERTIFICATE)], DenialReason.MALFORMED_CERTIFICATE),
    ([(HEADER, b"%zz")], DenialReason.BAD_ENCODING),
    ([(HEADER, b"hello")], DenialReason.MALFORMED_CERTIFICATE),
    (
        [(HEADER, CERTIFICATE), (b"transfer-encoding", b"chunked")],
        DenialReason.NO_CERTIFICATE,
    ),
]


@pytest.mark.parametrize(("headers", "reason"), REFUSED_HEADERS)
async def test_anything_but_one_certificate_header_is_refused(
    headers: list[tuple[bytes, bytes]], reason: DenialReason
) -> None:
    """One name, once, one certificate in it; also where the certificate was granted before."""
    app = an_app()
    assert (await ask(app, a_scope((HEADER, CERTIFICATE))))[0] == 200
    status, answered, _ = await ask(app, a_scope(*headers))
    assert (status, answered["x-nexus-auth-reason"]) == (403, reason.value)
    assert "x-hotkey" not in answered
    assert "x-accel-expires" not in answered


async def test_chunked_request_counts_where_the_server_keeps_trailers_out() -> None:
    """Our own server does."""
    scope = a_scope(
        (HEADER, CERTIFICATE),
        (b"transfer-encoding", b"chunked"),
        extensions={HEAD_ONLY: {}},
    )
    assert (await ask(an_app(), scope))[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PROPFIND", "FOO", "get", "CONNECT"])
@pytest.mark.parametrize("path", ["/", "/auth", "/healthz", "/readyz", "/metrics", "*", "/%00"])
async def test_path_and_method_play_no_part(method: str, path: str) -> None:
    """The same certificate, or none, is answered alike everywhere."""
    app = an_app()
    scope = {"method": method, "path": path, "raw_path": path.encode()}
    assert (await ask(app, a_scope((HEADER, CERTIFICATE), **scope)))[0] == 200
    assert (await ask(app, a_scope(**scope)))[0] == 403


async def test_head_request_is_answered_without_a_body() -> None:
    """The headers are those of a GET."""
    status, headers, body = await ask(an_app(), a_scope((HEADER, CERTIFICATE), method="HEAD"))
    assert (status, headers["content-length"], body) == (200, "14", b"")


async def test_defect_ends_in_a_denial() -> None:
    """An exception is no grant, and no 500 either."""
    with structlog.testing.capture_logs() as lines:
        status, headers, body = await ask(
            an_app(registry=FailingRegistry()), a_scope((HEADER, CERTIFICATE))
        )
    assert [line["event"] for line in lines] == ["decision_failed"]
    assert status == 403
    assert headers["x-nexus-auth-reason"] == "registry-unavailable"
    assert body == b"Access denied: Organization not authorized"


async def test_failing_observer_changes_nothing() -> None:
    """A full disk must not turn a decision into an error."""

    class Failing:
        def decided(self, decision: Decision, **_: object) -> None:
            raise OSError("no space left on device")

    with structlog.testing.capture_logs() as lines:
        assert (await ask(an_app(observers=[Failing()]), a_scope((HEADER, CERTIFICATE))))[0] == 200
        assert (await ask(an_app(observers=[Failing()]), a_scope()))[0] == 403
    assert [line["event"] for line in lines] == ["observer_failed"] * 2


async def test_only_trusted_proxies_may_ask() -> None:
    """Everybody else is denied, whatever certificate they send; a unix socket is trusted."""
    app = an_app(trusted_peers=TrustedPeers.parse("10.0.0.0/8"))
    certificate = (HEADER, CERTIFICATE)
    assert (await ask(app, a_scope(certificate)))[0] == 200
    unix = {"client": None, "server": ("/run/nexus-auth/auth.sock", None)}
    assert (await ask(app, a_scope(certificate, **unix)))[0] == 200
    for untrusted in (
        {"client": ("192.0.2.1", 1)},
        # Not known who it is: no address is no unix socket.
        {"client": None},
        {"client": None, "server": None},
        {"client": None, "server": ("10.0.0.1", 8080)},
    ):
        status, headers, _ = await ask(app, a_scope(certificate, **untrusted))
        assert (status, headers["x-nexus-auth-reason"]) == (403, "untrusted-peer")
        assert "x-hotkey" not in headers


async def test_remembered_grant_is_answered_at_once_and_alike() -> None:
    """The short way gives what the long way gives, and only for what was granted before."""
    witness = Witness()
    registry = FakeRegistry({ALICE: public_bytes(a_key("alice"))})
    app = an_app(registry=registry, observers=[witness])
    headers_sent = [(b"Host", b"auth"), (b"X-Client-Cert", CERTIFICATE)]
    assert at_once(app, headers_sent) is None
    status, headers, body = await ask(app, a_scope((HEADER, CERTIFICATE)))
    answer = at_once(app, headers_sent)
    assert answer is not None
    assert (answer.status, answer.body) == (status, body)
    assert {name.decode(): value.decode() for name, value in answer.headers} == headers
    assert [type(decision) for decision, _, _ in witness.seen] == [Granted, Granted]
    for other in ([], headers_sent[:1], [*headers_sent, (HEADER, b"")], headers_sent * 2):
        assert at_once(app, other) is None
    registry.keys[ALICE] = public_bytes(a_key("new"))
    assert at_once(app, headers_sent) is None


@pytest.mark.parametrize("what_ends", ["registration", "certificate"])
async def test_no_grant_may_be_reused_for_longer_than_its_facts_hold(what_ends: str) -> None:
    """To the second, however the answer came about, and also where a written one is reused."""
    clock = FakeClock()
    ends, later = NOW + timedelta(seconds=9), NOW + timedelta(days=1)
    by_certificate = what_ends == "certificate"
    sent = (HEADER, to_nginx_header(a_certificate(not_after=ends if by_certificate else later)))
    registry = FakeRegistry(
        {ALICE: public_bytes(a_key("alice"))}, expires_at=later if by_certificate else ends
    )
    app = an_app(registry=registry, clock=clock)

    def worth() -> str | None:
        left = min(5, int((ends - clock.now).total_seconds()))
        return str(left) if left else None

    await ask(app, a_scope(sent))
    # First with nothing but what was written before; then written anew each time.
    for is_written_anew in (False, True):
        for quarter in range(9 * 4 + 1):
            clock.now = NOW + timedelta(seconds=quarter / 4)
            if is_written_anew:
                _, headers, _ = await ask(app, a_scope(sent))
                assert headers.get("x-accel-expires") == worth()
            answer = at_once(app, [sent])
            assert answer is not None
            reuse = dict(answer.headers).get(b"x-accel-expires")
            assert (reuse.decode() if reuse else None) == worth()


async def test_written_answer_is_reused_until_there_is_news() -> None:
    """The same caller and the same facts get the same object; other facts never do."""
    clock = FakeClock()
    registry = FakeRegistry({ALICE: public_bytes(a_key("alice"))})
    app = an_app(registry=registry, clock=clock, grant_headers=frozenset(GrantHeader))
    sent = [(HEADER, CERTIFICATE)]
    await ask(app, a_scope(*sent))
    first = at_once(app, sent)
    assert first is not None
    clock.advance(minutes=5)
    assert at_once(app, sent) is first
    registry.neurons = {ALICE: RICH}
    richer = at_once(app, sent)
    assert richer is not None
    assert dict(richer.headers)[b"x-hotkey-uid"] == b"7"
    registry.expires_at = clock.now + timedelta(seconds=3)
    ending = at_once(app, sent)
    assert ending is not None
    assert dict(ending.headers)[b"x-accel-expires"] == b"3"


async def test_claim_is_decided_anew_and_answered_alike() -> None:
    """What was read in a head can be used again; the registry is looked at all the same."""
    registry = FakeRegistry({ALICE: public_bytes(a_key("alice"))})
    app = an_app(registry=registry)
    headers_sent = [(b"Host", b"auth"), (b"X-Client-Cert", CERTIFICATE)]
    claim = app.fast_path.read(headers_sent)
    assert claim is not None
    assert app.fast_path.answer(claim, headers_sent, b"GET", b"/") is None
    await ask(app, a_scope((HEADER, CERTIFICATE)))
    first = app.fast_path.answer(claim, headers_sent, b"GET", b"/")
    assert first is not None
    assert app.fast_path.answer(claim, headers_sent, b"GET", b"/") == first
    registry.keys[ALICE] = public_bytes(a_key("new"))
    assert app.fast_path.answer(claim, headers_sent, b"GET", b"/") is None


POLICIES = PolicySet(
    policies={
        "open": AccessPolicy(name="open"),
        "closed": AccessPolicy(name="closed", rules=(OnlyHotkeys(frozenset()),)),
        "rich": AccessPolicy(name="rich", rules=(MinStake(StakeKind.TOTAL, 1000),)),
    },
    default="open",
)
POLICY = b"x-nexus-auth-policy"


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ([], None),
        ([(POLICY, b"open")], None),
        ([(b"X-Nexus-Auth-Policy", b" open\t")], None),
        ([(POLICY, b"closed")], "is not on the list of allowed hotkeys"),
        ([(b"X-Nexus-Auth-Policy", b"closed")], "is not on the list of allowed hotkeys"),
        ([(POLICY, b"rich")], "has no uid on the subnet"),
        ([(POLICY, b"")], "the policy that was asked for does not exist"),
        ([(POLICY, b"openx")], "the policy that was asked for does not exist"),
        ([(POLICY, b"Open")], "the policy that was asked for does not exist"),
        ([(POLICY, b"open, open")], "the policy that was asked for does not exist"),
        ([(POLICY, b"o\xf6en")], "the policy that was asked for does not exist"),
        ([(POLICY, b"open"), (POLICY, b"open")], "more than one policy was asked for"),
        ([(POLICY, b"open"), (b"X-NEXUS-AUTH-POLICY", b"")], "more than one policy was asked for"),
        # Other headers, whatever they look like.
        ([(b"x_nexus_auth_policy", b"closed"), (b"x-nexus-auth-polic", b"closed")], None),
    ],
)
async def test_proxy_chooses_the_policy_by_one_header(
    headers: list[tuple[bytes, bytes]], detail: str | None
) -> None:
    """One known name chooses, none means the default, anything else refuses; on both ways."""
    witness = Witness()
    app = an_app(policies=lambda: POLICIES, observers=[witness])
    for _ in range(2):  # Parsed, then remembered.
        status, answered, _body = await ask(app, a_scope((HEADER, CERTIFICATE), *headers))
        remembered = at_once(app, [(HEADER, CERTIFICATE), *headers])
        if detail is None:
            assert status == 200
            assert remembered is not None
        else:
            assert (status, answered["x-nexus-auth-reason"]) == (403, "not-permitted")
            assert "x-hotkey" not in answered
            assert "x-accel-expires" not in answered
            assert remembered is None
            decision = witness.seen[-1][0]
            assert isinstance(decision, Denied)
            assert decision.detail == detail
        # In between, another location lets the same caller in.
        status, _, _ = await ask(app, a_scope((HEADER, CERTIFICATE)))
        assert status == 200


async def test_policy_is_asked_every_time() -> None:
    """A policy that was replaced counts from that moment, for callers that are remembered too."""
    policies = [POLICIES]
    app = an_app(policies=lambda: policies[-1])
    sent = [(HEADER, CERTIFICATE)]
    await ask(app, a_scope(*sent))
    assert at_once(app, sent) is not None
    policies.append(PolicySet(policies=POLICIES.policies, default="closed"))
    assert at_once(app, sent) is None
    status, headers, _ = await ask(app, a_scope((HEADER, CERTIFICATE)))
    assert (status, headers["x-nexus-auth-reason"]) == (403, "not-permitted")


RICH = Neuron(uid=7, validator_permit=True, active=True, alpha=1.0, tao=2.0, total=1234567.5)
WHOLE = Neuron(uid=8, validator_permit=True, active=True, alpha=1.0, tao=2.0, total=1200.0)
POOR = Neuron(uid=65535, validator_permit=False, active=True, alpha=0.0, tao=0.0, total=1e-9)


@pytest.mark.parametrize(
    ("neuron", "tell", "told"),
    [
        (RICH, set(), {}),
        (RICH, {GrantHeader.UID}, {"x-hotkey-uid": "7"}),
        (
            RICH,
            set(GrantHeader),
            {
                "x-hotkey-uid": "7",
                "x-hotkey-validator": "true",
                "x-hotkey-stake": "1234567.5",
            },
        ),
        (WHOLE, {GrantHeader.STAKE}, {"x-hotkey-stake": "1200"}),
        (
            POOR,
            {GrantHeader.VALIDATOR, GrantHeader.STAKE},
            {"x-hotkey-validator": "false", "x-hotkey-stake": "0.000000001"},
        ),
        (None, set(GrantHeader), {}),
    ],
)
async def test_grant_tells_what_is_asked_for_and_known(
    neuron: Neuron | None, tell: set[GrantHeader], told: dict[str, str]
) -> None:
    """The application learns of the caller's place in the subnet where it wants to."""
    registry = FakeRegistry({ALICE: public_bytes(a_key("alice"))})
    if neuron is not None:
        registry.neurons = {ALICE: neuron}
    app = an_app(registry=registry, grant_headers=frozenset(tell))
    status, headers, _ = await ask(app, a_scope((HEADER, CERTIFICATE)))
    assert status == 200
    assert {name: value for name, value in headers.items() if "hotkey-" in name} == told
    assert headers["x-accel-expires"] == "5"


async def test_observer_sees_the_request_as_it_was_written() -> None:
    """Method and target, with the query."""
    witness = Witness()
    await ask(an_app(observers=[witness]), a_scope(raw_path=b"/a%20b", query_string=b"c=d"))
    ((decision, method, target),) = witness.seen
    assert isinstance(decision, Denied)
    assert (method, target) == (b"GET", b"/a%20b?c=d")


@pytest.mark.parametrize(
    ("method", "path", "seen"),
    [("GET", "/ä", (b"GET", "/ä".encode())), ("GÉT€", "/", (b"G\xc9T?", b"/"))],
)
async def test_observer_sees_bytes_whatever_the_server_gives(
    method: str, path: str, seen: tuple[bytes, bytes]
) -> None:
    """ASGI servers may leave out the raw path; a method of any characters is no defect."""
    witness = Witness()
    app = an_app(observers=[witness])
    await ask(app, a_scope((HEADER, CERTIFICATE), method=method, path=path, raw_path=None))
    assert [(type(decision), (method, target)) for decision, method, target in witness.seen] == [
        (Granted, seen)
    ]


class Stopwatch:
    """An observer that remembers the rest of what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, Headers]] = []

    def decided(
        self, decision: Decision, *, seconds: float, method: bytes, target: bytes, headers: Headers
    ) -> None:
        self.seen.append((seconds, headers))


async def test_observer_learns_how_long_the_decision_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its begin to its end, on both ways."""
    ticks = itertools.count(100.0, 0.25)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    stopwatch = Stopwatch()
    app = an_app(observers=[stopwatch])
    sent = [(HEADER, CERTIFICATE)]
    await ask(app, a_scope(*sent))
    assert at_once(app, sent) is not None
    assert stopwatch.seen == [(0.25, sent), (0.25, sent)]


def test_request_that_was_not_even_parsed_is_denied_and_observed() -> None:
    """A server that reads no more of it says why; nothing of the request is repeated."""
    witness, stopwatch = Witness(), Stopwatch()
    fast_path, reason = (
        an_app(observers=[witness, stopwatch]).fast_path,
        DenialReason.MALFORMED_CERTIFICATE,
    )
    answer = fast_path.deny_unread(reason, "an odd line end", b"GET", b"/a")
    denied = Denied(reason=reason, detail="an odd line end")
    assert answer == DENIALS[DenialReason.MALFORMED_CERTIFICATE]
    assert witness.seen == [(denied, b"GET", b"/a")]
    assert stopwatch.seen == [(0.0, ())]


async def test_written_answers_are_bounded_and_the_oldest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many certificates one caller makes, and however often each comes."""
    monkeypatch.setattr(module, "_ANSWERS_KEPT", 2)
    registry = FakeRegistry({ALICE: public_bytes(a_key("alice"))})
    app = an_app(registry=registry)
    sent = [
        [(HEADER, to_nginx_header(a_certificate(serial_number=number)))] for number in (1, 2, 3)
    ]
    answers = []
    for each in sent[:2]:
        await ask(app, a_scope(*each))
        answers.append(at_once(app, each))
    assert [at_once(app, each) is answer for each, answer in zip(sent, answers, strict=False)] == [
        True,
        True,
    ]
    # Written anew, it is the newest.
    registry.expires_at += timedelta(seconds=1)
    renewed = at_once(app, sent[0])
    await ask(app, a_scope(*sent[2]))
    assert at_once(app, sent[2]) is not None
    assert len(app._written) == 2
    assert at_once(app, sent[0]) is renewed


async def test_websocket_is_refused() -> None:
    """Nothing else than HTTP is spoken here."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    await an_app()(a_scope((HEADER, CERTIFICATE), type="websocket"), receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("fails", [False, True])
async def test_lifespan_opens_and_closes_the_registry(*, fails: bool) -> None:
    """What the decisions need is open before the first of them; a failure ends the start."""
    seen: list[str] = []
    sent: list[Message] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        if fails:
            raise RuntimeError("cannot open")
        seen.append("open")
        yield
        seen.append("closed")

    async def receive() -> Message:
        seen.append("asked")
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        seen.append(message["type"])
        sent.append(message)

    with structlog.testing.capture_logs() as lines:
        await an_app(lifespan=lifespan)({"type": "lifespan"}, receive, send)
    assert [line["event"] for line in lines] == ["lifespan_failed"] * fails
    if fails:
        assert seen == ["asked", "lifespan.startup.failed"]
        assert sent[-1]["message"] == "see the log"
    else:
        assert seen == [
            "asked",
            "open",
            "lifespan.startup.complete",
            "asked",
            "closed",
            "lifespan.shutdown.complete",
        ]


async def test_lifespan_without_anything_to_open_starts_and_ends() -> None:
    """Where what the decisions need is opened elsewhere."""
    seen: list[str] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        seen.append(message["type"])

    await an_app()({"type": "lifespan"}, receive, send)
    assert seen == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
