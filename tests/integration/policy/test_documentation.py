"""What docs/policy.md shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from nexus_auth.adapters.policy.parsing import parse_policies
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.policy import PolicySet
from nexus_auth.entrypoints.cli import build_parser
from nexus_auth.entrypoints.container import build_container
from nexus_auth.entrypoints.settings import Settings

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "policy.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


SETTINGS: Final = [block.strip() for block in blocks("sh") if block.startswith("NEXUS_")]


def policies_of(block: str) -> PolicySet:
    """The policies of a service with these settings."""
    settings = Settings.load(environ=dict(line.split("=", 1) for line in block.splitlines()))
    policies: PolicySet = build_container(settings).policies()()
    return policies


def a_neuron(**changes: Any) -> Neuron:
    """A validator with much stake, and the changes that are named."""
    facts: dict[str, Any] = {"uid": 1, "validator_permit": True, "active": True}
    facts |= {"alpha": 10.0, "tao": 2000.0, "total": 2010.0, **changes}
    return Neuron(**facts)


def listed(block: str) -> list[Any]:
    """The hotkeys that a block names."""
    from nexus_auth.domain.hotkey import Hotkey

    return [Hotkey.parse(text) for text in re.findall(r"5[1-9A-HJ-NP-Za-km-z]{47}", block)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_each_of_the_four_settings_does_what_it_says() -> None:
    """Validators, stake, a private beta, everybody but one."""
    validators, stake, beta, ban = (policies_of(block).chosen([]) for block in SETTINGS)
    other, first, second = listed(TEXT)[1], *listed(SETTINGS[2])
    assert validators.objection(other, a_neuron()) is None
    assert validators.objection(other, a_neuron(validator_permit=False)) is not None
    assert stake.objection(other, a_neuron()) is None
    assert stake.objection(other, a_neuron(total=999.0)) == "stake 999 below 1000 total"
    assert beta.objection(first, None) is None
    assert beta.objection(second, None) is None
    assert beta.objection(a_stranger(), None) is not None
    assert ban.objection(a_stranger(), None) is None
    assert ban.objection(listed(SETTINGS[3])[0], None) is not None


def a_stranger() -> Any:
    """A hotkey that the page does not name."""
    from tests.builders import a_hotkey

    return a_hotkey("stranger")


def test_settings_within_sentences_are_valid() -> None:
    """Every `NEXUS_AUTH_...=value` of the text."""
    found = re.findall(r"`(NEXUS_AUTH_[A-Z_]+)=([^`\n]+)`", TEXT)
    assert len(found) >= 3
    # What a source needs besides stands on the page of the configuration.
    chain = {"NEXUS_CHAIN_ENDPOINT": "ws://node:9944", "NEXUS_PYLON_NETUID": "1"}
    for name, value in found:
        Settings.load(environ={**chain, name: value})


def test_the_file_is_valid_and_means_what_the_page_says() -> None:
    """Its default, its three policies, its lists."""
    (text,) = blocks("toml")
    policies = parse_policies(text)
    assert policies.default == "validators"
    banned, member = listed(text)
    admits: Callable[[str, Any], bool] = lambda name, who: (  # noqa: E731 - short
        policies.chosen([name]).objection(who, a_neuron()) is None
    )
    assert [admits(name, member) for name in ("validators", "team", "registered")] == [True] * 3
    assert [admits(name, banned) for name in ("validators", "team", "registered")] == [
        False,
        False,
        True,
    ]


def test_every_rule_is_in_the_table() -> None:
    """And nothing else is."""
    rows = re.findall(r"^\| `(\w+) = (.*?)` \|", TEXT, re.MULTILINE)
    assert {name for name, _ in rows} == {
        *("allow", "deny", "require_uid", "require_validator_permit", "require_active"),
        "min_stake",
    }
    for name, value in rows:
        parse_policies(f"[policies.p]\n{name} = {value.replace('...', '')}\n")


def test_the_commands_are_commands() -> None:
    """With the flags that are shown."""
    (commands,) = [block for block in blocks("sh") if block.startswith("nexus-auth")]
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "nexus-auth"
        build_parser(only=arguments[0]).parse_args(arguments)
