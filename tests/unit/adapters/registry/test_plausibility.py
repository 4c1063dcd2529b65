from __future__ import annotations

import pytest

from nexus_auth.adapters.registry.fetch import CONFIRM_SECONDS
from nexus_auth.adapters.registry.plausibility import Quarantine, Verdict
from nexus_auth.domain.snapshot import SubnetSnapshot
from tests.builders import NOW
from tests.unit.adapters.registry.sources import keys_of


def a_snapshot(*names: str) -> SubnetSnapshot:
    """A snapshot of a subnet with these hotkeys."""
    return SubnetSnapshot(keys=keys_of(*names), said_at=NOW)


FULL = a_snapshot("alice", "bob", "carol", "dave")
HALF = a_snapshot("alice", "bob")
LITTLE = a_snapshot("alice")
EMPTY = a_snapshot()


@pytest.mark.parametrize("answer", [FULL, HALF, a_snapshot(*"abcdefgh", "alice", "bob")])
def test_answer_that_lost_no_more_than_half_is_plausible(answer: SubnetSnapshot) -> None:
    """Subnets grow, and change by a few hotkeys at a time."""
    quarantine = Quarantine()
    assert quarantine.examine(answer, fetched_at=0, current=FULL) is Verdict.PLAUSIBLE
    assert quarantine.confirm_at is None


def test_any_answer_is_plausible_where_nothing_may_be_used() -> None:
    """There is nothing to lose."""
    assert Quarantine().examine(EMPTY, fetched_at=0, current=None) is Verdict.PLAUSIBLE


@pytest.mark.parametrize("answer", [LITTLE, EMPTY])
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
