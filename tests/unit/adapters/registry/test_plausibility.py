from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.adapters.registry.fetch import CONFIRM_SECONDS
from nexus_auth.adapters.registry.plausibility import Quarantine, Verdict
from nexus_auth.domain.snapshot import SubnetSnapshot, Suspicion
from tests.builders import NOW, a_hotkey
from tests.unit.adapters.registry.sources import key_of, keys_of


def a_snapshot(*names: str) -> SubnetSnapshot:
    """A snapshot of a subnet with these hotkeys."""
    return SubnetSnapshot(keys=keys_of(*names), said_at=NOW)


FULL = a_snapshot("alice", "bob", "carol", "dave")
HALF = a_snapshot("alice", "bob")
LITTLE = a_snapshot("alice")
EMPTY = a_snapshot()
ROTATED = SubnetSnapshot(
    keys={hotkey: key_of(f"new key of {hotkey.address}") for hotkey in FULL.keys}, said_at=NOW
)
SAME = SubnetSnapshot(keys=dict.fromkeys(FULL.keys, key_of("one for all")), said_at=NOW)


@pytest.mark.parametrize("answer", [FULL, HALF, a_snapshot(*"abcdefgh", "alice", "bob")])
def test_answer_that_lost_no_more_than_half_is_plausible(answer: SubnetSnapshot) -> None:
    """Subnets grow, and change by a few hotkeys at a time."""
    quarantine = Quarantine()
    assert quarantine.examine(answer, fetched_at=0, current=FULL) is Verdict.PLAUSIBLE
    assert quarantine.confirm_at is None


def test_any_answer_is_plausible_where_nothing_may_be_used() -> None:
    """There is nothing to lose."""
    assert Quarantine().examine(EMPTY, fetched_at=0, current=None) is Verdict.PLAUSIBLE


@pytest.mark.parametrize("answer", [LITTLE, EMPTY, ROTATED, SAME])
def test_suspicious_answer_is_confirmed_by_the_same_one_later(answer: SubnetSnapshot) -> None:
    """Not sooner, however often it is repeated; the span counts from the first."""
    quarantine = Quarantine()
    assert quarantine.examine(answer, fetched_at=10, current=FULL) is Verdict.SUSPICIOUS
    for seconds in (1, 2, 3, 4):
        verdict = quarantine.examine(answer, fetched_at=10 + seconds, current=FULL)
        assert verdict is Verdict.UNCONFIRMED
        assert quarantine.confirm_at == 10 + CONFIRM_SECONDS
    last = quarantine.examine(answer, fetched_at=10 + CONFIRM_SECONDS, current=FULL)
    assert last is Verdict.CONFIRMED
    assert quarantine.confirm_at is None


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(4.74, Verdict.UNCONFIRMED), (4.75, Verdict.CONFIRMED)]
)
def test_confirmation_may_come_a_little_early(seconds: float, verdict: Verdict) -> None:
    """A twentieth of the span: a timer that ends early must not cost another one."""
    quarantine = Quarantine()
    quarantine.examine(EMPTY, fetched_at=0, current=FULL)
    assert quarantine.examine(EMPTY, fetched_at=seconds, current=FULL) is verdict


def test_plausible_answer_ends_the_quarantine() -> None:
    """The next suspicious one is the first of its kind again."""
    quarantine = Quarantine()
    for moment in (0, 20):
        assert quarantine.examine(EMPTY, fetched_at=moment, current=FULL) is Verdict.SUSPICIOUS
        verdict = quarantine.examine(FULL, fetched_at=moment + 10, current=FULL)
        assert verdict is Verdict.PLAUSIBLE


def test_answer_that_lost_even_more_begins_the_quarantine_anew() -> None:
    """It does not say what the one before it said."""
    quarantine = Quarantine()
    assert quarantine.examine(LITTLE, fetched_at=0, current=FULL) is Verdict.SUSPICIOUS
    assert quarantine.examine(EMPTY, fetched_at=10, current=FULL) is Verdict.UNCONFIRMED
    assert quarantine.confirm_at == 10 + CONFIRM_SECONDS


def test_answer_that_lost_less_confirms() -> None:
    """What it has lost, the one before it had lost as well."""
    quarantine = Quarantine()
    assert quarantine.examine(EMPTY, fetched_at=0, current=FULL) is Verdict.SUSPICIOUS
    assert quarantine.examine(LITTLE, fetched_at=10, current=FULL) is Verdict.CONFIRMED


def test_settled_elsewhere_is_forgotten_here() -> None:
    """Another process may have confirmed it."""
    quarantine = Quarantine()
    quarantine.examine(EMPTY, fetched_at=0, current=FULL)
    quarantine.clear()
    assert quarantine.confirm_at is None


@pytest.mark.parametrize(
    ("answer", "suspicion"),
    [
        (LITTLE, Suspicion.LOST),
        (EMPTY, Suspicion.LOST),
        (ROTATED, Suspicion.CHANGED),
        (SAME, Suspicion.CHANGED),
    ],
)
def test_quarantine_says_how_its_answer_is_suspicious(
    answer: SubnetSnapshot, suspicion: Suspicion
) -> None:
    """While it holds one."""
    quarantine = Quarantine()
    said = [quarantine.suspicion]
    for moment in (0, CONFIRM_SECONDS, 10):
        quarantine.examine(answer, fetched_at=moment, current=FULL)
        said.append(quarantine.suspicion)
    quarantine.clear()
    assert [*said, quarantine.suspicion] == [None, suspicion, None, suspicion, None]


@pytest.mark.parametrize("first", [LITTLE, EMPTY, ROTATED, SAME])
@pytest.mark.parametrize("second", [EMPTY, ROTATED, SAME])
def test_only_an_answer_of_its_kind_confirms(first: SubnetSnapshot, second: SubnetSnapshot) -> None:
    """An empty answer says nothing about keys that change: the span begins anew."""
    quarantine = Quarantine()
    quarantine.examine(first, fetched_at=0, current=FULL)
    verdict = quarantine.examine(second, fetched_at=10, current=FULL)
    is_repeated = second is first
    assert verdict is (Verdict.CONFIRMED if is_repeated else Verdict.UNCONFIRMED)
    assert quarantine.confirm_at == (None if is_repeated else 10 + CONFIRM_SECONDS)


def test_some_who_rotate_meanwhile_do_not_begin_the_quarantine_anew() -> None:
    """The answer that confirms may differ as any answer may."""
    quarantine = Quarantine()
    quarantine.examine(ROTATED, fetched_at=0, current=FULL)
    later = SubnetSnapshot(keys={**ROTATED.keys, a_hotkey("bob"): key_of("newer")}, said_at=NOW)
    assert quarantine.examine(later, fetched_at=10, current=FULL) is Verdict.CONFIRMED


answers = st.sampled_from([FULL, HALF, LITTLE, EMPTY, ROTATED, SAME])


@given(said=st.lists(st.tuples(answers, st.sampled_from([2.0, 5.0, 30.0])), max_size=12))
def test_nothing_suspicious_is_believed_before_it_was_said_for_so_long(
    said: list[tuple[SubnetSnapshot, float]],
) -> None:
    """Whatever a source says in turn; and what it says long enough is believed."""
    quarantine, current, now = Quarantine(), FULL, 0.0
    last, since = FULL, 0.0
    for answer, pause in said:
        now += pause
        if answer is not last:
            last, since = answer, now
        verdict = quarantine.examine(answer, fetched_at=now, current=current)
        suspicion = answer.suspicion_after(current)
        if verdict is Verdict.PLAUSIBLE:
            assert suspicion is None
        if verdict is Verdict.CONFIRMED and suspicion is Suspicion.CHANGED:
            assert now - since >= CONFIRM_SECONDS
        if suspicion is not None and now - since >= CONFIRM_SECONDS:
            assert verdict is Verdict.CONFIRMED
        if verdict in {Verdict.PLAUSIBLE, Verdict.CONFIRMED}:
            current = answer
