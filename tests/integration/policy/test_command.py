"""`nexus-auth policy` against a Pylon."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nexus_auth.entrypoints.cli import main
from tests.builders import a_certificate, a_hotkey, a_key, to_pem
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.service.running import register

ALICE, BOB = a_hotkey("alice"), a_hotkey("bob")
POLICIES = f"""
default = "validators"

[policies.validators]
deny = ["{a_hotkey("dave").address}"]
require_validator_permit = true
min_stake = {{ total = 1000 }}

[policies.friends]
allow = ["{BOB.address}"]
"""


@pytest.fixture(scope="module")
def pylon() -> Iterator[RunningPylon]:
    """Alice validates, bob has too little of everything, carol has no neuron."""
    with running_pylon() as pylon:
        pylon.store.set_neuron(ALICE, tao=5000.0, validator_permit=True)
        pylon.store.set_neuron(BOB, tao=12.5)
        register(pylon, "alice", "bob", "carol")
        yield pylon


@pytest.fixture(autouse=True)
def _settings(pylon: RunningPylon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a policy file, and settings that name both."""
    monkeypatch.chdir(tmp_path)
    Path("policy.toml").write_text(POLICIES)
    for name, value in {
        "NEXUS_PYLON_ENDPOINT": pylon.url,
        "NEXUS_PYLON_NETUID": str(pylon.netuid),
        "NEXUS_PYLON_OPEN_ACCESS_TOKEN": pylon.open_access_token,
        "NEXUS_AUTH_POLICY_FILE": "policy.toml",
    }.items():
        monkeypatch.setenv(name, value)


def test_valid_file_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What it says, the default first."""
    assert main(["policy", "check"]) == 0
    assert capsys.readouterr().out == (
        "policy.toml: valid\n\nvalidators (default)\n  not on the list of 1 denied\n"
        "  a validator permit\n  stake of at least 1000 total\n\nfriends\n"
        "  on the list of 1 allowed\n"
    )
    assert main(["policy", "check", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["default"] == "validators"
    assert shown["policies"]["friends"] == {
        "rules": ["on the list of 1 allowed"],
        "needs_neurons": False,
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[policies.a]\nmin_stakes = 1\n", r"policies\.a\.min_stakes: unknown"),
        ("[policies.a]\n[policies.b]\n", "default: expected one of a, b"),
        ("[policies", "not valid TOML"),
    ],
)
def test_file_that_is_not_valid_is_refused(
    capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    """In one line that says where and what."""
    Path("other.toml").write_text(text)
    assert main(["policy", "check", "other.toml"]) == 2
    said = capsys.readouterr()
    assert re.search(problem, said.err)
    assert len(said.err.splitlines()) == 1
    assert not said.out


@pytest.mark.parametrize(
    "command", [["policy", "check"], ["policy", "explain", ALICE.address], ["verify", "client.crt"]]
)
def test_misspelt_setting_is_called_out(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer holds without it: a rule that was misspelt must not silently be no rule."""
    Path("client.crt").write_bytes(to_pem(a_certificate(hotkey=ALICE)))
    monkeypatch.setenv("NEXUS_AUTH_MIN_STAK", "1000")
    main(command)
    assert "did you mean NEXUS_AUTH_MIN_STAKE?" in capsys.readouterr().err


def test_admitted_hotkey_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Rule by rule, with the facts."""
    assert main(["policy", "explain", ALICE.address]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^registered +yes$", out, re.MULTILINE)
    assert "validator permit, active, stake 5000 total (0 alpha, 5000 tao)" in out
    assert out.count("  ok  ") == 3
    assert out.endswith("\nadmitted\n")


def test_every_objection_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """An explanation goes on where the decision stops."""
    assert main(["policy", "explain", BOB.address, "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert not shown["admitted"]
    assert (shown["reason"], shown["detail"]) == ("not-permitted", "has no validator permit")
    assert [rule["objection"] for rule in shown["rules"]] == [
        None,
        "has no validator permit",
        "stake 12.5 below 1000 total",
    ]
    assert main(["policy", "explain", BOB.address, "-policy", "friends"]) == 0


def test_policy_without_need_asks_for_no_neurons(
    capsys: pytest.CaptureFixture[str], pylon: RunningPylon
) -> None:
    """Facts are fetched only where some rule looks at them."""
    asked = len(pylon.requests)
    assert main(["policy", "explain", ALICE.address, "--policy", "friends"]) == 1
    assert "is not on the list of allowed hotkeys" in capsys.readouterr().out
    assert not any("neurons" in record.path for record in pylon.requests[asked:])


@pytest.mark.parametrize(
    ("who", "reason"), [("carol", "has no uid on the subnet"), ("mallory", "not-registered")]
)
def test_hotkey_without_a_place_is_not_admitted(
    capsys: pytest.CaptureFixture[str], who: str, reason: str
) -> None:
    """Neither without a neuron nor without a key."""
    assert main(["policy", "explain", a_hotkey(who).address]) == 1
    assert reason in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["explain", "5Foo"], "HOTKEY"),
        (["explain", ALICE.address, "-policy", "nope"], "only validators, friends"),
        (["check", "missing.toml"], "No such file"),
    ],
)
def test_wrong_usage_is_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    """With the exit code of wrong usage, and without asking Pylon."""
    assert main(["policy", *arguments]) == 2
    assert problem in capsys.readouterr().err


def test_pylon_that_does_not_answer_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither yes nor no."""
    monkeypatch.setenv("NEXUS_PYLON_ENDPOINT", "http://127.0.0.1:9")
    assert main(["policy", "explain", ALICE.address]) == 3
    assert "could not be asked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("who", "arguments", "code", "said"),
    [
        ("alice", [], 0, "granted"),
        ("bob", [], 1, "not-permitted (has no validator permit)"),
        ("bob", ["-policy", "friends"], 0, "granted"),
        ("carol", ["--policy", "validators"], 1, "not-permitted (has no uid on the subnet)"),
        ("alice", ["-policy", "nope"], 2, ""),
    ],
)
def test_verify_takes_the_policy_into_account(
    capsys: pytest.CaptureFixture[str], who: str, arguments: list[str], code: int, said: str
) -> None:
    """As the service would, and under any name."""
    now = datetime.now(UTC)
    certificate = a_certificate(
        hotkey=a_hotkey(who), key=a_key(who), not_before=now, not_after=now + timedelta(days=1)
    )
    Path("client.crt").write_bytes(to_pem(certificate))
    assert main(["verify", "client.crt", *arguments]) == code
    assert said in capsys.readouterr().out
