"""What an issuing run does next, given what is on disk, what is on chain, and what was ordered.

`next_step` is pure. While it returns a `Look`, the caller does that, adds what it found to the
facts, and calls again; any other step ends the run.

Asked for a key pair, the issuer replaces the key on chain, and every certificate made before
becomes worthless. So `ReplacePair` is the last resort, and nothing that is unknown leads to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, unique
from typing import Final

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.hotkey import Hotkey

ABSENT_CONFIRMATIONS: Final = 3
"""How often the chain must be found without a key before that is believed: to Pylon, "not
registered" and "cannot read the chain now" are one answer, and a good key must not be replaced
because of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user wants.

    Attributes:
        hotkey: Becomes O.
        valid_for: How long a new certificate is valid.
        algorithm: Of a new key pair: 1 is Ed25519, the only one known.
        force: Replace what is there.
        reuse_key: Make a new certificate around the key that is there; never touch the chain.
        renew_before: Do nothing while the certificate is valid for longer, and on chain.
    """

    hotkey: Hotkey
    valid_for: timedelta
    algorithm: int = 1
    force: bool = False
    reuse_key: bool = False
    renew_before: timedelta | None = None

    @property
    def accepts_any_pair(self) -> bool:
        """Whether a pair that is there is enough, whatever is in its files and on chain."""
        return not self.force and not self.reuse_key and self.renew_before is None


@unique
class Holdings(Enum):
    """Which of the two files, private key and certificate, are there."""

    NOTHING = "nothing"
    KEY_ONLY = "key"
    CERTIFICATE_ONLY = "certificate"
    BOTH = "both"


@unique
class InterruptedRun(Enum):
    """What an earlier run left that was interrupted after it got a new pair."""

    NONE = "none"
    UNFINISHED = "unfinished"
    """Work that has to be finished, or it is not known yet whether there is any."""
    FINISHED = "finished"
    """Its work was finished by this run."""


@unique
class NoCertificate(Enum):
    """Why the certificate on disk is not among the facts."""

    NOT_READ = "not-read"
    UNREADABLE = "unreadable"
    """It could not be read, or key and certificate are no pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known so far.

    Attributes:
        order: What the user wants.
        now: The present moment (aware, UTC).
        holdings: Which files are there.
        interrupted: What an interrupted run left.
        is_notification_due: Whether an earlier change has still to be notified, and this run
            has a command for it that was not run yet.
        certificate: That of the pair on disk, once it was read.
        lookups: What the chain had for the ordered hotkey each time it was looked up; None where
            it had no key.
    """

    order: Order
    now: datetime
    holdings: Holdings
    interrupted: InterruptedRun = InterruptedRun.NONE
    is_notification_due: bool = False
    certificate: ClientCertificate | NoCertificate = NoCertificate.NOT_READ
    lookups: tuple[bytes | None, ...] = ()


@unique
class Reason(Enum):
    """Why a step is taken."""

    PAIR_PRESENT = "pair-present"
    """Both files are there, and no more was ordered."""
    STILL_GOOD = "still-good"
    """The certificate is valid for long enough, and its key is on chain."""
    FORCED = "forced"
    NO_PAIR = "no-pair"
    NO_CERTIFICATE = "no-certificate"
    """The key alone is there, and is to be reused."""
    ORDERED = "ordered"
    """A new certificate around the key was ordered."""
    UNREADABLE = "unreadable"
    NOT_PUBLISHED = "not-published"
    """The chain has another key, or surely none."""
    RENEWAL_DUE = "renewal-due"


@unique
class Problem(Enum):
    """Why a run cannot go on."""

    HALF_A_PAIR = "half-a-pair"
    """One file alone is there, and may be the only copy."""
    OTHER_HOTKEY = "other-hotkey"
    """The certificate names another hotkey than the order."""
    REUSED_KEY_NOT_PUBLISHED = "reused-key-not-published"
    """The key that is to be reused is not on chain: no certificate around it can work."""


@unique
class Look(Enum):
    """A step after which more is known."""

    FINISH_INTERRUPTED_RUN = "finish-interrupted-run"
    """Put the pair of an interrupted run in its place; then look at the files anew."""
    NOTIFY_CHANGE = "notify-change"
    """Run the command for an earlier change; then look at the files anew."""
    READ_PAIR = "read-pair"
    LOOK_UP_PUBLISHED_KEY = "look-up-published-key"
    """Look up which key the chain has for the ordered hotkey; wait between two lookups."""


@dataclass(frozen=True, slots=True)
class _ForReason:
    reason: Reason
    remaining: timedelta | None = None
    """How long the certificate is still valid, where that was looked at."""


@dataclass(frozen=True, slots=True)
class Nothing(_ForReason):
    """Change nothing: what was ordered is there."""


@dataclass(frozen=True, slots=True)
class ReuseKey(_ForReason):
    """Make a new certificate around the key on disk."""


@dataclass(frozen=True, slots=True)
class ReplacePair(_ForReason):
    """Have a new key pair made, which replaces the key on chain."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """Look up whether the chain has the key of the pair on disk."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Change nothing, and report the problem."""

    problem: Problem
    found: Hotkey | None = None
    """Whose certificate is there, where that is the problem."""


LastStep = Nothing | Confirm | ReuseKey | ReplacePair | Stop


def next_step(facts: Facts) -> Look | LastStep:
    """Decides what the run does next."""
    # What earlier runs left comes first, since nothing else may be left to do.
    if facts.interrupted is InterruptedRun.UNFINISHED:
        return Look.FINISH_INTERRUPTED_RUN
    if facts.is_notification_due:
        return Look.NOTIFY_CHANGE
    if facts.order.force:
        return _new_certificate(facts.order, Reason.FORCED)
    return _step_for_files(facts)


def _step_for_files(facts: Facts) -> Look | LastStep:
    order = facts.order
    match facts.holdings:
        case Holdings.NOTHING:
            return _new_certificate(order, Reason.NO_PAIR)
        case Holdings.KEY_ONLY if order.reuse_key:
            return _new_certificate(order, Reason.NO_CERTIFICATE)
        case Holdings.KEY_ONLY | Holdings.CERTIFICATE_ONLY:
            return Stop(Problem.HALF_A_PAIR)
        case Holdings.BOTH if order.renew_before is not None:
            return _step_of_renewal(facts, order.renew_before)
        case Holdings.BOTH if facts.interrupted is InterruptedRun.FINISHED:
            return Confirm()
        case Holdings.BOTH:
            return ReuseKey(Reason.ORDERED) if order.reuse_key else Nothing(Reason.PAIR_PRESENT)


def _step_of_renewal(facts: Facts, renew_before: timedelta) -> Look | LastStep:
    certificate = facts.certificate
    if certificate is NoCertificate.NOT_READ:
        return Look.READ_PAIR
    if certificate is NoCertificate.UNREADABLE:
        return _new_certificate(facts.order, Reason.UNREADABLE)
    if certificate.hotkey != facts.order.hotkey:
        return Stop(Problem.OTHER_HOTKEY, certificate.hotkey)
    return _step_by_lookups(facts, certificate, renew_before)


def _step_by_lookups(
    facts: Facts, certificate: ClientCertificate, renew_before: timedelta
) -> Look | LastStep:
    order = facts.order
    published = next((key for key in facts.lookups if key is not None), None)
    if published is None and len(facts.lookups) < ABSENT_CONFIRMATIONS:
        return Look.LOOK_UP_PUBLISHED_KEY
    if published != certificate.public_key:
        if order.reuse_key:
            return Stop(Problem.REUSED_KEY_NOT_PUBLISHED)
        return _new_certificate(order, Reason.NOT_PUBLISHED)
    remaining = certificate.not_after - facts.now
    if remaining > renew_before:
        return Nothing(Reason.STILL_GOOD, remaining)
    return _new_certificate(order, Reason.RENEWAL_DUE, remaining)


def _new_certificate(
    order: Order, reason: Reason, remaining: timedelta | None = None
) -> ReuseKey | ReplacePair:
    """Every new certificate, and so every replacement of the key on chain, is decided here."""
    if order.reuse_key:
        return ReuseKey(reason, remaining)
    return ReplacePair(reason, remaining)
