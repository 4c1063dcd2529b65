"""What is known of a subnet at one moment. Which answers are suspicious: see the plausibility."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.snapshot import SubnetSnapshot
from tests.builders import NOW, a_hotkey, a_key, public_bytes

ALICE, BOB, CAROL = a_hotkey("alice"), a_hotkey("bob"), a_hotkey("carol")
KEYS = {each: public_bytes(a_key(each.address)) for each in (ALICE, BOB, CAROL)}
NEW_KEY = public_bytes(a_key("new"))


def a_neuron(uid: int) -> Neuron:
    """A neuron at that place."""
    return Neuron(uid=uid, validator_permit=True, active=True, alpha=1.0, tao=2.0, total=3.0)


@pytest.mark.parametrize("useless", [bytes(32), b"\1" + bytes(31), b"", KEYS[BOB][:31]])
def test_key_that_proves_nothing_is_left_out(useless: bytes) -> None:
    """One that anybody can sign for never gets as far as a decision; the others stay."""
    snapshot = SubnetSnapshot(keys={**KEYS, BOB: useless}, said_at=NOW)
    assert snapshot.keys == {ALICE: KEYS[ALICE], CAROL: KEYS[CAROL]}


def test_snapshot_does_not_change() -> None:
    """Neither by what it was made of, nor by itself."""
    keys, neurons = dict(KEYS), {ALICE: a_neuron(1)}
    snapshot = SubnetSnapshot(keys=keys, said_at=NOW, neurons=neurons)
    keys.clear()
    neurons.clear()
    assert snapshot.keys == KEYS
    assert snapshot.neurons == {ALICE: a_neuron(1)}
    for facts in (snapshot.keys, snapshot.neurons):
        with pytest.raises(TypeError):
            facts[BOB] = NEW_KEY  # type: ignore[index] # The point of the test.


@pytest.mark.parametrize(
    ("before", "after", "merged"),
    [
        (None, None, None),
        (None, {ALICE: 2}, None),
        ({ALICE: 1, BOB: 5}, None, {ALICE: 1, BOB: 5}),
        ({ALICE: 1, BOB: 5}, {ALICE: 2, CAROL: 3}, {ALICE: 2, BOB: 5, CAROL: 3}),
    ],
)
def test_later_news_replace_what_they_name_and_leave_the_rest(
    before: dict[Hotkey, int] | None,
    after: dict[Hotkey, int] | None,
    merged: dict[Hotkey, int] | None,
) -> None:
    """A rotated key counts at once; the age stays the older one."""

    def neurons(uids: dict[Hotkey, int] | None) -> dict[Hotkey, Neuron] | None:
        return None if uids is None else {each: a_neuron(uid) for each, uid in uids.items()}

    earlier = SubnetSnapshot(
        keys={ALICE: KEYS[ALICE], BOB: KEYS[BOB]}, said_at=NOW, neurons=neurons(before)
    )
    later = SubnetSnapshot(
        keys={ALICE: NEW_KEY, CAROL: KEYS[CAROL]},
        said_at=NOW + timedelta(seconds=9),
        neurons=neurons(after),
    )
    assert earlier.updated_by(later) == SubnetSnapshot(
        keys={ALICE: NEW_KEY, BOB: KEYS[BOB], CAROL: KEYS[CAROL]},
        said_at=NOW,
        neurons=neurons(merged),
    )


@pytest.mark.parametrize(
    ("before", "after", "is_suspicious"),
    [
        (None, None, False),
        (None, {ALICE}, False),
        ({ALICE}, None, False),
        ({ALICE, BOB}, {ALICE}, False),
        ({ALICE, BOB, CAROL}, {ALICE}, True),
        ({ALICE}, set(), True),
    ],
)
def test_lost_neurons_are_suspicious_where_both_know_them(
    before: set[Hotkey] | None,
    after: set[Hotkey] | None,
    is_suspicious: bool,  # noqa: FBT001 - a table
) -> None:
    """An answer without any is no answer about them."""

    def snapshot(there: set[Hotkey] | None) -> SubnetSnapshot:
        neurons = None if there is None else {each: a_neuron(1) for each in there}
        return SubnetSnapshot(keys=KEYS, said_at=NOW, neurons=neurons)

    assert snapshot(after).is_suspicious_after(snapshot(before)) is is_suspicious
