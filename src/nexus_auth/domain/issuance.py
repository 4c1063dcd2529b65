"""What an issuing run does next, given what is on disk, what is on chain, and what was ordered.

`next_step` is pure. It is called with what is known, and again with what its first four actions
find out; any other action ends the run.

Asked for a key pair, the issuer replaces the key on chain, and every certificate made before
becomes worthless. So `REPLACE_PAIR` is the last resort, and nothing that is unknown leads to it.
A request without an answer on disk may have done just that: then a pair is not believed to be good
because it is there, and the chain is looked at.

A pending key was made on this machine, and may have been published meanwhile. So the chain is
looked at before anything else, and no other pair is made while there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, unique
from typing import Final

from cryptography import x509

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.hotkey import Hotkey

ABSENT_CONFIRMATIONS: Final = 3
"""How often the chain must be found without a key before that is believed: to Pylon, "not
registered" and "cannot read the chain now" are one answer, and a good key must not be replaced
because of it."""

SETTLING: Final = timedelta(minutes=15)
"""How long a request may still take effect after it was sent. Ours: Pylon works for five minutes at
most (the cap of `X-Pylon-Timeout`); the rest is for blocks, and for clocks that differ."""


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
        local: Make a new key pair on this machine, and have its public half published.
        names: The alternative names of a new certificate; None: those of the one that is there,
            so that a renewal loses none.
    """

    hotkey: Hotkey
    valid_for: timedelta
    algorithm: int = 1
    force: bool = False
    reuse_key: bool = False
    renew_before: timedelta | None = None
    local: bool = False
    names: tuple[x509.GeneralName, ...] | None = None

    @property
    def accepts_any_pair(self) -> bool:
        """Whether a pair that is there is enough, whatever is in its files and on chain."""
        return not self.force and not self.reuse_key and self.renew_before is None


@unique
class Holdings(Enum):
    """Which of the two files, private key and certificate, are there."""

    NOTHING = (False, False)
    KEY_ONLY = (True, False)
    CERTIFICATE_ONLY = (False, True)
    BOTH = (True, True)


@unique
class Leftovers(Enum):
    """What earlier runs left to do: a new pair to be put in its place, a change to be notified."""

    NONE = "none"
    UNFINISHED = "unfinished"
    """Some, or it is not known yet whether there are any."""
    PAIR_PLACED = "pair-placed"
    """This run put the pair of an interrupted one in its place; nothing else is left."""


@unique
class NoCertificate(Enum):
    """Why the certificate on disk is not among the facts."""

    NOT_READ = "not-read"
    UNREADABLE = "unreadable"
    """It could not be read, or key and certificate are no pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingKey:
    """The public half of a key pair that was made on this machine, and is not in its place yet.

    Attributes:
        hotkey: For which it was made.
        public_key: The raw Ed25519 public key, 32 bytes.
        made_at: When (aware, UTC).
    """

    hotkey: Hotkey
    public_key: bytes
    made_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known so far.

    Attributes:
        order: What the user wants.
        now: The present moment (aware, UTC).
        holdings: Which files are there.
        leftovers: What earlier runs left to do.
        requested_at: When the latest request for a key pair was sent whose answer is not on disk
            (aware, UTC); None where there is none.
        pending: The pending key; None where there is none.
        certificate: That of the pair on disk, once it was read.
        lookups: What the chain had for the ordered hotkey each time it was looked up; None where
            it had no key.
    """

    order: Order
    now: datetime
    holdings: Holdings
    leftovers: Leftovers = Leftovers.NONE
    requested_at: datetime | None = None
    pending: PendingKey | None = None
    certificate: ClientCertificate | NoCertificate = NoCertificate.NOT_READ
    lookups: tuple[bytes | None, ...] = ()


@unique
class Problem(Enum):
    """What is wrong with what is there."""

    HALF_A_PAIR = "half-a-pair"
    """One file alone is there, and may be the only copy."""
    OTHER_HOTKEY = "other-hotkey"
    """The certificate names another hotkey than the order."""
    NOT_PUBLISHED = "not-published"
    """The chain has another key than that of the pair, or surely none: no certificate around it
    can work."""
    KEY_LOST = "key-lost"
    """The same, after a request without an answer: the chain's key is that of the answer."""
    UNREADABLE = "unreadable"
    """After such a request: the pair cannot be compared with the chain."""
    PENDING = "pending"
    """A pending key is not on chain so far, and the order is no local one."""
    OTHER_PENDING = "other-pending"
    """The pending key is that of another hotkey than the order's."""
    UNSETTLED = "unsettled"
    """Such a request has not taken effect so far, and still may."""


@unique
class Action(Enum):
    """What a run can do."""

    # After these four, more is known.
    FINISH_EARLIER_RUNS = "finish-earlier-runs"
    """Do what they left to do; then look at the files anew."""
    READ_PAIR = "read-pair"
    LOOK_UP_PUBLISHED_KEY = "look-up-published-key"
    """Look up which key the chain has for the ordered hotkey; wait between two lookups."""
    FORGET_REQUESTS = "forget-requests"
    """Remove what earlier requests left: they never took effect."""
    KEEP_PAIR = "keep-pair"
    """Change nothing: what was ordered is there."""
    CONFIRM_PAIR = "confirm-pair"
    """Look up whether the chain has the key of the pair on disk."""
    REUSE_KEY = "reuse-key"
    """Make a new certificate around the key on disk."""
    PLACE_PENDING = "place-pending"
    """Put the pending key in its place, with a new certificate: the chain has it."""
    REPLACE_PAIR = "replace-pair"
    """Have a new key pair made, which replaces the key on chain."""
    STOP = "stop"
    """Change nothing, and report the problem."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the run does next, and why.

    Attributes:
        action: What to do.
        problem: What is wrong with what is there, where that is the reason.
        found: Whose certificate is there, where that is the problem.
        remaining: How long the certificate is still valid, where that is the reason.
    """

    action: Action
    problem: Problem | None = None
    found: Hotkey | None = None
    remaining: timedelta | None = None


def next_step(facts: Facts) -> Step:
    """Decides what the run does next."""
    # What earlier runs left comes first, since nothing else may be left to do.
    if facts.leftovers is Leftovers.UNFINISHED:
        return Step(Action.FINISH_EARLIER_RUNS)
    order, holdings = facts.order, facts.holdings
    if facts.pending is not None and (step := _step_for_pending(facts, facts.pending)) is not None:
        return step
    is_key_to_reuse = holdings is Holdings.KEY_ONLY and order.reuse_key
    if order.force or holdings is Holdings.NOTHING or is_key_to_reuse:
        return _new_certificate(order)
    if holdings is Holdings.BOTH:
        return _step_for_pair(facts)
    return Step(Action.STOP, Problem.HALF_A_PAIR)


def _step_for_pending(facts: Facts, pending: PendingKey) -> Step | None:
    """None where the pending key has no say: the key on disk is to stay."""
    if pending.hotkey != facts.order.hotkey:
        return Step(Action.STOP, Problem.OTHER_PENDING, pending.hotkey)
    if not facts.lookups:
        return Step(Action.LOOK_UP_PUBLISHED_KEY)
    if pending.public_key in facts.lookups:
        return Step(Action.PLACE_PENDING)
    if facts.order.reuse_key:
        return None
    # Even when forced: the public half may be on its way to the chain.
    return Step(Action.REPLACE_PAIR) if facts.order.local else Step(Action.STOP, Problem.PENDING)


def _step_for_pair(facts: Facts) -> Step:
    order, certificate = facts.order, facts.certificate
    is_believed = facts.requested_at is None or order.reuse_key
    if order.renew_before is None and is_believed:
        if facts.leftovers is Leftovers.PAIR_PLACED:
            return Step(Action.CONFIRM_PAIR)
        return Step(Action.REUSE_KEY if order.reuse_key else Action.KEEP_PAIR)
    if isinstance(certificate, ClientCertificate):
        return _step_for_certificate(facts, certificate)
    if certificate is NoCertificate.NOT_READ:
        return Step(Action.READ_PAIR)
    if order.accepts_any_pair:
        return Step(Action.STOP, Problem.UNREADABLE)
    return _new_certificate(order)


def _step_for_certificate(facts: Facts, certificate: ClientCertificate) -> Step:
    if certificate.hotkey != facts.order.hotkey:
        return Step(Action.STOP, Problem.OTHER_HOTKEY, certificate.hotkey)
    published = next((key for key in facts.lookups if key is not None), None)
    if published is None and len(facts.lookups) < ABSENT_CONFIRMATIONS:
        return Step(Action.LOOK_UP_PUBLISHED_KEY)
    if published == certificate.public_key:
        return _step_for_published_pair(facts, certificate.not_after - facts.now)
    if facts.order.accepts_any_pair:
        return Step(Action.STOP, Problem.KEY_LOST)
    if facts.order.reuse_key:
        return Step(Action.STOP, Problem.NOT_PUBLISHED)
    return _new_certificate(facts.order, Problem.NOT_PUBLISHED)


def _step_for_published_pair(facts: Facts, remaining: timedelta) -> Step:
    order, unsettled = facts.order, None
    if facts.requested_at is not None:
        if facts.now - facts.requested_at >= SETTLING:
            return Step(Action.FORGET_REQUESTS)
        unsettled = Problem.UNSETTLED
    if order.renew_before is None:
        return Step(Action.KEEP_PAIR, unsettled)
    if remaining > order.renew_before:
        return Step(Action.KEEP_PAIR, unsettled, remaining=remaining)
    return _new_certificate(order, remaining=remaining)


def _new_certificate(
    order: Order, problem: Problem | None = None, remaining: timedelta | None = None
) -> Step:
    """Every replacement of the key on chain is decided here."""
    action = Action.REUSE_KEY if order.reuse_key else Action.REPLACE_PAIR
    return Step(action, problem, remaining=remaining)
