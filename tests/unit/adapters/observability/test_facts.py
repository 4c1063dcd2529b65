"""What is written about decisions and their requests."""

from __future__ import annotations

import re

import pytest

from nexus_auth.adapters.observability.facts import (
    RequestView,
    client_request,
    decision_facts,
)
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.reasons import DenialReason
from tests.builders import NOW, a_hotkey


def test_facts_of_a_grant() -> None:
    """The hotkey that proved itself, and with which certificate."""
    granted = Granted(hotkey=a_hotkey("alice"), fingerprint="aa", expires_at=NOW)
    assert decision_facts(granted) == {
        "outcome": "granted",
        "code": "granted",
        "hotkey": a_hotkey("alice").address,
        "certificate": "aa",
    }


def test_facts_of_a_denial_that_names_no_hotkey() -> None:
    """What is not known is None, and is not left out: log lines have the same fields."""
    assert decision_facts(Denied(reason=DenialReason.NO_CERTIFICATE, detail="none")) == {
        "outcome": "denied",
        "code": "no-certificate",
        "detail": "none",
        "hotkey": None,
        "certificate": None,
    }


@pytest.mark.parametrize(
    ("headers", "uri", "method"),
    [
        ((), "/auth", "GET"),
        ([(b"X-Forwarded-Uri", b"/f"), (b"X-Forwarded-Method", b"PUT")], "/f", "PUT"),
        ([(b"x-forwarded-uri", b"/f"), (b"x-original-uri", b"/o")], "/o", "GET"),
        ([(b"x-original-uri", b"/same"), (b"X-Original-URI", b"/same")], "/same", "GET"),
        # One of them may be the client's: neither is believed.
        ([(b"x-original-uri", b"/first"), (b"x-original-uri", b"/second")], "/auth", "GET"),
        ([(b"x-original-method", b"A"), (b"X-Original-Method", b"B")], "/auth", "GET"),
        ([(b"x-original-uri", b"/\xff\xe2\x80\xae")], "/\\xff\\xe2\\x80\\xae", "GET"),
        ([(b"x-original-uri", b"a" * 600)], "a" * 512 + "… (600 bytes)", "GET"),
        ([(b"x-original-method", b"M" * 33)], "/auth", "M" * 32 + "… (33 bytes)"),
    ],
)
def test_original_request_is_described_within_bounds(
    headers: list[tuple[bytes, bytes]], uri: str, method: str
) -> None:
    """What the proxy says of the client's request, never longer than is useful."""
    request = client_request(b"GET", b"/auth", headers)
    assert (request["uri"], request["method"]) == (uri, method)


@pytest.mark.parametrize(
    "given",
    [
        b"d9428888122b11e1b85c61cd3cbb3210",
        b"1-5759e988-bd862e3fe1be46a994272793",
        b"host/abcDEF-000001",
        b"x" * 128,
    ],
)
def test_request_id_of_the_proxy_is_taken_over(given: bytes) -> None:
    """So that our line can be found from the proxy's, and the other way round."""
    assert client_request(b"GET", b"/", [(b"x-request-id", given)])["request_id"] == given.decode()


def test_request_id_of_two_hands_is_not_taken_over() -> None:
    """A proxy that adds its own to the client's says nothing about which is which."""
    twice = [(b"x-request-id", b"clients"), (b"x-request-id", b"proxys")]
    assert client_request(b"GET", b"/", twice)["request_id"] not in {"clients", "proxys"}


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"/a?token=s3cret&x=/?", ()),
        (b"/a?", ()),
        (b"/sub", [(b"x-original-uri", b"/a?token=s3cret")]),
        (b"/sub", [(b"x-forwarded-uri", b"/a?token=s3cret?")]),
    ],
)
def test_query_is_left_out_unless_asked_for(
    target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Applications put tokens there: wherever the URI came from, it ends before the query."""
    assert client_request(b"GET", target, headers)["uri"] == "/a"
    whole = client_request(b"GET", target, headers, with_query=True)["uri"]
    assert whole.startswith("/a?")
    view = RequestView(with_query=True)
    assert view.facts(UNTRUSTED, b"GET", target, headers)["uri"] == whole
    assert RequestView().facts(UNTRUSTED, b"GET", target, headers)["uri"] == "/a"


UNTRUSTED = Denied(reason=DenialReason.UNTRUSTED_PEER, detail="the peer is no trusted proxy")


@pytest.mark.parametrize("knows_proxies", [True, False])
def test_only_a_trusted_proxy_vouches(*, knows_proxies: bool) -> None:
    """Where none is named, or another peer asked, the words may be anybody's."""
    view = RequestView(knows_proxies=knows_proxies)
    no_certificate = Denied(reason=DenialReason.NO_CERTIFICATE, detail="none")
    granted = Granted(hotkey=a_hotkey("alice"), fingerprint="aa", expires_at=NOW)
    for decision, expected in (
        (UNTRUSTED, False),
        (no_certificate, knows_proxies),
        (granted, knows_proxies),
    ):
        assert view.facts(decision, b"GET", b"/", ())["vouched"] is expected


@pytest.mark.parametrize("given", [None, b"", b"x" * 129, b"a b", b"a\nb", b'a"b', b"\xff"])
def test_request_id_is_made_where_none_is_usable(given: bytes | None) -> None:
    """Every line has one, and none holds what could be mistaken for something else."""
    headers = [] if given is None else [(b"x-request-id", given)]
    made = {client_request(b"GET", b"/", headers)["request_id"] for _ in range(3)}
    assert len(made) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)


@pytest.mark.parametrize(
    ("headers", "policy"),
    [
        ([], None),
        ([(b"X-Nexus-Auth-Policy", b"team")], "team"),
        (
            [(b"x-nexus-auth-policy", b"\x1b[2J" + 99 * b"a")],
            "\x1b[2J" + 60 * "a" + "… (103 bytes)",
        ),
    ],
)
def test_policy_that_the_proxy_chose_is_named(
    headers: list[tuple[bytes, bytes]], policy: str | None
) -> None:
    """A caller that is denied at one location may be granted entry at another."""
    assert client_request(b"GET", b"/", headers).get("policy") == policy


NAMES = [(b"X-Client-Cert-Subject", b"CN=a,O=b"), (b"x-client-cert-issuer", b"O=c")]


@pytest.mark.parametrize(
    ("headers", "subject", "issuer"),
    [
        ([], None, None),
        (NAMES, "CN=a,O=b", "O=c"),
        (NAMES[:1], "CN=a,O=b", None),
        # One of them may be the client's: neither is repeated.
        ([*NAMES, (b"x-client-cert-subject", b"O=other")], None, "O=c"),
        ([(b"X-Client-Cert-Subject", b"O=\xff\xe2\x80\xae")], "O=\\xff\\xe2\\x80\\xae", None),
        ([(b"X-Client-Cert-Issuer", b"i" * 300)], None, "i" * 256 + "… (300 bytes)"),
    ],
)
def test_names_in_the_certificate_are_the_proxys_word(
    headers: list[tuple[bytes, bytes]], subject: str | None, issuer: str | None
) -> None:
    """Only where it sends them, within bounds, under names that say whose words they are."""
    request = client_request(b"GET", b"/", headers)
    assert (request.get("proxy_subject"), request.get("proxy_issuer")) == (subject, issuer)
    assert set(request) <= {"request_id", "method", "uri", "proxy_subject", "proxy_issuer"}


def test_names_from_a_peer_that_is_no_proxy_are_left_out() -> None:
    """They would not be the proxy's words. Where no proxy is named, `vouched` says so."""
    no_certificate = Denied(reason=DenialReason.NO_CERTIFICATE, detail="none")
    view = RequestView(knows_proxies=True)
    assert not {"proxy_subject", "proxy_issuer"} & set(view.facts(UNTRUSTED, b"GET", b"/", NAMES))
    trusted = view.facts(no_certificate, b"GET", b"/", NAMES)
    assert (trusted["proxy_subject"], trusted["vouched"]) == ("CN=a,O=b", True)
    unknown = RequestView().facts(no_certificate, b"GET", b"/", NAMES)
    assert (unknown["proxy_subject"], unknown["vouched"]) == ("CN=a,O=b", False)
