"""The one path from a request to a decision; what its users make of it has tests of its own."""

from __future__ import annotations

from typing import Any

import pytest
import structlog.testing
from starlette.types import Scope

from nexus_auth.adapters.headers.formats import der_from_percent_encoded_pem
from nexus_auth.adapters.starlette.gate import (
    HEAD_ONLY,
    REWRITTEN_DETAIL,
    TRAILERS_DETAIL,
    UNTRUSTED_DETAIL,
    Claim,
    Gate,
    may_hold_trailers,
)
from nexus_auth.adapters.starlette.trusted_peers import TrustedPeers
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.policy import AccessPolicy, OnlyHotkeys, PolicySet
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.verifier import CertificateVerifier
from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_nginx_header
from tests.fakes import FakeClock, FakeRegistry


@pytest.mark.parametrize(
    ("headers", "extensions", "expected"),
    [
        ([], None, False),
        ([(b"content-length", b"3")], {}, False),
        ([(b"transfer-encoding", b"chunked")], None, True),
        ([(b"transfer-encoding", b"chunked")], {"tls": {}}, True),
        ([(b"transfer-encoding", b"gzip, chunked")], {}, True),
        ([(b"transfer-encoding", b"chunked")], {HEAD_ONLY: {}}, False),
    ],
)
def test_chunked_request_may_have_trailers_unless_the_server_promises(
    headers: list[tuple[bytes, bytes]], extensions: dict[str, Any] | None, *, expected: bool
) -> None:
    """Nothing but a chunked body has any in HTTP/1.1."""
    assert may_hold_trailers(headers, extensions) is expected
    assert may_hold_trailers(headers) is (expected or extensions == {HEAD_ONLY: {}})


ALICE = a_hotkey("alice")
CERTIFICATE = to_nginx_header(a_certificate())
HEADER = (b"X-Client-Cert", CERTIFICATE)
POLICIES = PolicySet(
    policies={
        "open": AccessPolicy(name="open"),
        "closed": AccessPolicy(name="closed", rules=(OnlyHotkeys(frozenset()),)),
    },
    default="open",
)


def a_gate(**others: Any) -> Gate:
    """A gate that believes 10.0.0.0/8, and knows alice."""
    verifier = CertificateVerifier(
        registry=FakeRegistry({ALICE: public_bytes(a_key("alice"))}), clock=FakeClock()
    )
    arguments: dict[str, Any] = {
        "verifier": verifier,
        "header": "X-Client-Cert",
        "der_from": der_from_percent_encoded_pem,
        "trusted_peers": TrustedPeers.parse("10.0.0.0/8"),
        "policies": lambda: POLICIES,
    }
    return Gate(**(arguments | others))


def a_scope(*headers: tuple[bytes, bytes], **others: Any) -> Scope:
    """A request of a trusted peer."""
    return {"type": "http", "headers": list(headers), "client": ("10.0.0.7", 1234), **others}


async def test_registered_caller_of_a_trusted_peer_is_granted() -> None:
    """The one way through."""
    decision = await a_gate().decide(a_scope(HEADER))
    assert isinstance(decision, Granted)
    assert decision.hotkey == ALICE


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (a_scope(HEADER, client=("192.0.2.1", 1)), DenialReason.UNTRUSTED_PEER),
        (a_scope(HEADER, client=None), DenialReason.UNTRUSTED_PEER),
        ({"type": "http", "headers": [HEADER]}, DenialReason.UNTRUSTED_PEER),
        (a_scope(HEADER, (b"Transfer-Encoding", b"chunked")), DenialReason.NO_CERTIFICATE),
        (a_scope(), DenialReason.NO_CERTIFICATE),
        (a_scope(HEADER, HEADER), DenialReason.NO_CERTIFICATE),
        (a_scope(HEADER, (b"x-client-cert", b"")), DenialReason.NO_CERTIFICATE),
        (a_scope((b"X-Client-Cert", b"")), DenialReason.NO_CERTIFICATE),
        (a_scope((b"X-Client-Cert", b"%zz")), DenialReason.BAD_ENCODING),
    ],
)
async def test_anything_else_is_denied(scope: Scope, reason: DenialReason) -> None:
    """Checks 0 to 2, one step away from the grant."""
    decision = await a_gate().decide(scope)
    assert isinstance(decision, Denied)
    assert decision.reason is reason


@pytest.mark.parametrize(
    ("scope", "detail", "remedy"),
    [
        (a_scope(HEADER, client=("10.0.0.7", 0)), REWRITTEN_DETAIL, "--no-proxy-headers"),
        (a_scope(HEADER, client=("192.0.2.1", 0)), REWRITTEN_DETAIL, "--no-proxy-headers"),
        (
            a_scope(HEADER, (b"X-Forwarded-For", b"10.0.0.7"), (b"X-Forwarded-Port", b"1234")),
            REWRITTEN_DETAIL,
            "--no-proxy-headers",
        ),
        (a_scope(HEADER, client=None, server=None), UNTRUSTED_DETAIL, "uvicorn alone"),
        (a_scope(HEADER, client=("", "0")), UNTRUSTED_DETAIL, "uvicorn alone"),
        (a_scope(HEADER, client=("192.0.2.1", 1)), UNTRUSTED_DETAIL, None),
        (a_scope(HEADER, client=None, server=("10.0.0.1", 80)), UNTRUSTED_DETAIL, None),
    ],
)
async def test_peer_that_a_header_may_have_named_is_not_believed(
    scope: Scope, detail: str, remedy: str | None
) -> None:
    """Where the server is the cause, the log says once what to change."""
    gate = a_gate()
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            decision = await gate.decide(scope)
            assert isinstance(decision, Denied)
            assert decision.reason is DenialReason.UNTRUSTED_PEER
            assert decision.detail == detail
    assert [line["event"] for line in lines] == (["peer_not_believed"] if remedy else [])
    assert all(remedy in line["problem"] for line in lines)


async def test_server_that_vouches_for_the_peer_is_believed() -> None:
    """The service's own protocol takes no peer from a header, whatever stands in one."""
    forwarded = [(b"X-Forwarded-For", b"10.0.0.7"), (b"X-Forwarded-Port", b"1234")]
    vouched: dict[str, Any] = {HEAD_ONLY: {}}
    gate = a_gate()
    assert isinstance(await gate.decide(a_scope(HEADER, *forwarded)), Denied)
    assert isinstance(await gate.decide(a_scope(HEADER, *forwarded, extensions=vouched)), Granted)
    decision = await gate.decide(
        a_scope(HEADER, *forwarded, extensions=vouched, client=("192.0.2.1", 1))
    )
    assert isinstance(decision, Denied)
    with structlog.testing.capture_logs() as lines:
        decision = await a_gate().decide(a_scope(HEADER, extensions=vouched, client=None))
    assert isinstance(decision, Denied)
    assert not lines  # Another server would be no remedy.


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ((), "0 certificate headers, expected one"),
        ((HEADER, HEADER, (b"x-other", b"")), "2 certificate headers, expected one"),
        ((HEADER, (b"transfer-encoding", b"chunked")), TRAILERS_DETAIL),
    ],
)
async def test_denial_says_what_was_wrong_with_the_headers(
    headers: tuple[tuple[bytes, bytes], ...], detail: str
) -> None:
    """For the log: all of these have one code."""
    decision = await a_gate().decide(a_scope(*headers))
    assert isinstance(decision, Denied)
    assert decision.detail == detail


@pytest.mark.parametrize("size", range(1, 40))
async def test_no_other_header_is_the_certificate(size: int) -> None:
    """Whatever its length, that of the right one included; and it changes nothing beside that."""
    other = (b"x-" * 20)[:size], CERTIFICATE
    gate = a_gate()
    assert gate.read([other]) is None
    assert gate.read([other, HEADER]) == Claim(CERTIFICATE, ())
    assert isinstance(await gate.decide(a_scope(other)), Denied)
    assert isinstance(await gate.decide(a_scope(other, HEADER)), Granted)


async def test_peer_is_checked_before_anything_is_read() -> None:
    """What an untrusted peer sends is not even counted."""
    decision = await a_gate().decide(a_scope(HEADER, HEADER, client=("192.0.2.1", 1)))
    assert isinstance(decision, Denied)
    assert decision.reason is DenialReason.UNTRUSTED_PEER


@pytest.mark.parametrize(
    ("reads_policy_header", "reason"), [(True, DenialReason.NOT_PERMITTED), (False, None)]
)
async def test_policy_header_counts_where_it_is_read(
    reads_policy_header: bool,  # noqa: FBT001 - a table
    reason: DenialReason | None,
) -> None:
    """An application has one policy, and no header chooses another; later grants are alike."""
    gate = a_gate(reads_policy_header=reads_policy_header)
    headers = [HEADER, (b"X-Nexus-Auth-Policy", b"closed")]
    assert isinstance(await gate.decide(a_scope(HEADER)), Granted)
    decision = await gate.decide(a_scope(*headers))
    claim = gate.read(headers)
    assert claim is not None
    remembered = gate.decide_remembered(claim)
    if reason is None:
        assert isinstance(decision, Granted)
        assert remembered is not None
    else:
        assert isinstance(decision, Denied)
        assert decision.reason is reason
        assert remembered is None


async def test_no_header_chooses_a_policy_unless_told_so() -> None:
    """A gate that nobody asked to read it reads none: a client could send it."""
    headers = [HEADER, (b"X-Nexus-Auth-Policy", b"closed")]
    assert a_gate().read(headers) == Claim(CERTIFICATE) == Claim(CERTIFICATE, ())
    assert isinstance(await a_gate().decide(a_scope(*headers)), Granted)


def test_name_of_the_extension_is_fixed() -> None:
    """Servers other than ours may offer it."""
    assert HEAD_ONLY == "nexus_auth.head_only"


async def test_verifier_can_be_found_by_the_connection() -> None:
    """One that lives in the application's lifespan; without a connection there is none."""
    own = a_gate()
    verifier = CertificateVerifier(
        registry=FakeRegistry({ALICE: public_bytes(a_key("alice"))}), clock=FakeClock()
    )
    gate = a_gate(verifier=lambda scope: scope["state"]["verifier"])
    scope = a_scope(HEADER, state={"verifier": verifier})
    assert isinstance(await gate.decide(scope), Granted)
    claim = Claim(CERTIFICATE)
    assert gate.decide_remembered(claim) is None
    assert isinstance(await own.decide(a_scope(HEADER)), Granted)
    assert own.decide_remembered(claim) is not None


@pytest.mark.parametrize("name", [b"X-Client-Cerd", b"y-client-cert", b"X_Client_Cert"])
def test_other_header_of_the_same_length_is_not_the_certificate(name: bytes) -> None:
    """The length is looked at first, and alone proves nothing."""
    gate = a_gate()
    assert gate.read([(name, b"c")]) is None
    assert gate.read([(name, b"d"), (b"X-Client-Cert", b"c"), (name, b"e")]) == Claim(b"c")


@pytest.mark.parametrize("named", [None, TrustedPeers()])
def test_gate_says_whether_peers_are_named(named: TrustedPeers | None) -> None:
    """An empty list names none that is trusted; no list trusts each."""
    gate = a_gate(trusted_peers=named)
    assert gate.has_named_peers is (named is not None)
    assert gate.trusts(("192.0.2.1", 1), None) is (named is None)


async def test_application_without_a_verifier_denies_and_says_so_once() -> None:
    """A setting that is wrong is no grant, and no flood of lines."""

    def find(_: Scope) -> CertificateVerifier:
        raise ConfigurationError(setting="verifier", problem="there is none")

    gate = a_gate(verifier=find)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            decision = await gate.decide(a_scope(HEADER))
            assert isinstance(decision, Denied)
            assert decision.reason is DenialReason.REGISTRY_UNAVAILABLE
    assert [line["event"] for line in lines] == ["no_verifier"]
