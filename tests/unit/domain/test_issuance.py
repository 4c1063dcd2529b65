"""What an issuing run does next."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.issuance import (
    ABSENT_CONFIRMATIONS,
    SETTLING,
    Action,
    Facts,
    Holdings,
    Leftovers,
    NoCertificate,
    Order,
    PendingKey,
    Problem,
    Step,
    next_step,
)
from tests.builders import NOW, a_certificate, a_hotkey, a_key, public_bytes, to_der

DAY: Final = timedelta(days=1)
ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
KEY: Final = public_bytes(a_key("alice"))
OTHER_KEY: Final = public_bytes(a_key("other"))


def ending_in(remaining: timedelta) -> ClientCertificate:
    """A certificate of alice that is valid for so much longer."""
    return ClientCertificate.from_der(to_der(a_certificate(not_after=NOW + remaining)))


LONG: Final = ending_in(100 * DAY)
ON_CHAIN: Final = [None, KEY, OTHER_KEY, public_bytes(a_key("pending"))]

ORDERS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "force": {"force": True},
    "reuse": {"reuse_key": True},
    "renew": {"renew_before": 30 * DAY},
    "force, renew": {"force": True, "renew_before": 30 * DAY},
    "reuse, renew": {"reuse_key": True, "renew_before": 30 * DAY},
}
LOCAL_ORDERS: Final[dict[str, dict[str, Any]]] = {
    f"local, {name}": {**flags, "local": True}
    for name, flags in ORDERS.items()
    if "reuse" not in name
}
PENDING_KEY: Final = public_bytes(a_key("pending"))
PENDING: Final = PendingKey(hotkey=ALICE, public_key=PENDING_KEY, made_at=NOW - DAY)


def facts(order: str = "plain", **known: Any) -> Facts:
    """What is known of a directory with a pair in it, with the deviations that are named."""
    known = {"holdings": Holdings.BOTH, "now": NOW, **known}
    hotkey = known.pop("hotkey", ALICE)
    flags = {**ORDERS, **LOCAL_ORDERS}[order]
    return Facts(order=Order(hotkey=hotkey, valid_for=365 * DAY, **flags), **known)


def test_figures_and_defaults_are_those_of_the_contract() -> None:
    """Three lookups without a key are believed; a plain order forces and renews nothing."""
    assert ABSENT_CONFIRMATIONS == 3
    assert Order(hotkey=ALICE, valid_for=DAY) == Order(
        hotkey=ALICE,
        valid_for=DAY,
        algorithm=1,
        force=False,
        reuse_key=False,
        renew_before=None,
    )
    assert facts() == facts(
        leftovers=Leftovers.NONE, certificate=NoCertificate.NOT_READ, lookups=()
    )


@pytest.mark.parametrize("order", ORDERS)
def test_only_a_plain_order_accepts_any_pair(order: str) -> None:
    """Every other one asks for something that a pair on disk may lack."""
    assert facts(order).order.accepts_any_pair is (order == "plain")


FILES: Final[dict[str, tuple[Step, ...]]] = {
    # nothing, the key alone, the certificate alone, both
    "plain": (
        Step(Action.REPLACE_PAIR),
        Step(Action.STOP, Problem.HALF_A_PAIR),
        Step(Action.STOP, Problem.HALF_A_PAIR),
        Step(Action.KEEP_PAIR),
    ),
    "force": (Step(Action.REPLACE_PAIR),) * 4,
    "reuse": (
        Step(Action.REUSE_KEY),
        Step(Action.REUSE_KEY),
        Step(Action.STOP, Problem.HALF_A_PAIR),
        Step(Action.REUSE_KEY),
    ),
    "renew": (
        Step(Action.REPLACE_PAIR),
        Step(Action.STOP, Problem.HALF_A_PAIR),
        Step(Action.STOP, Problem.HALF_A_PAIR),
        Step(Action.READ_PAIR),
    ),
    "force, renew": (Step(Action.REPLACE_PAIR),) * 4,
    "reuse, renew": (
        Step(Action.REUSE_KEY),
        Step(Action.REUSE_KEY),
        Step(Action.STOP, Problem.HALF_A_PAIR),
        Step(Action.READ_PAIR),
    ),
}


@pytest.mark.parametrize(
    ("order", "holdings", "step"),
    [
        (order, holdings, step)
        for order, steps in FILES.items()
        for holdings, step in zip(Holdings, steps, strict=True)
    ],
)
def test_files_decide_first(order: str, holdings: Holdings, step: Step) -> None:
    """Every order with every set of files."""
    assert next_step(facts(order, holdings=holdings)) == step


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("holdings", Holdings)
def test_what_earlier_runs_left_comes_before_everything_else(
    order: str, holdings: Holdings
) -> None:
    """The pair of an interrupted run, and a change that was not notified."""
    unfinished = facts(order, holdings=holdings, leftovers=Leftovers.UNFINISHED)
    assert next_step(unfinished) == Step(Action.FINISH_EARLIER_RUNS)


@pytest.mark.parametrize("order", ORDERS)
def test_pair_of_an_interrupted_run_is_confirmed_where_no_more_is_ordered(order: str) -> None:
    """It is as new as an order would make it; a renewal looks it up on chain anyway."""
    steps = {"plain": Step(Action.CONFIRM_PAIR), "reuse": Step(Action.CONFIRM_PAIR)}
    placed = facts(order, leftovers=Leftovers.PAIR_PLACED)
    assert next_step(placed) == steps.get(order, FILES[order][3])


RENEWALS: Final[list[tuple[dict[str, Any], Step, Step]]] = [
    # what is known; the next step of a renewal, and of one that reuses the key
    (
        {"certificate": NoCertificate.UNREADABLE},
        Step(Action.REPLACE_PAIR),
        Step(Action.REUSE_KEY),
    ),
    (
        {"certificate": LONG, "hotkey": BOB},
        Step(Action.STOP, Problem.OTHER_HOTKEY, ALICE),
        Step(Action.STOP, Problem.OTHER_HOTKEY, ALICE),
    ),
    ({"certificate": LONG}, Step(Action.LOOK_UP_PUBLISHED_KEY), Step(Action.LOOK_UP_PUBLISHED_KEY)),
    (
        {"certificate": LONG, "lookups": (None, None)},
        Step(Action.LOOK_UP_PUBLISHED_KEY),
        Step(Action.LOOK_UP_PUBLISHED_KEY),
    ),
    *(
        (
            {"certificate": LONG, "lookups": lookups},
            Step(Action.REPLACE_PAIR, Problem.NOT_PUBLISHED),
            Step(Action.STOP, Problem.NOT_PUBLISHED),
        )
        for lookups in ((None,) * ABSENT_CONFIRMATIONS, (OTHER_KEY,), (None, OTHER_KEY))
    ),
    *(
        (
            {"certificate": LONG, "lookups": lookups},
            Step(Action.KEEP_PAIR, remaining=100 * DAY),
            Step(Action.KEEP_PAIR, remaining=100 * DAY),
        )
        for lookups in ((KEY,), (None, None, KEY))
    ),
    *(
        (
            {"certificate": ending_in(remaining), "lookups": (KEY,)},
            Step(Action.REPLACE_PAIR, remaining=remaining),
            Step(Action.REUSE_KEY, remaining=remaining),
        )
        for remaining in (30 * DAY, timedelta(), -DAY + timedelta(seconds=1))
    ),
    (
        {"certificate": ending_in(30 * DAY + timedelta(seconds=1)), "lookups": (KEY,)},
        Step(Action.KEEP_PAIR, remaining=30 * DAY + timedelta(seconds=1)),
        Step(Action.KEEP_PAIR, remaining=30 * DAY + timedelta(seconds=1)),
    ),
]


@pytest.mark.parametrize(("known", "renewing", "reusing"), RENEWALS)
def test_renewal_looks_before_it_replaces(
    known: dict[str, Any], renewing: Step, reusing: Step
) -> None:
    """The certificate's hotkey, then the key on chain, then the certificate's end."""
    assert next_step(facts("renew", **known)) == renewing
    assert next_step(facts("reuse, renew", **known)) == reusing


# A request without an answer on disk: it may still take effect, or it has settled.
YOUNG: Final = NOW - SETTLING + timedelta(seconds=1)
SETTLED: Final = NOW - SETTLING

AFTER_A_REQUEST: Final[list[tuple[dict[str, Any], Step, Step]]] = [
    # what is known; the next step of a plain order, and of a renewal
    ({}, Step(Action.READ_PAIR), Step(Action.READ_PAIR)),
    (
        {"certificate": NoCertificate.UNREADABLE},
        Step(Action.STOP, Problem.UNREADABLE),
        Step(Action.REPLACE_PAIR),
    ),
    (
        {"certificate": LONG, "hotkey": BOB},
        Step(Action.STOP, Problem.OTHER_HOTKEY, ALICE),
        Step(Action.STOP, Problem.OTHER_HOTKEY, ALICE),
    ),
    *(
        (
            {"certificate": LONG, "lookups": lookups},
            Step(Action.LOOK_UP_PUBLISHED_KEY),
            Step(Action.LOOK_UP_PUBLISHED_KEY),
        )
        for lookups in ((), (None, None))
    ),
    *(
        (
            {"certificate": LONG, "lookups": lookups},
            Step(Action.STOP, Problem.KEY_LOST),
            Step(Action.REPLACE_PAIR, Problem.NOT_PUBLISHED),
        )
        for lookups in ((None,) * ABSENT_CONFIRMATIONS, (OTHER_KEY,), (None, OTHER_KEY))
    ),
    (
        {"certificate": LONG, "lookups": (KEY,)},
        Step(Action.KEEP_PAIR, Problem.UNSETTLED),
        Step(Action.KEEP_PAIR, Problem.UNSETTLED, remaining=100 * DAY),
    ),
    *(
        (
            {"certificate": LONG, "lookups": (KEY,), "requested_at": at},
            Step(Action.FORGET_REQUESTS),
            Step(Action.FORGET_REQUESTS),
        )
        for at in (SETTLED, SETTLED - DAY)
    ),
]


@pytest.mark.parametrize(("known", "plain", "renewing"), AFTER_A_REQUEST)
@pytest.mark.parametrize("leftovers", [Leftovers.NONE, Leftovers.PAIR_PLACED])
def test_request_without_an_answer_makes_every_run_look_at_the_chain(
    known: dict[str, Any], plain: Step, renewing: Step, leftovers: Leftovers
) -> None:
    """A pair is not believed to be good because it is there; nothing is replaced unasked."""
    known = {"requested_at": YOUNG, "leftovers": leftovers, **known}
    assert next_step(facts("plain", **known)) == plain
    assert next_step(facts("renew", **known)) == renewing


@pytest.mark.parametrize("order", ["force", "reuse", "force, renew"])
@pytest.mark.parametrize("holdings", Holdings)
def test_request_without_an_answer_changes_nothing_of_what_is_ordered_by_name(
    order: str, holdings: Holdings
) -> None:
    """A new pair answers it; a certificate around the same key is looked up afterwards."""
    without = facts(order, holdings=holdings)
    assert next_step(replace(without, requested_at=YOUNG)) == next_step(without)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("holdings", [each for each in Holdings if each is not Holdings.BOTH])
def test_request_without_an_answer_completes_no_pair(order: str, holdings: Holdings) -> None:
    """Where a file is missing, the files decide as ever."""
    without = facts(order, holdings=holdings)
    assert next_step(replace(without, requested_at=YOUNG)) == next_step(without)


@pytest.mark.parametrize("order", [name for name in ORDERS if "reuse" not in name])
@pytest.mark.parametrize("holdings", Holdings)
def test_local_order_is_decided_as_any_other(order: str, holdings: Holdings) -> None:
    """Where the pair is made changes nothing of when one is."""
    for known in ({}, {"requested_at": YOUNG}, {"certificate": LONG, "lookups": (OTHER_KEY,)}):
        local = facts(f"local, {order}", holdings=holdings, **known)
        assert next_step(local) == next_step(facts(order, holdings=holdings, **known))


EVERY_ORDER: Final = [*ORDERS, *LOCAL_ORDERS]


@pytest.mark.parametrize("order", EVERY_ORDER)
@pytest.mark.parametrize("holdings", Holdings)
@pytest.mark.parametrize("requested_at", [None, NOW])
def test_pending_key_makes_every_run_look_at_the_chain_first(
    order: str, holdings: Holdings, requested_at: datetime | None
) -> None:
    """A published one is put in its place, whatever was ordered; it is never called lost."""
    known = facts(order, holdings=holdings, requested_at=requested_at, pending=PENDING)
    assert next_step(known) == Step(Action.LOOK_UP_PUBLISHED_KEY)
    published = replace(known, lookups=(PENDING_KEY,))
    assert next_step(published) == Step(Action.PLACE_PENDING)
    unfinished = replace(published, leftovers=Leftovers.UNFINISHED)
    assert next_step(unfinished) == Step(Action.FINISH_EARLIER_RUNS)


@pytest.mark.parametrize("holdings", Holdings)
@pytest.mark.parametrize("found", [None, OTHER_KEY, KEY])
def test_pending_key_that_is_not_on_chain_is_gone_on_with(
    holdings: Holdings, found: bytes | None
) -> None:
    """By every local order, a forced one too; others stop, and one that keeps its key goes on."""
    for order in EVERY_ORDER:
        known = facts(order, holdings=holdings, pending=PENDING, lookups=(found,))
        if order in LOCAL_ORDERS:
            assert next_step(known) == Step(Action.REPLACE_PAIR)
        elif "reuse" in order:
            assert next_step(known) == next_step(replace(known, pending=None))
        else:
            assert next_step(known) == Step(Action.STOP, Problem.PENDING)


@pytest.mark.parametrize("order", EVERY_ORDER)
@pytest.mark.parametrize("lookups", [(), (PENDING_KEY,)])
def test_pending_key_of_another_hotkey_stops_every_run(
    order: str, lookups: tuple[bytes, ...]
) -> None:
    """Also where the chain has it for the ordered one."""
    known = facts(order, hotkey=BOB, pending=PENDING, lookups=lookups)
    assert next_step(known) == Step(Action.STOP, Problem.OTHER_PENDING, ALICE)


@st.composite
def any_facts(draw: st.DrawFn) -> Facts:
    """Everything that can be known, in every combination."""
    order = Order(
        hotkey=draw(st.sampled_from([ALICE, BOB])),
        valid_for=365 * DAY,
        force=draw(st.booleans()),
        reuse_key=draw(st.booleans()),
        renew_before=draw(st.none() | st.timedeltas(timedelta(), 365 * DAY)),
        local=draw(st.booleans()),
    )
    certificates = [*NoCertificate, LONG, ending_in(10 * DAY)]
    return Facts(
        order=order,
        now=NOW,
        holdings=draw(st.sampled_from(Holdings)),
        leftovers=draw(st.sampled_from(Leftovers)),
        requested_at=draw(st.sampled_from([None, YOUNG, SETTLED])),
        pending=draw(st.none() | st.just(PENDING)),
        certificate=draw(st.sampled_from(certificates)),
        lookups=tuple(draw(st.lists(st.sampled_from(ON_CHAIN), max_size=4))),
    )


@given(any_facts())
def test_key_on_chain_is_replaced_for_a_reason_only(known: Facts) -> None:
    """Forced, nothing there, or a renewal that is due; and never where the key is to be reused."""
    step = next_step(known)
    if step.action is not Action.REPLACE_PAIR:
        return
    assert not known.order.reuse_key
    if known.pending is not None:
        # There is another one to come already, and the chain does not have it.
        assert known.order.local
        assert known.lookups
        assert PENDING_KEY not in known.lookups
        return
    if known.order.force or known.holdings is Holdings.NOTHING:
        return
    assert known.holdings is Holdings.BOTH
    assert known.order.renew_before is not None
    certificate = known.certificate
    if isinstance(certificate, ClientCertificate):
        assert certificate.hotkey == known.order.hotkey
        found = [key for key in known.lookups if key is not None]
        assert found or len(known.lookups) >= ABSENT_CONFIRMATIONS
        is_due = certificate.not_after - known.now <= known.order.renew_before
        assert is_due or found[:1] != [certificate.public_key]
    else:
        assert certificate is NoCertificate.UNREADABLE


@given(any_facts())
def test_pair_that_is_there_is_enough_where_no_more_is_ordered(known: Facts) -> None:
    """Whatever is in the files, and whatever is on chain, where no request is without answer."""
    settled = replace(
        known,
        order=Order(hotkey=known.order.hotkey, valid_for=DAY),
        holdings=Holdings.BOTH,
        leftovers=Leftovers.NONE,
        requested_at=None,
        pending=None,
    )
    assert next_step(settled) == Step(Action.KEEP_PAIR)


@given(any_facts(), st.lists(st.sampled_from(ON_CHAIN), min_size=4, max_size=4))
def test_every_run_ends(known: Facts, chain: list[bytes | None]) -> None:
    """Each look adds a fact, so that no step comes for ever."""
    for _ in range(10):
        match next_step(known).action:
            case Action.FINISH_EARLIER_RUNS:
                known = replace(known, leftovers=Leftovers.PAIR_PLACED)
            case Action.READ_PAIR:
                known = replace(known, certificate=LONG)
            case Action.LOOK_UP_PUBLISHED_KEY:
                known = replace(known, lookups=(*known.lookups, chain[len(known.lookups)]))
            case Action.FORGET_REQUESTS:
                known = replace(known, requested_at=None)
            case _:
                return
    pytest.fail("the run does not end")
