"""Policies written in TOML, and in settings."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.adapters.policy.parsing import (
    MAX_FILE_BYTES,
    HotkeyList,
    PolicyInvalid,
    StakeMinimums,
    build_policies,
    load_policies,
    parse_policies,
)
from nexus_auth.domain.neuron import StakeKind
from nexus_auth.domain.policy import (
    ADMIT_REGISTERED,
    MinStake,
    NotHotkeys,
    OnlyHotkeys,
    RequireActive,
    RequireUid,
    RequireValidatorPermit,
)
from tests.builders import a_hotkey

ALICE = a_hotkey("alice")
BOB = a_hotkey("bob")
FULL = f"""
default = "validators"

[policies.validators]
require_validator_permit = true
require_uid = true
require_active = true
min_stake = {{ total = 1000, alpha = "2.5e10 rao" }}
allow = ["{ALICE}"]
deny = ["{BOB}"]

[policies.everybody]
"""


def test_pipe_that_nobody_writes_to_is_no_policy(tmp_path: Path) -> None:
    """Nor is it waited for: the service would neither start nor look at the file again."""
    path = tmp_path / "policy.toml"
    os.mkfifo(path)
    with pytest.raises(PolicyInvalid):
        load_policies(path)


def test_every_rule_is_read() -> None:
    """Each key becomes its rule; an empty table is a policy without rules."""
    policies = parse_policies(FULL)
    assert policies.default == "validators"
    validators = policies.named("validators")
    everybody = policies.named("everybody")
    assert validators is not None
    assert everybody is not None
    assert set(validators.rules) == {
        NotHotkeys(frozenset({BOB})),
        OnlyHotkeys(frozenset({ALICE})),
        RequireUid(),
        RequireValidatorPermit(),
        RequireActive(),
        MinStake(StakeKind.TOTAL, 1000.0),
        MinStake(StakeKind.ALPHA, 25.0),
    }
    assert everybody.rules == ()


def test_switch_that_is_off_is_no_rule() -> None:
    """`false` means that there is no such rule."""
    policies = parse_policies("[policies.p]\nrequire_active = false")
    assert policies.named("p") is not None
    assert policies.named(None) == policies.named("p")
    assert not policies.needs_neurons


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "policies"),
        ("policies = 3", "policies"),
        ("[policies]", "policies"),
        ("policies.p = 3", "policies.p"),
        ("[policies.'a b']", "policies"),
        ("[policies.p]\n[policies.q]", "default"),
        ("default = 'x'\n[policies.p]", "default"),
        ("defualt = 'p'\n[policies.p]", "defualt"),
        ("[policies.p]\nrequire_validator_permits = true", "policies.p.require_validator_permits"),
        ("[policies.p]\nrequire_active = 1", "policies.p.require_active"),
        ("[policies.p]\nallow = 'x'", "policies.p.allow"),
        ("[policies.p]\nallow = ['x']", "policies.p.allow"),
        ("[policies.p]\ndeny = [3]", "policies.p.deny"),
        (f"[policies.p]\ndeny = ['{ALICE} ']", "policies.p.deny"),
        ("[policies.p]\nmin_stake = 3", "policies.p.min_stake"),
        ("[policies.p]\nmin_stake = {}", "policies.p.min_stake"),
        ("[policies.p]\nmin_stake = { gold = 3 }", "policies.p.min_stake.gold"),
        ("[policies.p]\nmin_stake = { tao = true }", "policies.p.min_stake.tao"),
        ("[policies.p]\nmin_stake = { tao = -1 }", "policies.p.min_stake.tao"),
        ("[policies.p]\nmin_stake = { tao = nan }", "policies.p.min_stake.tao"),
        ("[policies.p]\nmin_stake = { tao = inf }", "policies.p.min_stake.tao"),
        ("[policies.p]\nmin_stake = { tao = '3 pounds' }", "policies.p.min_stake.tao"),
        (f"[policies.p]\nmin_stake = {{ tao = {10**400} }}", "policies.p.min_stake.tao"),
        (f"[policies.p]\nmin_stake = {{ tao = {'9' * 5000} }}", ""),
        ("[policies.p", ""),
    ],
)
def test_wrong_text_is_refused_with_its_place(text: str, place: str) -> None:
    """Nothing is guessed, and the place in the file is named."""
    with pytest.raises(PolicyInvalid) as caught:
        parse_policies(text)
    assert caught.value.place == place


@pytest.mark.parametrize(
    "text",
    [
        r'"\u001b]0;evil\u0007" = 1',
        r"""[policies.p]
"\u001b[2J" = 1""",
        r"""[policies.p]
min_stake = { "\u009b\u202e\n" = 1 }""",
        f"{'x' * 100_000} = 1",
    ],
)
def test_message_of_a_refusal_is_one_short_line_of_ascii(text: str) -> None:
    """It is written to terminals; a quoted key may hold anything."""
    with pytest.raises(PolicyInvalid, match="unknown") as caught:
        parse_policies(text)
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 500


@given(st.text(max_size=200) | st.text(alphabet="[]policies.=\n\"'{}tao 0", max_size=80))
def test_any_text_gives_policies_or_our_error(text: str) -> None:
    """Totality: no other exception escapes."""
    with contextlib.suppress(PolicyInvalid):
        parse_policies(text)


def test_file_is_read(tmp_path: Path) -> None:
    """A file says the same as its text."""
    path = tmp_path / "policy.toml"
    path.write_text(FULL)
    assert load_policies(path) == parse_policies(FULL)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"#" * (1024 * 1024 + 1)])
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """Missing, not text, or absurdly long."""
    path = tmp_path / "policy.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PolicyInvalid, match=r"policy\.toml"):
        load_policies(path)


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


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 66) + " = 1",
        ".".join("a" * 200_000) + " = 1",
        "[" + ".".join("a" * 200_000) + "]",
        "a = { " + ".".join("a" * 200_000) + " = 1 }",
        "".join(f"[a{number}.b]\n" for number in range(5_000)),
        "a = [" + "[]," * 5_000 + "]",
        "a = [" + "{}," * 5_000 + "]",
        "a = " + "1" * 200_000,
        "a = 0." + "1" * 200_000,
        "a = 0x" + "f_" * 100_000,
        "a = " + "[" * 100_000 + "]" * 100_000,
    ],
)
def test_text_that_would_take_all_time_and_memory_is_refused(text: str) -> None:
    """A key of thousands of parts takes both by the square; none of this is parsed."""
    with pytest.raises(PolicyInvalid, match="more than a policy can hold"):
        parse_policies(text)


def test_policy_that_lists_the_largest_subnet_is_read(tmp_path: Path) -> None:
    """In one list or in two, one to a line, with comments: the bounds are above what is honest."""
    hotkeys = [a_hotkey(str(number)) for number in range(4096)]
    lines = "".join(f'    "{each}",\n    # Seen at v. 1.2.3.\n' for each in hotkeys)
    denied = ", ".join(repr(str(each)) for each in hotkeys[:1000])
    path = tmp_path / "policy.toml"
    path.write_text(
        f'# {"." * 100}\ndefault = "b"\n[policies.a.min_stake]\ntotal = 0.5\n'
        f"[policies.b]\nallow = [\n{lines}]\ndeny = [{denied}]\n"
    )
    policies = load_policies(path)
    (deny, allow) = policies.policies["b"].rules
    assert deny == NotHotkeys(frozenset(hotkeys[:1000]))
    assert allow == OnlyHotkeys(frozenset(hotkeys))


def test_file_of_more_than_half_a_megabyte_is_refused(tmp_path: Path) -> None:
    """It is not read to its end."""
    path = tmp_path / "policy.toml"
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(PolicyInvalid, match="longer"):
        load_policies(path)
