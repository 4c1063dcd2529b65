"""Policies in the service as a process: facts, names, reloading, several workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import a_hotkey
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import wait_until_ready
from tests.integration.service.running import (
    RunningService,
    a_header,
    register,
    running_service,
    service_environment,
)

POLICIES = """
default = "everybody"

[policies.everybody]

[policies.validators]
require_validator_permit = true
min_stake = { total = 1000 }
"""
NO_BOB = f"""
[policies.everybody]
deny = ["{a_hotkey("bob").address}"]
"""
BROKEN = '[policies.everybody]\ndeny = ["bob"]\n'
VALIDATORS = {"X-Nexus-Auth-Policy": "validators"}
FIRST_GENERATION: dict[str, Any] = {
    "NEXUS_PYLON_NETUID": "",
    "NEXUS_PYLON_IDENTITY_NAME": "",
    "NEXUS_PYLON_IDENTITY_TOKEN": "",
}


@pytest.fixture(scope="module")
def pylon() -> Iterator[RunningPylon]:
    """Alice validates, bob has too little stake, carol has a key and no neuron."""
    with running_pylon() as pylon:
        pylon.store.set_neuron(a_hotkey("alice"), tao=5000.0, validator_permit=True)
        pylon.store.set_neuron(a_hotkey("bob"), tao=12.5, validator_permit=True)
        register(pylon, "alice", "bob", "carol")
        yield pylon


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The policies of these tests in a file."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICIES)
    return path


def replace(path: Path, text: str) -> None:
    """Replaces a file in one step."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def outcome(service: RunningService, who: str, **headers: str) -> str | None:
    """None for a grant, the code for a denial."""
    answered = service.ask(a_header(who), **headers)
    if answered.status == 200:
        assert answered.headers["X-Hotkey"] == a_hotkey(who).address
        assert 0 < int(answered.headers["X-Accel-Expires"]) <= 5
        return None
    assert "X-Accel-Expires" not in answered.headers
    assert b"stake" not in answered.body
    return answered.reason


def soon(condition: Callable[[], Any]) -> None:
    """Waits until something holds."""
    wait_until_ready(lambda: bool(condition()), what="the change")


def test_policy_from_a_file_is_chosen_by_name(
    pylon: RunningPylon, tmp_path: Path, file: Path
) -> None:
    """Who may enter depends on the policy; the log knows why, the wire does not."""
    with running_service(
        tmp_path,
        pylon.url,
        NEXUS_AUTH_POLICY_FILE=str(file),
        NEXUS_AUTH_GRANT_HEADERS="uid,validator,stake",
    ) as service:
        for _ in range(2):
            for who in ("alice", "bob", "carol"):
                assert outcome(service, who) is None
            assert outcome(service, "alice", **VALIDATORS) is None
            assert outcome(service, "bob", **VALIDATORS) == "not-permitted"
            assert outcome(service, "carol", **VALIDATORS) == "not-permitted"
        assert outcome(service, "alice", **{"X-Nexus-Auth-Policy": "nope"}) == "not-permitted"
        # Who he is comes before what he may.
        assert outcome(service, "mallory", **VALIDATORS) == "not-registered"
        details = {
            (line["hotkey"], line["detail"])
            for line in service.lines("decision")
            if line["code"] == "not-permitted"
        }
        assert details == {
            (a_hotkey("bob").address, "stake 12.5 below 1000 total"),
            (a_hotkey("carol").address, "has no uid on the subnet"),
            (a_hotkey("alice").address, "the policy that was asked for does not exist"),
        }
        headers = service.ask(a_header("alice")).headers
        neuron = pylon.store.neuron(a_hotkey("alice"))
        assert neuron is not None
        assert headers["X-Hotkey-Uid"] == str(neuron.uid)
        assert headers["X-Hotkey-Validator"] == "true"
        assert headers["X-Hotkey-Stake"] == "5000"
        assert "X-Hotkey-Uid" not in service.ask(a_header("carol")).headers
        _, ready = service.admin("/readyz")
        assert ready["policy"]["names"] == ["everybody", "validators"]
        assert ready["policy"]["problem"] is None


def test_policy_from_settings_needs_no_file(pylon: RunningPylon, tmp_path: Path) -> None:
    """The four settings together make the default policy."""
    with running_service(
        tmp_path,
        pylon.url,
        NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT="true",
        NEXUS_AUTH_MIN_STAKE="1000",
        NEXUS_AUTH_DENY_HOTKEYS=a_hotkey("dave").address,
    ) as service:
        assert outcome(service, "alice") is None
        assert outcome(service, "bob") == "not-permitted"
        assert outcome(service, "alice", **VALIDATORS) == "not-permitted"
        assert "X-Hotkey-Uid" not in service.ask(a_header("alice")).headers


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("by", ["change", "signal"])
def test_changed_file_comes_into_force_and_a_broken_one_does_not(
    pylon: RunningPylon, tmp_path: Path, file: Path, by: str, workers: str
) -> None:
    """In every worker, remembered callers included; the old policy outlives a mistake."""

    def change(text: str) -> None:
        replace(file, text)
        if by == "signal":
            os.kill(service.process.pid, signal.SIGHUP)

    def problem() -> Any:
        return service.admin("/readyz")[1]["policy"]["problem"]

    def all_say(expected: str | None) -> bool:
        return {outcome(service, "bob") for _ in range(8)} == {expected}

    replace(file, "[policies.everybody]\n")
    asked = len(pylon.requests)
    with running_service(
        tmp_path,
        pylon.url,
        NEXUS_AUTH_POLICY_FILE=str(file),
        NEXUS_AUTH_WORKERS=workers,
    ) as service:
        soon(lambda: all_say(None))
        assert not any("neurons" in record.path for record in pylon.requests[asked:])
        change(NO_BOB)
        soon(lambda: all_say("not-permitted"))
        change(BROKEN)
        soon(problem)
        assert "entry 1" in problem()
        assert service.admin("/readyz")[0] == 200
        assert all_say("not-permitted")
        assert outcome(service, "alice") is None
        assert service.lines("policy_reload_failed")
        # From now on somebody looks at neurons.
        change(POLICIES)
        soon(lambda: all_say(None))
        soon(lambda: {outcome(service, "bob", **VALIDATORS) for _ in range(8)} == {"not-permitted"})
        soon(lambda: {outcome(service, "alice", **VALIDATORS) for _ in range(8)} == {None})
        # Readiness is that of the first worker, which may be the last one to have read the file.
        soon(lambda: problem() is None)


def test_facts_that_cannot_be_had_close_the_door(tmp_path: Path, file: Path) -> None:
    """A Pylon without neurons serves nobody whose policy needs them, and says why."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        # As a Pylon of the first generation from before November 2025.
        pylon.fail_with(404, where="/neurons")
        with running_service(
            tmp_path, pylon.url, wait=False, NEXUS_AUTH_POLICY_FILE=str(file), **FIRST_GENERATION
        ) as service:
            assert outcome(service, "alice") == "registry-unavailable"
            status, ready = service.admin("/readyz")
            assert status == 503
            assert "no neurons" in ready["registry"]["last_error"]


def test_facts_come_from_the_first_generation_too(tmp_path: Path, file: Path) -> None:
    """It has one subnet, whose neurons are at a path of their own."""
    with running_pylon() as pylon:
        pylon.store.set_neuron(a_hotkey("alice"), tao=5000.0, validator_permit=True)
        pylon.store.set_neuron(a_hotkey("bob"), tao=12.5, validator_permit=True)
        register(pylon, "alice", "bob")
        with running_service(
            tmp_path, pylon.url, NEXUS_AUTH_POLICY_FILE=str(file), **FIRST_GENERATION
        ) as service:
            assert outcome(service, "alice", **VALIDATORS) is None
            assert outcome(service, "bob", **VALIDATORS) == "not-permitted"


def test_facts_outlive_a_restart_while_pylon_is_away(tmp_path: Path, file: Path) -> None:
    """The store holds neurons with the keys, and the policy looks at them as ever."""
    (tmp_path / "kept").mkdir(mode=0o700)
    settings: dict[str, Any] = {
        "NEXUS_AUTH_POLICY_FILE": str(file),
        "NEXUS_AUTH_SNAPSHOT_STORE": f"file:{tmp_path / 'kept' / 'snapshot'}",
    }
    with running_pylon() as pylon:
        pylon.store.set_neuron(a_hotkey("alice"), tao=5000.0, validator_permit=True)
        pylon.store.set_neuron(a_hotkey("bob"), tao=12.5, validator_permit=True)
        register(pylon, "alice", "bob")
        with running_service(tmp_path, pylon.url, **settings) as service:
            assert outcome(service, "alice", **VALIDATORS) is None
        pylon.stop()
        with running_service(tmp_path, pylon.url, **settings) as service:
            assert outcome(service, "alice", **VALIDATORS) is None
            assert outcome(service, "bob", **VALIDATORS) == "not-permitted"
            assert outcome(service, "bob") is None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"NEXUS_AUTH_POLICY_FILE": "broken.toml"}, "entry 1, 'bob'"),
        ({"NEXUS_AUTH_POLICY_FILE": "missing.toml"}, "No such file"),
        (
            {"NEXUS_AUTH_POLICY_FILE": "policy.toml", "NEXUS_AUTH_REGISTRY": "lookup"},
            "looks at neurons",
        ),
        (
            {"NEXUS_AUTH_POLICY_FILE": "policy.toml", "NEXUS_AUTH_MIN_STAKE": "1"},
            "write it into the file",
        ),
    ],
)
def test_policy_that_cannot_work_is_refused_at_the_start(
    tmp_path: Path, file: Path, settings: dict[str, str], problem: str
) -> None:
    """In one line, with the exit code of a wrong configuration."""
    (tmp_path / "broken.toml").write_text(BROKEN)
    ended = subprocess.run(
        [sys.executable, "-m", "nexus_auth", "run", "-listen-addr", "127.0.0.1:0"],
        cwd=tmp_path,
        env=service_environment("http://127.0.0.1:9", **settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert problem in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert file.exists()
