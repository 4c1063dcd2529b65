from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import httpx
import pytest

from nexus_auth import (
    AccessPolicy,
    ConfigurationError,
    DenialReason,
    Denied,
    Granted,
    MinStake,
    StakeKind,
    connect,
    connect_chain,
)
from nexus_auth.adapters.chain import source as chain_source
from nexus_auth.adapters.pylon import client as pylon_client
from nexus_auth.domain.neuron import Neuron
from nexus_auth.testing import Caller, Subnet
from tests.unit.adapters.registry.sources import FakeSource

ALICE = Subnet().register("alice")


class Pylon:
    """Answers as Pylon does for a subnet of one, and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer: dict[str, object] = {"algorithm": 1, "public_key": ALICE.public_key.hex()}
        if request.url.path.endswith("/certificates"):
            answer = {ALICE.hotkey.address: answer}
        if request.url.path.endswith("/neurons"):
            neuron = {
                "uid": 7,
                "validator_permit": True,
                "active": True,
                "stakes": {"alpha": 0.0, "tao": 1500.0, "total": 1500.0},
            }
            answer = {"neurons": {ALICE.hotkey.address: neuron}}
        return httpx.Response(200, stream=httpx.ByteStream(json.dumps(answer).encode()))


@pytest.fixture
def pylon(monkeypatch: pytest.MonkeyPatch) -> Pylon:
    """Stands in for the network."""
    pylon = Pylon()

    class Client(pylon_client.PylonClient):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments, transport=httpx.MockTransport(pylon))

    monkeypatch.setattr(pylon_client, "PylonClient", Client)
    return pylon


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({}, "/api/v1/certificates"),
        ({"netuid": 12}, "/api/v1/subnet/12/block/latest/certificates"),
        (
            {"netuid": 12, "identity_name": "me", "identity_token": "secret"},
            "/api/v1/identity/me/subnet/12/block/latest/certificates",
        ),
    ],
)
async def test_what_is_given_decides_which_api_is_spoken(
    pylon: Pylon, arguments: dict[str, Any], path: str
) -> None:
    """First generation, open access, identity; a registered caller is granted by each."""
    async with connect("http://pylon.invalid", **arguments) as verifier:
        decision = await verifier.verify(ALICE.pem)
    assert isinstance(decision, Granted)
    assert decision.hotkey == ALICE.hotkey
    assert pylon.requests[0].url.path.startswith(path)


async def test_one_request_serves_everybody(pylon: Pylon) -> None:
    """Load on Pylon does not depend on traffic."""
    async with connect("http://pylon.invalid", netuid=12) as verifier:
        for _ in range(5):
            assert isinstance(await verifier.verify(ALICE.pem), Granted)
    assert len(pylon.requests) == 1


@pytest.mark.parametrize(
    ("minimum", "neurons", "is_granted"),
    [(1000, True, True), (2000, True, False), (1, False, False)],
)
async def test_rule_about_stake_needs_the_neurons(
    pylon: Pylon, minimum: float, *, neurons: bool, is_granted: bool
) -> None:
    """They are fetched with the keys where that is said; a rule that cannot see them refuses."""
    policy = AccessPolicy(name="rich", rules=(MinStake(StakeKind.TOTAL, minimum),))
    async with connect("http://pylon.invalid", netuid=12, neurons=neurons) as verifier:
        for _ in range(2):
            decision = await verifier.verify(ALICE.pem, policy=policy)
            assert isinstance(decision, Granted) == is_granted
    assert len(pylon.requests) == (2 if neurons else 1)


async def test_token_is_sent(pylon: Pylon) -> None:
    """An open-access Pylon may ask for one."""
    async with connect("http://pylon.invalid", netuid=12, open_access_token="secret") as verifier:
        await verifier.verify(ALICE.pem)
    assert pylon.requests[0].headers["Authorization"] == "Bearer secret"


async def test_stranger_is_denied(pylon: Pylon) -> None:
    """The neighbour of the grants, with the setting that asks every time."""
    async with connect("http://pylon.invalid", netuid=12, max_age=timedelta(0)) as verifier:
        decision = await verifier.verify(Subnet().impostor(ALICE).pem)
    assert isinstance(decision, Denied)
    assert decision.reason is DenialReason.KEY_MISMATCH


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"netuid": -1}, id="netuid below"),
        pytest.param({"netuid": 65536}, id="netuid above"),
        pytest.param({"netuid": 1, "identity_name": "me"}, id="name without token"),
        pytest.param({"netuid": 1, "identity_token": "s3cret"}, id="token without name"),
        pytest.param({"identity_name": "me", "identity_token": "s3cret"}, id="no netuid"),
        pytest.param({"open_access_token": "s3cret"}, id="token, no netuid"),
        pytest.param({"netuid": 1, "open_access_token": "s3cret\r\n"}, id="line end in a token"),
        pytest.param({"netuid": 1, "identity_name": "", "identity_token": "s3cret"}, id="no name"),
        pytest.param({"netuid": 1, "neurons": True, "max_age": timedelta(0)}, id="no snapshot"),
        pytest.param({"endpoint": "http://me:s3cret@pylon"}, id="credentials in the URL"),
        pytest.param({"endpoint": "pylon:8000"}, id="no URL"),
        pytest.param({"endpoint": "ftp://pylon"}, id="another scheme"),
        pytest.param({"endpoint": ""}, id="nothing"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused(
    pylon: Pylon, arguments: dict[str, Any]
) -> None:
    """At once, with a typed error that repeats no secret."""
    with pytest.raises(ConfigurationError) as caught:
        async with connect(**{"endpoint": "http://pylon.invalid", **arguments}):
            pass
    assert "s3cret" not in str(caught.value)
    assert pylon.requests == []


class Chain(FakeSource):
    """Stands in for the nodes of a chain, and keeps what it was made of."""

    made: ClassVar[list[Chain]] = []

    def __init__(self, **arguments: Any) -> None:
        neuron = Neuron(uid=7, validator_permit=True, active=True, alpha=0, tao=1500, total=1500)
        super().__init__(
            keys={ALICE.hotkey: ALICE.public_key}, neurons={ALICE.hotkey: neuron}, name="chain"
        )
        self.arguments = arguments
        self.is_closed = False
        self.made.append(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_closed = True


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> list[Chain]:
    """The sources that were made."""
    Chain.made = []
    monkeypatch.setattr(chain_source, "ChainSource", Chain)
    return Chain.made


GENESIS = "0x" + "2f" * 32


async def test_chain_itself_says_who_is_registered(chain: list[Chain]) -> None:
    """Nodes in their order of preference, and the chain by its name; all is closed at the end."""
    nodes = "wss://a", "http://b:9944"
    async with connect_chain(*nodes, netuid=12, genesis="0x" + "2F" * 32) as v:
        assert isinstance(await v.verify(ALICE.pem), Granted)
        denied = await v.verify(Subnet().impostor(ALICE).pem)
        (source,) = chain
        was_closed = source.is_closed
    assert (was_closed, source.is_closed) == (False, True)
    assert isinstance(denied, Denied)
    assert denied.reason is DenialReason.KEY_MISMATCH
    del source.arguments["clock"]
    assert source.arguments == {"endpoints": nodes, "netuid": 12, "genesis": GENESIS}
    assert source.neuron_fetches == 0


async def test_neurons_come_from_the_chain_where_they_are_wanted(chain: list[Chain]) -> None:
    """As with a Pylon."""
    policy = AccessPolicy(name="rich", rules=(MinStake(StakeKind.TOTAL, 1000),))
    for neurons in (True, False):
        async with connect_chain("ws://node", netuid=12, neurons=neurons) as verifier:
            decision = await verifier.verify(ALICE.pem, policy=policy)
        assert isinstance(decision, Granted) is neurons
    assert [bool(each.neuron_fetches) for each in chain] == [True, False]


@pytest.mark.parametrize(
    ("nodes", "arguments"),
    [
        pytest.param((), {}, id="no node"),
        pytest.param(("node:9944",), {}, id="no URL"),
        pytest.param(("ws://me:s3cret@node",), {}, id="credentials in the URL"),
        pytest.param(("ws://node", "ws://node"), {}, id="one twice"),
        pytest.param(("ws://node",), {"netuid": -1}, id="netuid below"),
        pytest.param(("ws://node",), {"netuid": 65536}, id="netuid above"),
        pytest.param(("ws://node",), {"genesis": "finney"}, id="no hash"),
        pytest.param(("ws://node",), {"neurons": True, "max_age": timedelta(0)}, id="no snapshot"),
    ],
)
async def test_arguments_that_do_not_fit_a_chain_are_refused(
    chain: list[Chain], nodes: tuple[str, ...], arguments: dict[str, Any]
) -> None:
    """At once, with the same error as for a Pylon; what was opened is closed."""
    with pytest.raises(ConfigurationError) as caught:
        async with connect_chain(*nodes, **{"netuid": 12, **arguments}):
            pass
    assert "s3cret" not in str(caught.value)
    assert all(source.is_closed for source in chain)


async def test_neurons_of_the_chain_need_the_extra(
    chain: list[Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could only deny every caller is refused at once."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"nexus-auth\[chain\]"):
        async with connect_chain("ws://node", netuid=12, neurons=True):
            pass
    assert chain == []


@pytest.mark.usefixtures("pylon")
@pytest.mark.parametrize(
    ("caller", "printed"),
    [
        (ALICE, f"let in: {ALICE.hotkey.address}\n"),
        (Subnet().stranger("mallory"), "turned away: not-registered\n"),
    ],
    ids=["registered", "stranger"],
)
def test_example_of_the_readme_runs(
    caller: Caller,
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it stands there, in fewer than 15 lines of code."""
    readme = Path(__file__).resolve().parents[3] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (block for block in blocks if "nexus_auth.connect(" in block)
    assert len([line for line in example.splitlines() if line.strip()]) < 15
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "client.crt").write_bytes(caller.pem)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - the point of the test
    assert capsys.readouterr().out == printed
