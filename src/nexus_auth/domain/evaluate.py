"""The checks 7 to 12 of a decision, in their order. Pure.

The checks 0 to 2 are the gate's, the checks 3 to 6 are `ClientCertificate.from_der`'s.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.policy import ADMIT_REGISTERED
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from datetime import datetime

    from nexus_auth.domain.certificate import ClientCertificate
    from nexus_auth.domain.policy import AccessPolicy
    from nexus_auth.domain.ports import Registration

DEFAULT_LEEWAY: Final = timedelta(seconds=300)
"""How far the clocks of issuer and verifier may differ."""


def evaluate_alone(
    certificate: ClientCertificate, now: datetime, *, leeway: timedelta = DEFAULT_LEEWAY
) -> Denied | None:
    """Takes the checks 7 and 8, those that need the certificate alone.

    Returns:
        The denial, or None where there is no reason for one yet. None is no grant.
    """
    # 7. Valid now, within the leeway. `now` is moved, since the certificate's dates may lie at
    #    the very end of what a datetime can hold.
    if now - leeway > certificate.not_after or certificate.not_after < certificate.not_before:
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
        leeway: Tolerance on both ends of the validity.
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


def denied(certificate: ClientCertificate, reason: DenialReason, detail: str) -> Denied:
    """A denial of a certificate that was read."""
    return Denied(
        reason=reason,
        detail=detail,
        hotkey=certificate.hotkey,
        fingerprint=certificate.fingerprint,
    )
