from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.snapshot import (
    CHANGED_AT_LEAST,
    SHARED_BY_AT_LEAST,
    SubnetSnapshot,
    Suspicion,
)
from tests.builders import NOW, a_hotkey, a_key, public_bytes
from tests.unit.adapters.registry.sources import a_block, key_of, neurons_of

HOTKEYS = [a_hotkey(f"miner {number}") for number in range(12)]
KEYS = [key_of(f"key {number}") for number in range(24)]


def a_snapshot(letters: str, *, neurons: str | None = None) -> SubnetSnapshot:
    """A snapshot of keys such as "aA bB": hotkey a with key A, and so on."""
    return SubnetSnapshot(
        keys={a_hotkey(pair[0]): key_of(pair[1]) for pair in letters.split()},
        neurons=None if neurons is None else neurons_of(*neurons),
        said_at=NOW,
    )


BEFORE = "aA bB cC dD eE fF gG hH"


@pytest.mark.parametrize(
    ("before", "after", "suspicion"),
    [
        pytest.param(BEFORE, BEFORE, None, id="the same"),
        pytest.param("", "aA bA cA dA", None, id="the first hotkeys of a subnet"),
        pytest.param(BEFORE, f"{BEFORE} iI jJ kK", None, id="new hotkeys"),
        pytest.param(BEFORE, f"{BEFORE} iX jX kX", None, id="new hotkeys of one owner"),
        # Lost.
        pytest.param(BEFORE, "aA bB cC dD", None, id="half lost"),
        pytest.param(BEFORE, "aA bB cC", Suspicion.LOST, id="more than half lost"),
        pytest.param(BEFORE, "", Suspicion.LOST, id="empty"),
        pytest.param("aA", "", Suspicion.LOST, id="the only one lost"),
        # Rotated.
        pytest.param(BEFORE, "aX bB cC dD eE fF gG hH", None, id="one rotated"),
        pytest.param(BEFORE, "aX bY cZ dW eE fF gG hH", None, id="half rotated"),
        pytest.param(
            BEFORE, "aX bY cZ dW eV fF gG hH", Suspicion.CHANGED, id="more than half rotated"
        ),
        pytest.param("aA bB cC", "aX bY cC", None, id="two of three rotated"),
        pytest.param("aA bB cC", "aX bY cZ", None, id="all of three rotated"),
        pytest.param("aA bB cC dD", "aX bY cZ dW", Suspicion.CHANGED, id="all of four rotated"),
        pytest.param(BEFORE, "aB bC cD dE eF fG gH hA", Suspicion.CHANGED, id="mixed up"),
        pytest.param(
            BEFORE, "aX bY cZ dW iI jJ kK lL", Suspicion.CHANGED, id="all that stayed rotated"
        ),
        # One key.
        pytest.param(BEFORE, "aX bX cX dX eX fX gX hX", Suspicion.CHANGED, id="all the same"),
        pytest.param(BEFORE, "aA bA cA dA eA fA gA hA", Suspicion.CHANGED, id="all one of theirs"),
        pytest.param("aA bB cC", "aA bA cA", Suspicion.CHANGED, id="all one of theirs, of three"),
        pytest.param(BEFORE, "aX bX cX dD eE fF", None, id="half of them the same"),
        pytest.param("aA bB", "aX bX", None, id="two hotkeys of one owner"),
        pytest.param("aA bA cA", "aX bX cX", None, id="three hotkeys of one owner, as before"),
        pytest.param(
            "aA bA cA dB eC",
            "aA bA cA dA eA",
            Suspicion.CHANGED,
            id="the rest gets the key of most",
        ),
        pytest.param("aA bA cA dB", "aA bA cA dA", None, id="one more gets the key of most"),
        pytest.param(BEFORE, "aX bX cX", Suspicion.CHANGED, id="most lost, and the rest the same"),
    ],
)
def test_answer_is_suspicious_where_too_much_changed_at_once(
    before: str, after: str, suspicion: Suspicion | None
) -> None:
    """One row for each way to be plausible or not."""
    assert a_snapshot(after).suspicion_after(a_snapshot(before)) is suspicion


def test_kinds_of_suspicion_are_named_as_the_log_is_read() -> None:
    """Alerts depend on them."""
    assert [str(each) for each in Suspicion] == ["lost", "changed"]


@pytest.mark.parametrize(
    ("before", "after", "suspicion"),
    [
        ("abcd", "ab", None),
        ("abcd", "a", Suspicion.LOST),
        ("abcd", "", Suspicion.LOST),
        (None, "", None),
        ("abcd", None, None),
    ],
)
def test_neurons_that_are_lost_are_suspicious_as_well(
    before: str | None, after: str | None, suspicion: Suspicion | None
) -> None:
    """Where both snapshots have them."""
    old, new = (a_snapshot("aA", neurons=neurons) for neurons in (before, after))
    assert new.suspicion_after(old) is suspicion


key_maps = st.dictionaries(st.sampled_from(HOTKEYS), st.sampled_from(KEYS))


def of(keys: dict[Hotkey, bytes]) -> SubnetSnapshot:
    """A snapshot of these keys."""
    return SubnetSnapshot(keys=keys, said_at=NOW)


@given(before=key_maps, after=key_maps)
@example(before={}, after={})
@example(before=dict(zip(HOTKEYS, KEYS, strict=False)), after=dict.fromkeys(HOTKEYS, KEYS[0]))
def test_most_callers_are_never_shut_out_at_once(
    before: dict[Hotkey, bytes], after: dict[Hotkey, bytes]
) -> None:
    """Beyond a few, a plausible answer leaves at least half of the hotkeys with their keys.

    An answer that may lose and rotate at the same time leaves half of those that it did not lose.
    """
    if of(after).suspicion_after(of(before)) is None:
        stayed = [hotkey for hotkey in before if hotkey in after]
        assert len(stayed) * 2 >= len(before)
        changed = [hotkey for hotkey in stayed if after[hotkey] != before[hotkey]]
        assert len(changed) * 2 <= len(stayed) or len(changed) < CHANGED_AT_LEAST


@given(after=key_maps)
def test_answer_that_repeats_another_is_plausible_after_it(
    after: dict[Hotkey, bytes],
) -> None:
    """So every quarantine can end: what is said again confirms what was said."""
    assert of(after).suspicion_after(of(after)) is None


@given(before=key_maps, rotated=st.sets(st.sampled_from(HOTKEYS), max_size=CHANGED_AT_LEAST - 1))
def test_few_rotations_to_keys_of_their_own_count_at_once(
    before: dict[Hotkey, bytes], rotated: set[Hotkey]
) -> None:
    """However small the subnet is."""
    fresh = {hotkey: key_of(f"fresh {n}") for n, hotkey in enumerate(rotated)}
    after = {hotkey: fresh.get(hotkey, key) for hotkey, key in before.items()}
    assert of(after).suspicion_after(of(before)) is None


@given(before=key_maps, hotkey=st.sampled_from(HOTKEYS), key=st.sampled_from(KEYS))
def test_one_rotation_to_any_key_counts_at_once(
    before: dict[Hotkey, bytes], hotkey: Hotkey, key: bytes
) -> None:
    """Also to a key that another hotkey has."""
    assert of({**before, hotkey: key}).suspicion_after(of(before)) is None


@given(before=key_maps, shared=st.sampled_from(KEYS))
def test_one_key_for_everyone_is_suspicious(before: dict[Hotkey, bytes], shared: bytes) -> None:
    """Where at least three hotkeys had two keys or more of their own before."""
    others = {key for key in before.values() if key != shared}
    if len(before) >= SHARED_BY_AT_LEAST and len(others) > 1:
        after = of(dict.fromkeys(before, shared))
        assert after.suspicion_after(of(before)) is Suspicion.CHANGED


@given(before=key_maps, later=key_maps)
def test_update_takes_what_is_said_and_keeps_the_rest_and_the_age(
    before: dict[Hotkey, bytes], later: dict[Hotkey, bytes]
) -> None:
    """What an answer leaves out stays."""
    assert of(before).updated_by(of(later)) == of({**before, **later})


ALICE, BOB, CAROL = a_hotkey("alice"), a_hotkey("bob"), a_hotkey("carol")
KEYS_OF = {each: public_bytes(a_key(each.address)) for each in (ALICE, BOB, CAROL)}
NEW_KEY = public_bytes(a_key("new"))


def a_neuron(uid: int) -> Neuron:
    """A neuron at that place."""
    return Neuron(uid=uid, validator_permit=True, active=True, alpha=1.0, tao=2.0, total=3.0)


@pytest.mark.parametrize("useless", [bytes(32), b"\1" + bytes(31), b"", KEYS_OF[BOB][:31]])
def test_key_that_proves_nothing_is_left_out(useless: bytes) -> None:
    """One that anybody can sign for never gets as far as a decision; the others stay."""
    snapshot = SubnetSnapshot(keys={**KEYS_OF, BOB: useless}, said_at=NOW)
    assert snapshot.keys == {ALICE: KEYS_OF[ALICE], CAROL: KEYS_OF[CAROL]}


def test_snapshot_does_not_change() -> None:
    """Neither by what it was made of, nor by itself."""
    keys, neurons = dict(KEYS_OF), {ALICE: a_neuron(1)}
    snapshot = SubnetSnapshot(keys=keys, said_at=NOW, neurons=neurons)
    keys.clear()
    neurons.clear()
    assert snapshot.keys == KEYS_OF
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
    """A rotated key counts at once; age and block stay the older ones."""

    def neurons(uids: dict[Hotkey, int] | None) -> dict[Hotkey, Neuron] | None:
        return None if uids is None else {each: a_neuron(uid) for each, uid in uids.items()}

    earlier = SubnetSnapshot(
        keys={ALICE: KEYS_OF[ALICE], BOB: KEYS_OF[BOB]},
        said_at=NOW,
        neurons=neurons(before),
        block=a_block(7),
    )
    later = SubnetSnapshot(
        keys={ALICE: NEW_KEY, CAROL: KEYS_OF[CAROL]},
        said_at=NOW + timedelta(seconds=9),
        neurons=neurons(after),
        block=a_block(8),
    )
    assert earlier.updated_by(later) == SubnetSnapshot(
        keys={ALICE: NEW_KEY, BOB: KEYS_OF[BOB], CAROL: KEYS_OF[CAROL]},
        said_at=NOW,
        neurons=neurons(merged),
        block=a_block(7),
    )


@pytest.mark.parametrize(
    ("mine", "theirs", "is_behind"),
    [(7, 8, True), (8, 8, False), (9, 8, False), (None, 8, False), (7, None, False)],
)
def test_snapshot_of_an_earlier_block_is_behind(
    mine: int | None, theirs: int | None, *, is_behind: bool
) -> None:
    """Keys rotated since are not in it. Without a block, that is not known."""
    one, other = (
        SubnetSnapshot(keys={}, said_at=NOW, block=None if each is None else a_block(each))
        for each in (mine, theirs)
    )
    assert one.is_behind(other) is is_behind
