"""Whether a key pair may be asked for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nexus_auth.domain.issuance import ABSENT_CONFIRMATIONS
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import KeyMap
from nexus_auth.domain.prospect import (
    BLOCK,
    SERVING_RATE_LIMIT,
    UNUSABLE,
    Comparison,
    Prospect,
    Unknown,
    Verdict,
    judge,
    likely_refusals,
    presumed_wait,
)
from tests.builders import NOW, a_hotkey, a_key, public_bytes

ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
CAROL: Final = a_hotkey("carol")
KEY: Final = public_bytes(a_key("alice"))
OTHER_KEY: Final = public_bytes(a_key("bob"))

AXON: Final = Place(ip="192.0.2.7", port=8091)
NOTHING: Final = Comparison(own=None, named=None)
SAME: Final = Comparison(own=KEY, named=KEY)
BOTH_UNUSABLE: Final = Comparison(own=UNUSABLE, named=UNUSABLE)
BARE: Final = KeyMap(keys={}, rejected=0)


def prospect(*comparisons: Comparison, rejected: int = 0, **known: Any) -> Prospect:
    """What is known of alice, who serves an axon; `keys` are those of the subnet."""
    keys = known.pop("keys", None)
    subnet = None if keys is None else KeyMap(keys=keys, rejected=rejected)
    known = {"hotkey": ALICE, "place": AXON, "subnet": subnet, **known}
    return Prospect(comparisons=comparisons, **known)


def test_figures_are_those_of_the_chain() -> None:
    """Blocks of 12 s; 50 of them between two axons."""
    assert timedelta(seconds=12) == BLOCK
    assert timedelta(minutes=10) == SERVING_RATE_LIMIT
    assert Prospect(hotkey=ALICE) == Prospect(
        hotkey=ALICE, is_forced=False, place=Unknown.UNKNOWN, comparisons=(), subnet=None
    )


AGAIN: Final = Verdict.COMPARE_AGAIN
OTHER: Final = Verdict.OTHER_HOTKEY

MAPS: Final[tuple[dict[str, Any], ...]] = ({}, {"keys": {}}, {"keys": {BOB: KEY}})

ONE_KIND: Final[list[tuple[str, Comparison, dict[str, Any], Verdict, Verdict]]] = [
    # what is read each time; the verdict after one comparison, and after the last one
    ("one key", SAME, {}, Verdict.ASK, Verdict.ASK),
    ("one key, alone", SAME, {"keys": {ALICE: KEY}}, Verdict.ASK, Verdict.ASK),
    ("one key, older map", SAME, {"keys": {ALICE: OTHER_KEY}}, Verdict.ASK, Verdict.ASK),
    ("one unusable key", BOTH_UNUSABLE, {"keys": {}, "rejected": 1}, Verdict.ASK, Verdict.ASK),
    (
        "one key of two",
        SAME,
        {"keys": {ALICE: KEY, BOB: KEY}},
        Verdict.SHARED_KEY,
        Verdict.SHARED_KEY,
    ),
    (
        "one key of two, forced",
        SAME,
        {"keys": {ALICE: KEY, BOB: KEY}, "is_forced": True},
        Verdict.ASK,
        Verdict.ASK,
    ),
    ("nothing", NOTHING, {}, AGAIN, Verdict.ASK),
    ("nothing, others have", NOTHING, {"keys": {BOB: OTHER_KEY}}, AGAIN, Verdict.ASK),
    ("nothing, others unusable", NOTHING, {"keys": {}, "rejected": 1}, AGAIN, Verdict.ASK),
    ("nothing anywhere", NOTHING, {"keys": {}}, Verdict.ASK, Verdict.ASK),
    *(
        (
            f"{own and own[:2]!r} and {named and named[:2]!r}{'' if keys else ', no map'}",
            Comparison(own=own, named=named),
            {**keys, **forced},
            AGAIN,
            OTHER,
        )
        for own, named in (
            (KEY, None),
            (KEY, OTHER_KEY),
            (KEY, UNUSABLE),
            (None, KEY),
            (None, UNUSABLE),
            (UNUSABLE, KEY),
            (UNUSABLE, None),
        )
        for keys in MAPS
        for forced in ({"is_forced": False}, {"is_forced": True})
    ),
]


@pytest.mark.parametrize(
    ("comparison", "known", "first", "last"),
    [row[1:] for row in ONE_KIND],
    ids=[row[0] for row in ONE_KIND],
)
def test_identity_is_compared_before_anything_is_asked(
    comparison: Comparison, known: dict[str, Any], first: Verdict, last: Verdict
) -> None:
    """A difference and an absence are believed when they come as often as they must."""
    for count in range(1, ABSENT_CONFIRMATIONS):
        assert judge(prospect(*(comparison,) * count, **known)) is first
    assert judge(prospect(*(comparison,) * ABSENT_CONFIRMATIONS, **known)) is last


@pytest.mark.parametrize("known", MAPS)
def test_nothing_is_asked_before_the_first_comparison(known: dict[str, Any]) -> None:
    """Whatever else is known."""
    assert judge(prospect(**known)) is Verdict.COMPARE_AGAIN


def test_one_agreement_outweighs_readings_that_failed() -> None:
    """A rotation between two readings, or a chain that could not be read for a moment."""
    for misread in (Comparison(own=KEY, named=None), Comparison(own=OTHER_KEY, named=KEY)):
        assert judge(prospect(misread, SAME)) is Verdict.ASK


def test_readings_that_never_agree_are_no_reason_to_go_on() -> None:
    """Though each of them could be the chain that was away."""
    seen = Comparison(own=KEY, named=None)
    assert judge(prospect(NOTHING, NOTHING, seen)) is Verdict.OTHER_HOTKEY


PLACES: Final[list[tuple[Place | Unknown | None, Verdict]]] = [
    (Unknown.UNKNOWN, Verdict.ASK),
    (None, Verdict.NO_PLACE),
    (Place(ip="::", port=0), Verdict.NO_AXON),
    (Place(ip="::", port=0, blocks_to_wait=3), Verdict.NO_AXON),
    (Place(ip="::", port=1), Verdict.ASK),
    (Place(ip="::", port=1, blocks_to_wait=0), Verdict.ASK),
    (Place(ip="::", port=1, blocks_to_wait=1), Verdict.TOO_SOON),
    (Place(ip="192.0.2.7", port=8091, blocks_to_wait=50), Verdict.TOO_SOON),
]


@pytest.mark.parametrize(("place", "verdict"), PLACES)
@pytest.mark.parametrize("is_forced", [False, True])
def test_place_decides_where_the_identity_is_right(
    place: Place | Unknown | None, verdict: Verdict, *, is_forced: bool
) -> None:
    """What the chain would refuse is not asked for, forced or not."""
    assert judge(prospect(SAME, place=place, is_forced=is_forced)) is verdict
    first = prospect(NOTHING, place=place, is_forced=is_forced, keys={})
    assert judge(first) is verdict


@pytest.mark.parametrize("place", [place for place, _ in PLACES])
def test_place_of_the_wrong_hotkey_does_not_matter(place: Place | Unknown | None) -> None:
    """An axon for the miner would not make the validator's identity the miner's."""
    wrong = (Comparison(own=KEY, named=None),) * ABSENT_CONFIRMATIONS
    assert judge(prospect(*wrong, place=place)) is Verdict.OTHER_HOTKEY


def test_holders_are_those_of_the_identitys_key() -> None:
    """None where the map is not known, or where the key cannot be used."""
    wrong = Comparison(own=KEY, named=OTHER_KEY)
    keys = {ALICE: OTHER_KEY, BOB: KEY, CAROL: KEY}
    assert prospect(wrong, keys=keys).holders() == (BOB, CAROL)
    assert prospect(wrong).holders() == ()
    assert prospect(BOTH_UNUSABLE, NOTHING, keys=keys).holders() == ()


@pytest.mark.parametrize(
    ("minutes_ago", "comparisons", "wait"),
    [
        (0, (SAME,), 10),
        (3, (SAME,), 7),
        (3, (NOTHING, SAME), 7),
        (10, (SAME,), 0),
        (600, (SAME,), 0),
        (-5, (SAME,), 10),
        (3, (), 0),
        (3, (NOTHING,), 0),
        (3, (Comparison(own=KEY, named=OTHER_KEY),), 0),
    ],
)
def test_wait_is_presumed_from_the_pair_on_disk(
    minutes_ago: float, comparisons: tuple[Comparison, ...], wait: float
) -> None:
    """Where its key is the one on chain; never longer than the limit, whatever the clocks say."""
    made_at = NOW - timedelta(minutes=minutes_ago)
    presumed = presumed_wait(prospect(*comparisons), public_key=KEY, made_at=made_at, now=NOW)
    assert presumed == timedelta(minutes=wait)


@pytest.mark.parametrize(
    ("place", "wait"),
    [
        (Place(ip="192.0.2.7", port=8091), 10),
        (Place(ip="192.0.2.7", port=8091, blocks_to_wait=0), 0),
        (Unknown.UNKNOWN, 10),
    ],
)
def test_nothing_is_presumed_where_the_source_knows(place: Place | Unknown, wait: int) -> None:
    """The chain itself says how many blocks are left."""
    known = prospect(SAME, place=place)
    presumed = presumed_wait(known, public_key=KEY, made_at=NOW, now=NOW)
    assert presumed == timedelta(minutes=wait)


SOON, NO_AXON, NO_PLACE = Verdict.TOO_SOON, Verdict.NO_AXON, Verdict.NO_PLACE


@pytest.mark.parametrize(
    ("known", "minutes", "causes"),
    [
        (prospect(SAME), 0, (SOON,)),
        (prospect(SAME), 7, (SOON,)),
        (prospect(NOTHING), 0, (SOON, NO_AXON, NO_PLACE)),
        (prospect(NOTHING, place=Unknown.UNKNOWN), 0, (NO_AXON, SOON, NO_PLACE)),
        (prospect(SAME, place=Unknown.UNKNOWN), 0, (NO_AXON, SOON, NO_PLACE)),
        (prospect(SAME, place=Unknown.UNKNOWN), 7, (SOON, NO_AXON, NO_PLACE)),
    ],
)
def test_refusal_is_explained_with_what_is_left(
    known: Prospect, minutes: float, causes: tuple[Verdict, ...]
) -> None:
    """The likeliest cause first; none that was ruled out."""
    assert likely_refusals(known, presumed=timedelta(minutes=minutes)) == causes


KEYS: Final = st.sampled_from([None, UNUSABLE, KEY, OTHER_KEY])
ANY_PROSPECT: Final = st.builds(
    Prospect,
    hotkey=st.just(ALICE),
    is_forced=st.booleans(),
    place=st.sampled_from([place for place, _ in PLACES]),
    comparisons=st.lists(st.builds(Comparison, own=KEYS, named=KEYS), max_size=4).map(tuple),
    subnet=st.none()
    | st.builds(
        KeyMap,
        keys=st.dictionaries(st.sampled_from([ALICE, BOB]), st.sampled_from([KEY, OTHER_KEY])),
        rejected=st.integers(0, 1),
    ),
)


@given(ANY_PROSPECT)
def test_pair_is_asked_for_only_where_no_key_of_another_hotkey_can_be_seen(known: Prospect) -> None:
    """Either the keys agreed, or the identity has shown none in any reading."""
    if judge(known) is not Verdict.ASK:
        return
    agreed = [each for each in known.comparisons if each.own and each.own == each.named]
    unusable = [each for each in known.comparisons if each == BOTH_UNUSABLE]
    assert agreed or unusable or all(each == NOTHING for each in known.comparisons)
    assert known.comparisons
    assert isinstance(known.place, Unknown) or (known.place is not None and known.place.port)
