"""The checks 7 to 12 of a decision, in their order. Pure.

The checks 0 to 2 are the gate's, the checks 3 to 6 are `ClientCertificate.from_der`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.policy import ADMIT_REGISTERED
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from nexus_auth.domain.certificate import ClientCertificate
    from nexus_auth.domain.policy import AccessPolicy
    from nexus_auth.domain.ports import Registration

DEFAULT_LEEWAY: Final = timedelta(seconds=300)
"""How far the issuer's clock may be ahead of the verifier's."""


def evaluate_alone(
    certificate: ClientCertificate, now: datetime, *, leeway: timedelta = DEFAULT_LEEWAY
) -> Denied | None:
    """Takes the checks 7 and 8, those that need the certificate alone.

    Returns:
        The denial, or None where there is no reason for one yet. None is no grant.
    """
    # 7. Valid now: until the end, which counts to the second (RFC 5280 §4.1.2.5 includes it), as
    #    for every other verifier; from the beginning, within the leeway. `now` is moved, since
    #    the certificate's dates may lie at the very end of what a datetime can hold.
    if now > certificate.not_after or certificate.not_after < certificate.not_before:
        return denied(certificate, DenialReason.EXPIRED, "its validity is over")
    if now + leeway < certificate.not_before:
        return denied(certificate, DenialReason.NOT_YET_VALID, "its validity has not begun")
    # 8. Made for authenticating a client.
    if certificate.usage_problem:
        return denied(certificate, DenialReason.WRONG_USAGE, certificate.usage_problem)
    return None


def evaluate(
    certificate: ClientCertificate,
    registration: Registration | None,
    now: datetime,
    *,
    leeway: timedelta = DEFAULT_LEEWAY,
    policy: AccessPolicy = ADMIT_REGISTERED,
    already_proven: bool = False,
) -> Decision:
    """Decides on a parsed certificate: the checks 7 to 12, in order. Pure.

    Args:
        certificate: What the caller presented.
        registration: What the registry knows of `certificate.hotkey`; None when it is not
            registered.
        now: The time to decide for (aware, UTC).
        leeway: By how much the validity may begin later than now; its end has no leeway.
        policy: Who among the registered may enter.
        already_proven: True only when `certificate.is_self_signed()` was seen to hold for this
            very object; it saves the costly repetition.
    """
    denial = evaluate_alone(certificate, now, leeway=leeway)
    if denial is not None:
        return denial
    return evaluate_registered(certificate, registration, policy, already_proven=already_proven)


def evaluate_registered(
    certificate: ClientCertificate,
    registration: Registration | None,
    policy: AccessPolicy,
    *,
    already_proven: bool,
) -> Decision:
    """Takes the checks 9 to 12, after `evaluate_alone` found nothing; see `evaluate`."""
    # 9. The registry knows the hotkey.
    if registration is None:
        return denied(certificate, DenialReason.NOT_REGISTERED, "the hotkey is not registered")
    # 10. It knows this very key.
    if registration.public_key != certificate.public_key:
        return denied(certificate, DenialReason.KEY_MISMATCH, "another key is registered")
    # 11. The maker of the certificate held the private key.
    if not already_proven and not certificate.is_self_signed():
        return denied(certificate, DenialReason.BAD_SIGNATURE, "not signed with its own key")
    # 12. The policy admits the hotkey.
    objection = policy.objection(certificate.hotkey, registration.neuron)
    if objection is not None:
        return denied(certificate, DenialReason.NOT_PERMITTED, objection)
    return Granted(
        hotkey=certificate.hotkey,
        fingerprint=certificate.fingerprint,
        expires_at=min(certificate.not_after, registration.expires_at),
        neuron=registration.neuron,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StandingGrant:
    """A grant, and all that must be as it was for the same grant to be given again.

    It is no decision: `holds` takes the checks again, but for those whose outcome cannot change
    (a certificate's extensions, and the signature that was seen to verify).
    """

    granted: Granted
    certificate: ClientCertificate
    registration: Registration
    valid_from: datetime
    valid_until: datetime

    def holds(self, registration: Registration, now: datetime, policy: AccessPolicy) -> bool:
        """Whether `evaluate` would give this very grant. False is no denial: then evaluate."""
        return (
            # 9 to 11. The very registration that held this certificate's key; it cannot change.
            registration is self.registration
            # 7. Valid now. (8 cannot change.)
            and self.valid_from <= now <= self.valid_until
            # 12. The policy admits the hotkey.
            and policy.objection(self.granted.hotkey, registration.neuron) is None
        )


_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


def build_standing_grant(
    granted: Granted,
    certificate: ClientCertificate,
    registration: Registration,
    *,
    leeway: timedelta = DEFAULT_LEEWAY,
) -> StandingGrant:
    """Makes a standing grant of what `evaluate` granted, from what it was given."""
    begin = certificate.not_before
    return StandingGrant(
        granted=granted,
        certificate=certificate,
        registration=registration,
        # A date at the very beginning of what a datetime can hold gets no leeway here: within it,
        # the certificate is evaluated anew.
        valid_from=begin - leeway if begin - _EARLIEST > leeway else begin,
        valid_until=certificate.not_after,
    )


def denied(certificate: ClientCertificate, reason: DenialReason, detail: str) -> Denied:
    """A denial of a certificate that was read."""
    return Denied(
        reason=reason,
        detail=detail,
        hotkey=certificate.hotkey,
        fingerprint=certificate.fingerprint,
    )
