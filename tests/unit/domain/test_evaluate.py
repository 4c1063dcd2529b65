"""The checks 7 to 12. What each denies, and in which order, the verifier's tests say in tables."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.evaluate import DEFAULT_LEEWAY, build_standing_grant, evaluate
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.policy import (
    ADMIT_REGISTERED,
    AccessPolicy,
    NotHotkeys,
    RequireValidatorPermit,
)
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.reasons import DenialReason
from tests.builders import NOW, a_certificate, a_hotkey, a_key, public_bytes, to_der

ALICE = a_hotkey()
CERTIFICATE = ClientCertificate.from_der(to_der(a_certificate()))
FOR_ALL_TIME = dataclasses.replace(
    CERTIFICATE,
    not_before=datetime.min.replace(tzinfo=UTC),
    not_after=datetime.max.replace(tzinfo=UTC),
)
MOMENTS = tuple(
    moment + away
    for moment in (NOW, CERTIFICATE.not_before, CERTIFICATE.not_after)
    for leeway in (-DEFAULT_LEEWAY, timedelta(0), DEFAULT_LEEWAY)
    for away in (leeway - timedelta(microseconds=1), leeway, leeway + timedelta(microseconds=1))
)
POLICIES = (
    ADMIT_REGISTERED,
    AccessPolicy(name="not-alice", rules=(NotHotkeys(frozenset({ALICE})),)),
    AccessPolicy(name="validators", rules=(RequireValidatorPermit(),)),
)
NEURONS = tuple(
    Neuron(uid=7, validator_permit=permit, active=True, alpha=1.0, tao=2.0, total=3.0)
    for permit in (True, False)
)
REGISTRATIONS = tuple(
    Registration(public_key=public_bytes(a_key(name)), expires_at=NOW + end, neuron=neuron)
    for name in ("alice", "bob")
    for end in (timedelta(minutes=1), timedelta(days=9000))
    for neuron in (*NEURONS, None)
)


@given(
    first=st.sampled_from(REGISTRATIONS),
    later=st.sampled_from(REGISTRATIONS),
    moment=st.sampled_from(MOMENTS),
    policies=st.tuples(st.sampled_from(POLICIES), st.sampled_from(POLICIES)),
    leeway=st.sampled_from([timedelta(0), DEFAULT_LEEWAY]),
    certificate=st.sampled_from([CERTIFICATE, FOR_ALL_TIME]),
)
@example(
    first=REGISTRATIONS[0],
    later=REGISTRATIONS[0],
    moment=NOW,
    policies=(ADMIT_REGISTERED, ADMIT_REGISTERED),
    leeway=DEFAULT_LEEWAY,
    certificate=CERTIFICATE,
)
def test_standing_grant_holds_only_where_it_would_be_given_again(
    *,
    first: Registration,
    later: Registration,
    moment: datetime,
    policies: tuple[AccessPolicy, AccessPolicy],
    leeway: timedelta,
    certificate: ClientCertificate,
) -> None:
    """The short way never grants what the long way would not, and gives the same grant."""
    granted = evaluate(
        certificate, first, NOW, leeway=leeway, policy=policies[0], already_proven=True
    )
    if not isinstance(granted, Granted):
        return
    standing = build_standing_grant(granted, certificate, first, leeway=leeway)
    if standing.holds(later, moment, policies[1]):
        assert granted == evaluate(
            certificate, later, moment, leeway=leeway, policy=policies[1], already_proven=True
        )


def test_standing_grant_holds_where_nothing_has_changed() -> None:
    """From the leeway's begin to the certificate's end; another registration is evaluated anew."""
    registration = REGISTRATIONS[0]
    granted = evaluate(CERTIFICATE, registration, NOW, already_proven=True)
    assert isinstance(granted, Granted)
    standing = build_standing_grant(granted, CERTIFICATE, registration)
    begin, end = CERTIFICATE.not_before - DEFAULT_LEEWAY, CERTIFICATE.not_after
    assert standing.holds(registration, NOW, ADMIT_REGISTERED)
    assert standing.holds(registration, begin, ADMIT_REGISTERED)
    assert not standing.holds(registration, begin - timedelta(microseconds=1), ADMIT_REGISTERED)
    assert standing.holds(registration, end, ADMIT_REGISTERED)
    assert not standing.holds(registration, end + timedelta(microseconds=1), ADMIT_REGISTERED)
    assert not standing.holds(dataclasses.replace(registration), NOW, ADMIT_REGISTERED)
    assert not standing.holds(registration, NOW, POLICIES[1])


def test_evaluate_alone_never_skips_the_signature() -> None:
    """Whoever calls it without a proof gets the proof made; a forged certificate is denied."""
    forged = ClientCertificate.from_der(to_der(a_certificate(signed_by=a_key("mallory"))))
    denied = evaluate(forged, REGISTRATIONS[0], NOW)
    assert isinstance(denied, Denied)
    assert denied.reason is DenialReason.BAD_SIGNATURE
    assert isinstance(evaluate(CERTIFICATE, REGISTRATIONS[0], NOW), Granted)


def test_clocks_may_differ_by_five_minutes_unless_told_otherwise() -> None:
    """The default leeway is a figure of the contract."""
    assert timedelta(seconds=300) == DEFAULT_LEEWAY


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("deviation", "leeway", "reason"),
    [
        ({}, MINUTE, None),
        ({"not_before": NOW + MINUTE}, MINUTE, None),
        ({"not_before": NOW + 2 * MINUTE}, MINUTE, DenialReason.NOT_YET_VALID),
        ({"not_before": NOW + 2 * MINUTE}, 2 * MINUTE, None),
        ({"not_after": NOW - timedelta(days=1)}, MINUTE, DenialReason.EXPIRED),
        ({"usage_problem": "it is a CA certificate"}, MINUTE, DenialReason.WRONG_USAGE),
    ],
)
def test_evaluate_takes_the_checks_of_the_certificate_alone(
    deviation: dict[str, object], leeway: timedelta, reason: DenialReason | None
) -> None:
    """The checks 7 and 8, with the leeway that the caller names; a proof changes nothing there."""
    certificate = dataclasses.replace(CERTIFICATE, **deviation)  # type: ignore[arg-type] # Mixed.
    for proven in (False, True):
        decision = evaluate(
            certificate, REGISTRATIONS[0], NOW, leeway=leeway, already_proven=proven
        )
        assert (decision.reason if isinstance(decision, Denied) else None) is reason
