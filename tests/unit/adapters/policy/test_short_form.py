from __future__ import annotations

import pytest

from nexus_auth.adapters.policy.short_form import HotkeyList, StakeMinimums, build_policies
from nexus_auth.domain.neuron import StakeKind
from nexus_auth.domain.policy import ADMIT_REGISTERED, MinStake
from tests.builders import a_hotkey

ALICE, BOB = a_hotkey("alice"), a_hotkey("bob")


def test_hotkeys_are_listed_with_commas() -> None:
    """What is shown can be read again."""
    parsed = HotkeyList.parse(f"{BOB}, {ALICE},{BOB}")
    assert parsed.hotkeys == {ALICE, BOB}
    assert HotkeyList.parse(str(parsed)) == parsed


@pytest.mark.parametrize("text", ["", "self", f"{ALICE},", f"{ALICE};{BOB}", str(ALICE)[:-1]])
def test_list_with_anything_else_in_it_is_refused(text: str) -> None:
    """A ban that was misspelt must not silently be no ban."""
    with pytest.raises(ValueError, match="entry"):
        HotkeyList.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1000", (MinStake(StakeKind.TOTAL, 1000),)),
        ("5e9 rao", (MinStake(StakeKind.TOTAL, 5),)),
        ("alpha=2.5", (MinStake(StakeKind.ALPHA, 2.5),)),
        (
            " total=1000, alpha = 5 tokens ",
            (MinStake(StakeKind.TOTAL, 1000), MinStake(StakeKind.ALPHA, 5)),
        ),
    ],
)
def test_stake_is_given_by_kind(text: str, expected: tuple[MinStake, ...]) -> None:
    """A bare amount means the total; what is shown can be read again."""
    parsed = StakeMinimums.parse(text)
    assert parsed.rules == expected
    assert StakeMinimums.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    ["", "lots", "-1", "nan", "inf", "1e999", "total=", "beta=1", "total=1,total=2", "1,2", "1;2"],
)
def test_stake_that_is_not_understood_is_refused(text: str) -> None:
    """Neither is a kind that is named twice."""
    with pytest.raises(ValueError, match="expected an amount"):
        StakeMinimums.parse(text)


def test_settings_make_one_policy_in_which_deny_wins() -> None:
    """The rules are those of a file; without any, every registered hotkey is admitted."""
    assert build_policies().named(None) is ADMIT_REGISTERED
    policies = build_policies(
        allow=HotkeyList(frozenset({ALICE, BOB})),
        deny=HotkeyList(frozenset({BOB})),
        require_validator_permit=True,
        min_stake=StakeMinimums.parse("1"),
    )
    policy = policies.named("default")
    assert policy is policies.named(None)
    assert policy is not None
    assert [rule.demand for rule in policy.rules] == [
        "not on the list of 1 denied",
        "on the list of 2 allowed",
        "a validator permit",
        "stake of at least 1 total",
    ]
    assert policy.objection(BOB, None) == "is on the list of denied hotkeys"
