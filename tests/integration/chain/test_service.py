"""The service, the commands and the library on keys straight from the chain, over both transports.

No time is waited for: what a node says of its block's time is changed, and conditions are awaited.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

import nexus_auth
from nexus_auth.adapters.clock import utc_now
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.entrypoints.cli import main
from nexus_auth.entrypoints.diagnostics.chain_checks import judge_block_time
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.chain import scale
from tests.integration.chain.node import (
    NETUID,
    TOKEN,
    Chain,
    Params,
    RunningNode,
    running_node,
    running_nodes,
)
from tests.integration.diagnostics.test_doctor_and_status import examine, save_pair
from tests.integration.real import wait_until_ready
from tests.integration.service.running import (
    RunningService,
    a_header,
    running_service,
    service_environment,
)
from tests.integration.service.test_monitoring import scrape
from tests.pages import ROOT

ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
TRANSPORTS: Final = ("http", "ws")


def url_of(node: RunningNode, transport: str) -> str:
    """Its address for one of both."""
    return node.url if transport == "http" else node.ws_url


def publish(node: RunningNode, hotkey: Hotkey, key_of: str) -> None:
    """Has a hotkey's key in the next block."""
    node.chain.publish(hotkey, public_bytes(a_key(key_of)))
    node.advance()


@pytest.fixture
def node() -> Iterator[RunningNode]:
    """A node of a chain that knows alice, a validator, and bob, a miner."""
    with running_node() as node:
        node.chain.register(ALICE, validator_permit=True, alpha=5 * TOKEN)
        node.chain.register(BOB)
        publish(node, ALICE, "alice")
        publish(node, BOB, "bob")
        yield node


def settings_of(*endpoints: str) -> dict[str, str]:
    """The settings of a service without a Pylon."""
    return {
        "NEXUS_AUTH_SOURCE": "chain",
        "NEXUS_CHAIN_ENDPOINT": ",".join(endpoints),
        "NEXUS_PYLON_NETUID": str(NETUID),
        "NEXUS_PYLON_IDENTITY_NAME": "",
        "NEXUS_PYLON_IDENTITY_TOKEN": "",
        "NEXUS_AUTH_REFRESH_SECONDS": "1",
    }


def serving(folder: Path, *endpoints: str, **more: Any) -> AbstractContextManager[RunningService]:
    """Runs the service on these nodes; takes settings, and `wait` as `running_service` does."""
    options: dict[str, Any] = {**settings_of(*endpoints), **more}
    return running_service(folder, "", **options)


def is_said(service: RunningService, word: str) -> Callable[[], bool]:
    """Whether readiness says this word."""
    return lambda: bool(service.admin("/readyz")[1]["status"] == word)


def known(service: RunningService) -> Any:
    """What readiness says of the registry."""
    return service.admin("/readyz")[1]["registry"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_service_needs_no_pylon(node: RunningNode, tmp_path: Path, transport: str) -> None:
    """Grants, denials, a rotated key, an outage and its end; nothing is asked of a Pylon."""
    with serving(tmp_path, url_of(node, transport)) as service:
        assert service.ask(a_header("alice")).status == 200
        assert service.ask(a_header("alice", key_of="mallory")).reason == "key-mismatch"
        assert service.ask(a_header("carol")).reason == "not-registered"

        publish(node, ALICE, "alice, rotated")
        rotated = a_header("alice", key_of="alice, rotated")
        wait_until_ready(lambda: service.ask(rotated).status == 200, what="the rotated key")
        assert service.ask(a_header("alice")).reason == "key-mismatch"

        registry, samples = known(service), scrape(service)
        assert (registry["source"], registry["hotkeys"]) == ("chain", 2)
        assert registry["block"]["number"] == node.head.number
        assert registry["block"]["hash"] == node.head.hash
        assert registry["block"]["age_seconds"] >= 0
        assert samples["nexus_auth_registry_block_number"] == node.head.number
        assert samples["nexus_auth_registry_block_age_seconds"] >= 0
        assert samples["nexus_auth_chain_request_seconds_count 200"] >= 1
        assert not any(name.startswith("nexus_auth_pylon_request") for name in samples)

        node.stop()
        wait_until_ready(is_said(service, "serving stale"), what="the outage")
        assert service.ask(rotated).status == 200
        assert service.ask(a_header("carol")).reason == "not-registered"
        node.start()
        wait_until_ready(is_said(service, "serving"), what="the end of the outage")
        (listening,) = service.lines("listening")
        assert listening["chain"] == f"127.0.0.1:{node.port}"
        assert "pylon" not in listening
        assert service.lines("source_failed")[0]["source"] == "chain"
    assert {request.transport for request in node.requests} == {transport}


def stand_still(node: RunningNode) -> None:
    """Has a node say of its head what one says that stopped ten minutes ago."""
    milliseconds = int((utc_now() - timedelta(minutes=10)).timestamp() * 1000)
    key = "0x" + scale.prefix("Timestamp", "Now").hex()

    def say(_: Params, honest: Any) -> Any:
        for answer in honest:
            for change in answer["changes"]:
                if change[0] == key:
                    change[1] = "0x" + scale.u64(milliseconds).hex()
        return honest

    node.lie("state_queryStorageAt", say)


def test_other_node_takes_over_from_one_that_stands_still(tmp_path: Path) -> None:
    """At once, while there is one; while all stand still, readiness says stale and keys serve."""
    with running_nodes(2) as (first, second):
        first.chain.register(ALICE)
        publish(first, ALICE, "alice")
        with serving(tmp_path, first.ws_url, second.url) as service:
            first.stick()
            stand_still(first)
            publish(second, ALICE, "alice, rotated")
            rotated = a_header("alice", key_of="alice, rotated")
            wait_until_ready(lambda: service.ask(rotated).status == 200, what="the other node")
            assert known(service)["block"]["number"] == second.head.number > first.head.number
            # So close to the failure that the state is that of the fetch that succeeded.
            wait_until_ready(is_said(service, "serving"), what="news from the other node")

            second.stick()
            stand_still(second)
            wait_until_ready(is_said(service, "serving stale"), what="the outage")
            assert "is behind" in known(service)["last_error"]
            assert service.ask(rotated).status == 200
            assert service.ask(a_header("alice")).reason == "key-mismatch"

            # It says the right time again, but is behind: the key of before must not come back.
            first.lie("state_queryStorageAt", lambda _, honest: honest)
            asked = len(first.requests)
            first.wait_for_requests(asked + 6)
            assert is_said(service, "serving stale")()
            assert service.ask(a_header("alice")).reason == "key-mismatch"

            first.behave()
            publish(first, ALICE, "alice, once more")
            newest = a_header("alice", key_of="alice, once more")
            wait_until_ready(lambda: service.ask(newest).status == 200, what="the first node")
            wait_until_ready(is_said(service, "serving"), what="the end of the outage")
            assert service.ask(rotated).reason == "key-mismatch"


def test_policy_and_facts_come_from_the_same_block(node: RunningNode, tmp_path: Path) -> None:
    """A permit that is lost counts with the block that says so."""
    more = {"NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT": "true", "NEXUS_AUTH_GRANT_HEADERS": "uid,stake"}
    with serving(tmp_path, node.ws_url, **more) as service:
        granted = service.ask(a_header("alice"))
        assert (granted.status, granted.headers["X-Hotkey-Uid"]) == (200, "0")
        assert granted.headers["X-Hotkey-Stake"] == "5"
        assert service.ask(a_header("bob")).reason == "not-permitted"
        node.chain.register(ALICE, validator_permit=False)
        node.advance()
        wait_until_ready(
            lambda: service.ask(a_header("alice")).reason == "not-permitted", what="the lost permit"
        )


def test_restart_serves_from_the_store_while_no_node_answers(
    node: RunningNode, tmp_path: Path
) -> None:
    """The record holds the block; the records of a Pylon and of another subnet are others."""
    store = {"NEXUS_AUTH_SNAPSHOT_STORE": f"file:{tmp_path}/snapshot"}
    with serving(tmp_path, node.url, **store) as service:
        assert service.ask(a_header("alice")).status == 200
        wait_until_ready((tmp_path / "snapshot").exists, what="the record")
    node.stop()
    with serving(tmp_path, node.url, **store) as service:
        assert service.ask(a_header("alice")).status == 200
        assert known(service)["block"]["hash"] == node.head.hash
    with serving(tmp_path, node.url, wait=False, **store, NEXUS_PYLON_NETUID="2") as service:
        assert service.ask(a_header("alice")).reason == "registry-unavailable"
        (ignored,) = service.lines("stored_snapshot_ignored")
        assert "another subnet or another source" in ignored["problem"]


@pytest.mark.parametrize(
    "more",
    [{"NEXUS_AUTH_CACHE_DURATION_MINS": "0"}, {"NEXUS_AUTH_REGISTRY": "lookup"}],
    ids=["ask every time", "lookup"],
)
def test_hotkeys_can_be_asked_for_one_by_one(
    node: RunningNode, tmp_path: Path, more: dict[str, str]
) -> None:
    """Without all keys at once; readiness then names no block, since each hotkey has its own."""
    with serving(tmp_path, node.url, **more) as service:
        assert service.ask(a_header("alice")).status == 200
        assert service.ask(a_header("alice", key_of="mallory")).reason == "key-mismatch"
        assert service.ask(a_header("carol")).reason == "not-registered"
        assert known(service)["block"] is None
    assert "state_getKeysPaged" not in node.methods()


def test_missing_package_is_said_in_one_line_before_anything_is_opened(tmp_path: Path) -> None:
    """As a wrong setting: exit code 2, and the extra by its name."""
    program = "import sys; sys.modules['websockets'] = None\n"
    program += "from nexus_auth.entrypoints.cli import main; sys.exit(main(['run']))"
    more = {"NEXUS_AUTH_LISTEN_ADDR": f"unix:{tmp_path}/socket", "NEXUS_AUTH_WORKERS": "2"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=service_environment("", **settings_of("ws://127.0.0.1:9"), **more),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "NEXUS_CHAIN_ENDPOINT" in ended.stderr
    assert "pip install 'nexus-auth[chain]'" in ended.stderr
    assert not (tmp_path / "socket").exists()


def test_setting_of_the_other_source_is_named_at_the_start(
    node: RunningNode, tmp_path: Path
) -> None:
    """A node that is named has no effect while the source is Pylon, and the other way round."""
    with serving(tmp_path, node.url, NEXUS_PYLON_ENDPOINT="http://127.0.0.1:9") as service:
        (line,) = service.lines("unknown_setting")
        assert line["problem"].startswith("NEXUS_PYLON_ENDPOINT has no effect but on generate")
    with serving(tmp_path, node.url, NEXUS_AUTH_SOURCE="pylon", wait=False) as service:
        (line,) = service.lines("unknown_setting")
        assert line["problem"].startswith("NEXUS_CHAIN_ENDPOINT has no effect:")


# Commands.


@pytest.fixture(params=TRANSPORTS)
def asked(
    request: pytest.FixtureRequest,
    node: RunningNode,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> RunningNode:
    """The node, named by the environment of the commands, and alice's pair in ./certs."""
    monkeypatch.chdir(tmp_path)
    for name, value in settings_of(url_of(node, request.param)).items():
        monkeypatch.setenv(name, value)
    save_pair(Path("certs"))
    return node


def test_verify_asks_the_chain(asked: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    """Granted; denied where the chain has another key; undecided where no node answers."""
    assert main(["verify", "certs/client.crt"]) == 0
    assert f"granted: {ALICE}" in capsys.readouterr().out
    publish(asked, ALICE, "another")
    assert main(["verify", "certs/client.crt"]) == 1
    assert "key-mismatch" in capsys.readouterr().out
    asked.stop()
    assert main(["verify", "certs/client.crt"]) == 3
    assert "undecided" in capsys.readouterr().out


def test_policy_explain_asks_the_chain(
    asked: RunningNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key and neuron; the facts are those of the subnet."""
    monkeypatch.setenv("NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT", "true")
    assert main(["policy", "explain", ALICE.address]) == 0
    assert "uid 0, validator permit, active, stake 5 total" in capsys.readouterr().out
    assert main(["policy", "explain", BOB.address]) == 1
    assert "not admitted: not-permitted" in capsys.readouterr().out
    asked.stop()
    assert main(["policy", "explain", ALICE.address]) == 3
    assert "Pylon" not in capsys.readouterr().err


def test_status_looks_at_the_chain(asked: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    """The chain has the pair's key, then another one, then is not to be reached."""
    code, found = examine(capsys, "status")
    assert (code, found["on chain"]["outcome"]) == (0, "ok")
    publish(asked, ALICE, "another")
    code, found = examine(capsys, "status")
    assert (code, found["on chain"]["outcome"]) == (1, "wrong")
    asked.stop()
    code, found = examine(capsys, "status")
    assert (code, found["on chain"]["outcome"]) == (3, "unreachable")


def test_doctor_says_that_all_is_well(
    asked: RunningNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the node's block and the chain's name; without the name, it says how to pin it."""
    code, found = examine(capsys, "doctor")
    assert (code, found["chain"]["outcome"]) == (0, "warning")
    assert f"NEXUS_CHAIN_GENESIS={asked.chain.genesis} " in found["chain"]["next_step"]
    monkeypatch.setenv("NEXUS_CHAIN_GENESIS", asked.chain.genesis)
    code, found = examine(capsys, "doctor")
    assert code == 0
    assert {subject: finding["outcome"] for subject, finding in found.items()} == {
        **dict.fromkeys(("configuration", "node", "chain", "clock", "certificate"), "ok"),
        **dict.fromkeys(("private key", "on chain"), "ok"),
        "proxy": "skipped",
    }
    assert f"127.0.0.1:{asked.port}: block {asked.head.number}, " in found["node"]["text"]
    assert "2 registered keys" in found["node"]["text"]


def doctor_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *endpoints: str
) -> tuple[int, dict[str, dict[str, str]]]:
    """What doctor finds on these nodes; of several, the last one's finding."""
    for name, value in settings_of(*endpoints).items():
        monkeypatch.setenv(name, value)
    return examine(capsys, "doctor")


def change_chain(node: RunningNode) -> None:
    """Has a node serve another chain, with a block of now."""
    node.chain = Chain(name="Another")
    node.advance()


@pytest.mark.parametrize(
    ("fault", "code", "outcome", "text", "next_step"),
    [
        (RunningNode.stop, 3, "unreachable", "node 127.0.0.1", "does it run"),
        (stand_still, 1, "wrong", "is behind", "name another node"),
        (lambda node: node.fail_with(503), 1, "wrong", "503", "name another node"),
        (
            lambda node: node.answer_with("chain_getFinalizedHead", b"<html>"),
            *(1, "wrong", "something else than JSON-RPC", "really the address"),
        ),
    ],
    ids=["away", "stands still", "fails", "no node"],
)
def test_doctor_names_the_fault_of_a_node(
    node: RunningNode,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    fault: Callable[[RunningNode], None],
    code: int,
    outcome: str,
    text: str,
    next_step: str,
) -> None:
    """With one thing to do; beside a node that answers, it is no more than a warning."""
    monkeypatch.chdir(tmp_path)
    fault(node)
    found_code, found = doctor_on(capsys, monkeypatch, node.url)
    assert (found_code, found["node"]["outcome"]) == (code, outcome)
    assert text in found["node"]["text"]
    assert next_step in found["node"]["next_step"]
    with running_node() as good:
        found_code, found = doctor_on(capsys, monkeypatch, good.ws_url, node.url)
    assert (found_code, found["node"]["outcome"]) == (0, "warning")


def test_doctor_compares_nodes(
    node: RunningNode,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A node that is far behind another is a warning; one of another chain is wrong."""
    monkeypatch.chdir(tmp_path)
    with running_node(node.chain) as second:
        node.advance(20)
        second.blocks_behind = 10
        code, found = doctor_on(capsys, monkeypatch, node.url, second.url)
        assert (code, found["node"]["outcome"]) == (0, "warning")
        assert "10 blocks behind another" in found["node"]["text"]
        second.behave()
        change_chain(second)
        code, found = doctor_on(capsys, monkeypatch, node.url, second.url)
        assert (code, found["node"]["outcome"]) == (1, "wrong")
        assert f"another chain: block 0 is {second.chain.genesis}" in found["node"]["text"]
        monkeypatch.setenv("NEXUS_CHAIN_GENESIS", node.chain.genesis)
        code, found = doctor_on(capsys, monkeypatch, second.url)
        assert (code, found["node"]["outcome"]) == (1, "wrong")
        assert "chain" not in found


def test_doctor_says_that_a_node_is_slow(
    node: RunningNode,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Slower than an unknown caller waits: its new key then counts at the next refresh only."""
    monkeypatch.chdir(tmp_path)
    node.delay_seconds = 0.4
    code, found = doctor_on(capsys, monkeypatch, node.url)
    assert (code, found["node"]["outcome"]) == (0, "warning")
    assert found["node"]["text"].endswith(" s: slow")


def test_doctor_names_the_extra_that_a_node_needs(
    node: RunningNode,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Also beside a node that answers without it: the service does not start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nexus_auth.adapters.chain.websocket", None)
    code, found = doctor_on(capsys, monkeypatch, node.url, node.ws_url)
    assert (code, found["node"]["outcome"]) == (1, "wrong")
    assert "pip install 'nexus-auth[chain]'" in found["node"]["text"]


def test_doctor_counts_keys_that_cannot_be_used(
    asked: RunningNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """A certificate of another kind is left out, and its owner refused."""
    asked.chain.publish(BOB, bytes(64), algorithm=2)
    asked.advance()
    code, found = examine(capsys, "doctor")
    assert (code, found["subnet"]["outcome"]) == (0, "warning")
    assert "1 entries cannot be used" in found["subnet"]["text"]


@pytest.mark.parametrize(
    ("seconds", "outcome"), [(24, "ok"), (-100, "warning"), (-400, "wrong"), (500, "wrong")]
)
def test_clock_is_judged_by_the_latest_block(seconds: float, outcome: str) -> None:
    """A final block is always some seconds old, and never of the future."""
    finding = judge_block_time(timedelta(seconds=seconds), timedelta(minutes=5))
    assert finding.outcome == outcome
    assert bool(finding.next_step) is (outcome != "ok")


# The library.


def test_example_of_the_page_runs(
    node: RunningNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands in docs/library.md, but for the address; its function grants and denies."""
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    found = re.search(
        r"^## Without a Pylon\n.*?```python\n(.*?)```", page, re.DOTALL | re.MULTILINE
    )
    assert found is not None
    example = found[1].replace("ws://127.0.0.1:9944", node.ws_url)
    assert node.ws_url in example
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(example, "library.md", "exec"), names)  # noqa: S102 - our own page
    assert capsys.readouterr().out.startswith("refused, malformed-certificate: ")
    save = Path("certs")
    save_pair(save)
    pem = (save / "client.crt").read_bytes()
    assert asyncio.run(names["who_is_it"](pem)) == f"{ALICE} may come in"
    publish(node, ALICE, "another")
    assert asyncio.run(names["who_is_it"](pem)).startswith("refused, key-mismatch")


async def test_application_follows_the_chain(node: RunningNode, tmp_path: Path) -> None:
    """Neurons included, from nodes of which the first is away; the rotated key counts at once."""
    save_pair(tmp_path / "certs")
    pem = (tmp_path / "certs" / "client.crt").read_bytes()
    policy = nexus_auth.AccessPolicy(
        name="validators", rules=(nexus_auth.RequireValidatorPermit(),)
    )
    with running_node() as away:
        gone = away.ws_url
    async with nexus_auth.connect_chain(
        gone, node.url, netuid=NETUID, genesis=node.chain.genesis, neurons=True
    ) as verifier:
        assert isinstance(await verifier.verify(pem, policy=policy), nexus_auth.Granted)
    async with nexus_auth.connect_chain(
        node.ws_url, netuid=NETUID, max_age=timedelta(0)
    ) as verifier:
        assert isinstance(await verifier.verify(pem), nexus_auth.Granted)
        publish(node, ALICE, "another")
        denied = await verifier.verify(pem)
    assert isinstance(denied, nexus_auth.Denied)
    assert denied.reason is nexus_auth.DenialReason.KEY_MISMATCH
