"""Who among the registered may enter."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.domain import policy as policy_module
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron, StakeKind
from nexus_auth.domain.policy import (
    ADMIT_REGISTERED,
    AccessPolicy,
    AdmitNone,
    MinStake,
    NotHotkeys,
    OnlyHotkeys,
    PolicySet,
    RequireActive,
    RequireUid,
    RequireValidatorPermit,
    Rule,
    parse_policy_name,
)
from tests.builders import a_hotkey

NAMES = ["alice", "bob", "carol", "dave"]
hotkeys = st.sampled_from([a_hotkey(name) for name in NAMES])
stakes = st.floats(min_value=0, max_value=1e9, allow_nan=False)
neurons = st.none() | st.builds(
    Neuron,
    uid=st.integers(0, 65535),
    validator_permit=st.booleans(),
    active=st.booleans(),
    alpha=stakes,
    tao=stakes,
    total=stakes,
)
rules: st.SearchStrategy[Rule] = st.one_of(
    st.builds(OnlyHotkeys, st.frozensets(hotkeys)),
    st.builds(NotHotkeys, st.frozensets(hotkeys)),
    st.just(RequireUid()),
    st.just(AdmitNone("closed")),
    st.just(RequireValidatorPermit()),
    st.just(RequireActive()),
    st.builds(MinStake, st.sampled_from(StakeKind), stakes),
)
rule_lists = st.lists(rules, max_size=6).map(tuple)


def a_neuron(
    *, validator_permit: bool = True, active: bool = True, total: float = 1000.0
) -> Neuron:
    """A neuron that most rules admit."""
    return Neuron(
        uid=7, validator_permit=validator_permit, active=active, alpha=10.0, tao=20.0, total=total
    )


def admits(policy: AccessPolicy, hotkey: Hotkey, neuron: Neuron | None) -> bool:
    """Whether a policy has no objection."""
    return policy.objection(hotkey, neuron) is None


@given(hotkeys, neurons)
def test_policy_without_rules_admits_every_registered_hotkey(
    hotkey: Hotkey, neuron: Neuron | None
) -> None:
    """An empty policy leaves the decision to the proof of registration."""
    assert ADMIT_REGISTERED.objection(hotkey, neuron) is None
    assert not ADMIT_REGISTERED.needs_neurons


@given(hotkeys, neurons, rule_lists, rules)
def test_adding_a_rule_never_admits_more(
    hotkey: Hotkey, neuron: Neuron | None, some: tuple[Rule, ...], one: Rule
) -> None:
    """A rule can only refuse."""
    fewer = AccessPolicy(name="fewer", rules=some)
    more = AccessPolicy(name="more", rules=(*some, one))
    assert not (admits(more, hotkey, neuron) and not admits(fewer, hotkey, neuron))


@given(hotkeys, neurons, rule_lists, st.randoms(use_true_random=False))
def test_order_of_rules_does_not_matter(
    hotkey: Hotkey, neuron: Neuron | None, some: tuple[Rule, ...], rng: random.Random
) -> None:
    """Whoever is admitted in one order is admitted in every order."""
    shuffled = list(some)
    rng.shuffle(shuffled)
    before = AccessPolicy(name="before", rules=some)
    after = AccessPolicy(name="after", rules=tuple(shuffled))
    assert admits(before, hotkey, neuron) == admits(after, hotkey, neuron)


@given(hotkeys, neurons, rule_lists)
def test_deny_wins(hotkey: Hotkey, neuron: Neuron | None, some: tuple[Rule, ...]) -> None:
    """A denied hotkey is refused whatever else stands in the policy, an allow list included."""
    allow_and_deny = (*some, OnlyHotkeys(frozenset({hotkey})), NotHotkeys(frozenset({hotkey})))
    assert not admits(AccessPolicy(name="p", rules=allow_and_deny), hotkey, neuron)


@given(hotkeys, neurons)
def test_empty_allow_list_admits_nobody(hotkey: Hotkey, neuron: Neuron | None) -> None:
    """An empty list of allowed hotkeys is a list, not the absence of one."""
    assert not admits(AccessPolicy(name="p", rules=(OnlyHotkeys(frozenset()),)), hotkey, neuron)


@pytest.mark.parametrize(
    ("rule", "neuron", "objection"),
    [
        (RequireUid(), None, "has no uid on the subnet"),
        (RequireUid(), a_neuron(), None),
        (RequireValidatorPermit(), None, "has no uid on the subnet"),
        (RequireValidatorPermit(), a_neuron(validator_permit=False), "has no validator permit"),
        (RequireValidatorPermit(), a_neuron(), None),
        (RequireActive(), None, "has no uid on the subnet"),
        (RequireActive(), a_neuron(active=False), "is not active"),
        (RequireActive(), a_neuron(), None),
        (MinStake(StakeKind.TOTAL, 1000), None, "has no uid on the subnet"),
        (MinStake(StakeKind.TOTAL, 1000), a_neuron(total=12.5), "stake 12.5 below 1000 total"),
        (MinStake(StakeKind.TOTAL, 1000), a_neuron(total=1000.0), None),
        (MinStake(StakeKind.ALPHA, 10.5), a_neuron(), "stake 10 below 10.5 alpha"),
        (MinStake(StakeKind.TAO, 20), a_neuron(), None),
    ],
)
def test_rule_says_what_it_objects_to(
    rule: Rule, neuron: Neuron | None, objection: str | None
) -> None:
    """Each rule objects for its own reason, and only then."""
    assert rule.objection(a_hotkey(), neuron) == objection


def test_explanation_names_every_rule() -> None:
    """An explanation goes on where the decision stops at the first objection."""
    policy = AccessPolicy(name="p", rules=(RequireUid(), RequireActive(), OnlyHotkeys(frozenset())))
    explained = policy.explain(a_hotkey(), a_neuron(active=False))
    assert [objection for _, objection in explained] == [
        None,
        "is not active",
        "is not on the list of allowed hotkeys",
    ]


def test_facts_are_needed_only_where_a_rule_looks_at_them() -> None:
    """Lists of hotkeys need nothing from the chain."""
    lists = AccessPolicy(name="lists", rules=(NotHotkeys(frozenset()), OnlyHotkeys(frozenset())))
    stake = AccessPolicy(name="stake", rules=(MinStake(StakeKind.TAO, 1),))
    assert not lists.needs_neurons
    assert not PolicySet.of(lists).needs_neurons
    assert PolicySet(policies={"lists": lists, "stake": stake}, default="lists").needs_neurons


EVERY_RULE: list[Rule] = [
    OnlyHotkeys(frozenset({a_hotkey()})),
    NotHotkeys(frozenset()),
    RequireUid(),
    RequireValidatorPermit(),
    RequireActive(),
    MinStake(StakeKind.ALPHA, 0),
    AdmitNone("closed"),
]


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: type(rule).__name__)
def test_rule_says_truly_whether_it_needs_neurons(rule: Rule) -> None:
    """One that looks at the neuron while none is fetched would deny every caller."""
    looks_at_it = rule.objection(a_hotkey(), a_neuron()) != rule.objection(a_hotkey(), None)
    assert rule.needs_neuron is looks_at_it


def test_every_kind_of_rule_is_checked_for_that() -> None:
    """A new kind of rule has its row above."""
    kinds = {
        kind
        for kind in vars(policy_module).values()
        if isinstance(kind, type) and hasattr(kind, "objection") and hasattr(kind, "demand")
    }
    assert kinds - {Rule} == {type(rule) for rule in EVERY_RULE}


def test_unknown_policy_name_gives_no_policy() -> None:
    """A name that is not there is not silently the default."""
    policies = PolicySet.of(ADMIT_REGISTERED)
    assert policies.named(None) is ADMIT_REGISTERED
    assert policies.named("registered") is ADMIT_REGISTERED
    assert policies.named("nope") is None
    with pytest.raises(ValueError, match="none of the policies"):
        PolicySet(policies={}, default="registered")


def test_set_of_policies_does_not_change() -> None:
    """Neither by the mapping that it was made of, nor by itself."""
    policies = {"registered": ADMIT_REGISTERED}
    made = PolicySet(policies=policies, default="registered")
    policies.clear()
    assert made.named(None) is ADMIT_REGISTERED
    with pytest.raises(TypeError):
        made.policies["other"] = ADMIT_REGISTERED  # type: ignore[index] # The point of the test.


@pytest.mark.parametrize("name", ["a", "A-b_c.1", "x" * 64])
def test_policy_name_is_read_as_it_stands(name: str) -> None:
    """Plain in a file, in a header and in a proxy's configuration."""
    assert parse_policy_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a\n", "é", "x" * 65, "a,b", "a/b"])
def test_odd_policy_name_is_refused(name: str) -> None:
    """No policy can have it."""
    with pytest.raises(ValueError, match="letters, digits"):
        parse_policy_name(name)


@given(hotkeys, neurons, st.lists(st.text(), max_size=3))
@example(a_hotkey(), None, ["registered", "registered"])
@example(a_hotkey(), None, ["registered", ""])
@example(a_hotkey(), None, [""])
def test_choice_that_is_not_understood_refuses_everybody(
    hotkey: Hotkey, neuron: Neuron | None, names: list[str]
) -> None:
    """No name means the default, one known name that policy, anything else nobody."""
    policies = PolicySet.of(ADMIT_REGISTERED)
    assert policies.chosen(["registered"]) is policies.chosen([]) is ADMIT_REGISTERED
    if names not in ([], ["registered"]):
        assert not admits(policies.chosen(names), hotkey, neuron)


@pytest.mark.parametrize(
    ("rule", "demand"),
    [
        (OnlyHotkeys(frozenset({a_hotkey()})), "on the list of 1 allowed"),
        (NotHotkeys(frozenset()), "not on the list of 0 denied"),
        (RequireUid(), "a uid on the subnet"),
        (RequireValidatorPermit(), "a validator permit"),
        (RequireActive(), "active"),
        (MinStake(StakeKind.ALPHA, 2.5), "stake of at least 2.5 alpha"),
        (AdmitNone("closed"), "no hotkey"),
    ],
)
def test_rule_says_what_it_demands(rule: Rule, demand: str) -> None:
    """For people who want to know why."""
    assert rule.demand == demand


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -1.0])
def test_stake_that_is_no_amount_is_refused(amount: float) -> None:
    """NaN compares false with everything, so it must never become a stake or a minimum."""
    with pytest.raises(ValueError, match="stake"):
        a_neuron(total=amount)
    with pytest.raises(ValueError, match="stake"):
        MinStake(StakeKind.TOTAL, amount)


@pytest.mark.parametrize("uid", [-1, 65536])
def test_uid_outside_its_range_is_refused(uid: int) -> None:
    """A uid has sixteen bits."""
    with pytest.raises(ValueError, match="uid"):
        Neuron(uid=uid, validator_permit=True, active=True, alpha=0, tao=0, total=0)
