"""What `status` and `doctor` say of the key on chain: this pair's, the pending one's, or neither.

One slot of the chain holds it, for every program of a hotkey.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.devnet.store import DevnetStore
from nexus_auth.adapters.files import replace_file
from nexus_auth.entrypoints.cli import main
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.diagnostics.test_doctor_and_status import examine, save_pair
from tests.integration.pylon.running import RunningPylon, prepare
from tests.unit.adapters.credentials.pairs import a_pair

ALICE = a_hotkey("alice")
COMMANDS = [["status"], ["doctor"]]


@pytest.fixture(autouse=True)
def _folder(pylon: RunningPylon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A good pair of alice in ./certs, and a Pylon that anybody may read from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_PYLON_ENDPOINT", pylon.url)
    monkeypatch.setenv("NEXUS_PYLON_NETUID", str(pylon.netuid))
    monkeypatch.setenv("NEXUS_PYLON_OPEN_ACCESS_TOKEN", pylon.open_access_token)
    save_pair(Path("certs"))
    publish(pylon, "alice")


def publish(pylon: RunningPylon, key: str) -> None:
    """Puts a key into alice's slot."""
    pylon.store.set_certificate(ALICE, public_bytes(a_key(key)))


def hold_pending(key: str = "new") -> CredentialsDirectory:
    """Leaves the pending key of an interrupted run."""
    directory = CredentialsDirectory(Path("certs"))
    directory.save_pending(a_pair(key))
    return directory


@pytest.mark.parametrize("command", COMMANDS)
def test_pending_key_is_shown_with_what_to_do(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Its public half, since when, and the command that goes on; the pair in use is good."""
    hold_pending()
    code, found = examine(capsys, *command)
    assert code == 0
    assert found["on chain"]["outcome"] == "ok"
    shown = found["pending key"]
    assert shown["outcome"] == "warning"
    for words in (str(ALICE), public_bytes(a_key("new")).hex(), "2026-06-01 12:00:00 UTC"):
        assert words in shown["text"]
    assert shown["next_step"].startswith(f"nexus-auth generate -ss58-address {ALICE}")
    assert "-local" in shown["next_step"]
    assert main([*command]) == 0
    said = capsys.readouterr().out
    assert "client.key.pending" in said
    assert "PRIVATE" not in said


def test_pending_key_is_shown_where_there_is_no_pair_yet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first pair of a neuron waits."""
    hold_pending()
    for name in ("client.key", "client.crt"):
        Path("certs", name).unlink()
    code, found = examine(capsys, "status", "--offline")
    assert code == 1
    assert "client.key.pending" in found["pending key"]["text"]
    assert "-local" in found["certificate"]["next_step"]


@pytest.mark.parametrize("command", COMMANDS)
def test_pending_key_on_chain_is_to_be_put_in_its_place(
    capsys: pytest.CaptureFixture[str], pylon: RunningPylon, command: list[str]
) -> None:
    """The command that is printed does it, and then all is well."""
    hold_pending()
    publish(pylon, "new")
    code, found = examine(capsys, *command)
    assert code == 1
    assert "that of client.key.pending" in found["on chain"]["text"]
    printed = shlex.split(found["on chain"]["next_step"].partition(" puts ")[0])
    assert main(printed[1:]) == 0
    capsys.readouterr()
    code, found = examine(capsys, *command)
    assert code == 0
    assert "pending key" not in found
    assert found["on chain"]["outcome"] == "ok"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("has_pending", [False, True])
def test_key_of_another_program_is_named_with_the_likely_causes(
    capsys: pytest.CaptureFixture[str],
    pylon: RunningPylon,
    command: list[str],
    *,
    has_pending: bool,
) -> None:
    """bt-ddos-shield puts its own key back; another machine; a later run."""
    if has_pending:
        hold_pending()
    publish(pylon, "shield")
    code, found = examine(capsys, *command)
    assert code == 1
    shown = found["on chain"]
    assert shown["outcome"] == "wrong"
    assert "another key" in shown["text"]
    assert ("both" in shown["text"]) is has_pending
    for words in ("another machine", "later run", "bt-ddos-shield", "docs/issuing.md"):
        assert words in shown["next_step"]
    assert ("-local" in shown["next_step"]) is has_pending


def test_chain_without_a_key_says_what_to_do_with_the_pending_one(
    capsys: pytest.CaptureFixture[str], pylon: RunningPylon
) -> None:
    """The advice does not make another pair."""
    hold_pending()
    with DevnetStore(":memory:") as store:
        prepare(store)
        pylon.serve(store)
        code, found = examine(capsys, "status")
    assert code == 1
    assert "-local" in found["on chain"]["next_step"]
    assert "-force-recreate" not in found["on chain"]["next_step"]


def test_file_that_is_no_pending_key_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """And not a traceback; the rest is reported."""
    replace_file(Path("certs/client.key.pending"), b"nonsense")
    code, found = examine(capsys, "status")
    assert code == 0
    assert found["on chain"]["outcome"] == "ok"
    assert "client.key.pending" in found["earlier runs"]["text"]
