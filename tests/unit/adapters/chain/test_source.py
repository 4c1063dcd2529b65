"""Which node is believed with what: one fetch, its faults, and the way from node to node."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.adapters.chain import source as module
from nexus_auth.adapters.chain import storage
from nexus_auth.adapters.chain.rpc import NodeAnswerInvalid, NodeFailed, NodeUnreachable
from nexus_auth.adapters.chain.source import AHEAD_SECONDS, BEHIND_SECONDS, ChainSource
from nexus_auth.domain.errors import ConfigurationError, RegistryError
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.snapshot import Block
from tests.builders import a_hotkey
from tests.fakes import FakeClock
from tests.integration.chain import scale
from tests.integration.chain.node import (
    NETUID,
    Chain,
    RpcFailure,
    RunningNode,
)
from tests.unit.adapters.chain.networks import (
    ALICE,
    BOB,
    BOBS_KEY,
    CAROL,
    KEY,
    Network,
    a_chain,
    a_source,
)

KEYS: Final = "state_getKeysPaged"
VALUES: Final = "state_queryStorageAt"
HEAD: Final = "chain_getFinalizedHead"
HEADER: Final = "chain_getHeader"
GENESIS: Final = "chain_getBlockHash"

CANARY: Final = "canary-of-the-node"


@pytest.fixture
def clock() -> FakeClock:
    """The wall clock of the source and of the chain."""
    return FakeClock()


@pytest.fixture
def node(clock: FakeClock) -> RunningNode:
    """A node that tells the truth."""
    return RunningNode(a_chain(clock))


async def test_keys_are_those_of_one_block(node: RunningNode, clock: FakeClock) -> None:
    """All of them, with the block that says so, in five requests."""
    async with a_source(Network(node=node), clock) as source:
        found = await source.fetch_keys()
    head = node.head
    assert dict(found.keys) == {ALICE: KEY, BOB: BOBS_KEY}
    assert found.rejected == 0
    assert found.block == Block(number=head.number, hash=head.hash, time=clock())
    assert node.methods() == [GENESIS, HEAD, HEADER, KEYS, VALUES]
    for request in node.requests[3:]:
        assert request.params[-1] == head.hash


async def test_block_that_comes_meanwhile_is_not_mixed_in(
    node: RunningNode, clock: FakeClock
) -> None:
    """Everything is read at the hash of the head, however the chain goes on."""

    def rotate(params: Any, honest: Any) -> Any:
        node.chain.publish(ALICE, BOBS_KEY)
        node.chain.publish(CAROL, KEY)
        node.advance()
        return honest

    node.lie(KEYS, rotate)
    async with a_source(Network(node=node), clock) as source:
        assert dict((await source.fetch_keys()).keys) == {ALICE: KEY, BOB: BOBS_KEY}
        node.behave()
        assert (await source.fetch_keys()).keys[ALICE] == BOBS_KEY


async def test_unusable_certificates_are_left_out_and_counted(
    node: RunningNode, clock: FakeClock
) -> None:
    """An owner may publish a key of another kind, or none; the others are not affected."""
    node.chain.publish(ALICE, bytes(range(64)), algorithm=2)
    node.chain.publish(CAROL, b"")
    node.advance()
    async with a_source(Network(node=node), clock) as source:
        found = await source.fetch_keys()
        assert (dict(found.keys), found.rejected) == ({BOB: BOBS_KEY}, 2)
        assert await source.fetch_key(ALICE) is None


async def test_subnet_without_certificates_has_no_keys(clock: FakeClock) -> None:
    """And a block all the same."""
    node = RunningNode(Chain(clock=clock))
    node.advance()
    async with a_source(Network(node=node), clock) as source:
        found = await source.fetch_keys()
    assert not found.keys
    assert found.block is not None
    assert found.block.number == 1


async def test_all_pages_are_read(
    node: RunningNode, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last one is full, and the one after it empty."""
    monkeypatch.setattr(module, "PAGE_KEYS", 2)
    for count in range(3, 7):
        node.chain.publish(a_hotkey(f"number {count}"), KEY)
        node.advance()
        async with a_source(Network(node=node), clock) as source:
            assert len((await source.fetch_keys()).keys) == count


async def test_one_key_is_that_of_the_head(node: RunningNode, clock: FakeClock) -> None:
    """None where the hotkey has published none."""
    async with a_source(Network(node=node), clock) as source:
        assert await source.fetch_key(ALICE) == KEY
        assert await source.fetch_key(CAROL) is None


async def test_place_has_the_axon_and_the_wait(node: RunningNode, clock: FakeClock) -> None:
    """Port 0 without an axon; None for a hotkey without a uid, whatever it has published."""
    node.chain.serve_axon(BOB, ip="192.0.2.9", port=8091)
    node.chain.rate_limit = 20
    node.advance(5)
    node.chain.publish(CAROL, KEY)
    async with a_source(Network(node=node), clock) as source:
        assert await source.fetch_place(ALICE) == Place(ip="0.0.0.0", port=0, blocks_to_wait=0)  # noqa: S104
        bobs = await source.fetch_place(BOB)
        assert bobs == Place(ip="192.0.2.9", port=8091, blocks_to_wait=16)
        assert await source.fetch_place(CAROL) is None


async def test_neurons_are_those_of_the_keys_block(node: RunningNode, clock: FakeClock) -> None:
    """Or of the head where no block is named."""
    node.chain.register(ALICE, validator_permit=True)
    node.advance()
    async with a_source(Network(node=node), clock) as source:
        block = (await source.fetch_keys()).block
        node.chain.register(CAROL)
        node.advance()
        neurons, rejected = await source.fetch_neurons(at=block)
        assert (set(neurons), rejected) == ({ALICE, BOB}, 0)
        assert neurons[ALICE].validator_permit
        neurons, _ = await source.fetch_neurons()
        assert set(neurons) == {ALICE, BOB, CAROL}


Fault = Callable[[RunningNode], object]


def says(method: str, answer: Any) -> Fault:
    """Gives always the same answer."""
    return lambda node: node.lie(method, lambda params, honest: answer)


def changes(method: str, change: Callable[[Any], Any]) -> Fault:
    """Changes the honest answer."""
    return lambda node: node.lie(method, lambda params, honest: change(honest))


def fails(method: str, code: int, message: str) -> Fault:
    """Answers with an error."""

    def fail(params: Any, honest: Any) -> Any:
        raise RpcFailure(code, message)

    return lambda node: node.lie(method, fail)


def with_time(offset_seconds: float) -> Fault:
    """Its head has another time than the clock's."""

    def advance(node: RunningNode) -> None:
        node.advance(at=node.chain.clock() + timedelta(seconds=offset_seconds))

    return advance


def on_another_chain(node: RunningNode) -> None:
    """A chain of another name, further on."""
    node.chain = Chain(name="Other", clock=node.chain.clock)
    node.advance(20)


def store_time(value: bytes) -> Fault:
    """The time of its head is not written as it should be."""

    def store(node: RunningNode) -> None:
        # A block writes its time anew: it is taken away from the block itself.
        head = node.chain.head
        state = dict(head.storage) | {storage.NOW_KEY: value}
        node.chain.blocks[-1] = dataclasses.replace(head, storage=state)

    return store


OTHERS_KEY: Final = storage.to_hex(storage.certificate_key(NETUID, CAROL))
NEXT_SUBNET: Final = storage.to_hex(storage.certificate_key(NETUID + 1, CAROL))


def first(**members: Any) -> Callable[[Any], Any]:
    """Replaces members of the one set of values."""
    return lambda honest: [honest[0] | members]


FAULTS: Final[dict[str, tuple[Fault, type[RegistryError], str]]] = {
    "500": (lambda node: node.fail_with(500), NodeFailed, "status 500"),
    "429": (lambda node: node.fail_with(429), NodeFailed, "status 429"),
    "redirect": (lambda node: node.fail_with(302), NodeFailed, "status 302"),
    "no JSON": (
        lambda node: node.answer_with(HEAD, b"<html>canary-of-the-node"),
        NodeAnswerInvalid,
        "something else than JSON-RPC",
    ),
    "another id": (
        lambda node: node.answer_with(HEAD, b'{"id":99,"result":"0x"}'),
        NodeAnswerInvalid,
        "another request",
    ),
    "too large": (
        lambda node: node.answer_with(HEAD, b"x" * 600_000),
        NodeAnswerInvalid,
        "longer than 524288 bytes",
    ),
    "error": (fails(KEYS, -32000, CANARY), NodeFailed, "with the error -32000"),
    "no such method": (fails(VALUES, -32601, CANARY), NodeFailed, "does not offer state_query"),
    "pruned": (lambda node: setattr(node, "keeps", 0), NodeFailed, "pruned"),
    "head is no hash": (says(HEAD, CANARY), NodeAnswerInvalid, "no hash"),
    "head is null": (says(HEAD, None), NodeAnswerInvalid, "no hash"),
    "head unknown to itself": (says(HEADER, None), NodeAnswerInvalid, "does not know the block"),
    "head without a number": (says(HEADER, {}), NodeAnswerInvalid, "no header"),
    "genesis is null": (says(GENESIS, None), NodeAnswerInvalid, "no hash"),
    "another chain": (on_another_chain, NodeFailed, "on another chain"),
    "behind": (with_time(-BEHIND_SECONDS - 1), NodeFailed, "121 s old"),
    "from 1970": (store_time(bytes(8)), NodeFailed, "from another time"),
    "ahead": (with_time(AHEAD_SECONDS + 1), NodeFailed, "of the future"),
    "from the end of time": (store_time(b"\xff" * 8), NodeFailed, "of the future"),
    "time of nine bytes": (store_time(bytes(9)), NodeAnswerInvalid, "the time"),
    "repeated keys": (changes(KEYS, lambda keys: [keys[0], keys[0]]), NodeAnswerInvalid, "repeat"),
    "backwards": (changes(KEYS, lambda keys: keys[::-1]), NodeAnswerInvalid, "backwards"),
    "foreign keys": (
        changes(KEYS, lambda keys: sorted([*keys, NEXT_SUBNET])),
        NodeAnswerInvalid,
        "something else than a certificate",
    ),
    "too many keys": (says(KEYS, [OTHERS_KEY] * 2000), NodeAnswerInvalid, "longer one than"),
    "keys are text": (says(KEYS, CANARY), NodeAnswerInvalid, "no page"),
    "a key it does not have": (
        changes(KEYS, lambda keys: sorted([*keys, OTHERS_KEY])),
        NodeAnswerInvalid,
        "a certificate that it does not have",
    ),
    "values of another block": (
        changes(VALUES, first(block="0x" + "0" * 64)),
        NodeAnswerInvalid,
        "no values of the block",
    ),
    "values left out": (
        changes(VALUES, lambda sets: first(changes=sets[0]["changes"][:-1])(sets)),
        NodeAnswerInvalid,
        "a certificate that it does not have",
    ),
    "values twice": (
        changes(VALUES, lambda sets: first(changes=sets[0]["changes"][:1] * 3)(sets)),
        NodeAnswerInvalid,
        "gave values twice",
    ),
    "values of others": (
        changes(
            VALUES,
            lambda sets: first(changes=[*sets[0]["changes"][:-1], [OTHERS_KEY, "0x00"]])(sets),
        ),
        NodeAnswerInvalid,
        "others than asked for",
    ),
    "values are text": (says(VALUES, CANARY), NodeAnswerInvalid, "no values"),
}


@pytest.mark.parametrize(("fault", "error", "text"), FAULTS.values(), ids=FAULTS)
async def test_faulty_node_is_named_and_passed_over(
    clock: FakeClock, fault: Fault, error: type[RegistryError], text: str
) -> None:
    """Alone it gives an error that names it, without its words; beside another, no error at all."""
    chain = a_chain(clock)
    genesis = chain.genesis
    faulty, honest = RunningNode(a_chain(clock)), RunningNode(chain)
    fault(faulty)
    async with a_source(Network(faulty=faulty), clock, genesis=genesis) as source:
        with pytest.raises(error) as raised:
            await source.fetch_keys()
    assert str(raised.value).startswith("the node faulty ")
    assert text in str(raised.value)
    for hidden in (CANARY, "secret"):
        assert hidden not in str(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None
    network = Network(faulty=faulty, honest=honest)
    async with a_source(network, clock, genesis=genesis) as source:
        assert (await source.fetch_keys()).keys == {ALICE: KEY, BOB: BOBS_KEY}
        # The one that answered is asked first from now on.
        network.asked.clear()
        assert await source.fetch_key(ALICE) == KEY
        assert set(network.asked) == {"honest"}


async def test_all_nodes_are_named_where_none_answers(clock: FakeClock) -> None:
    """Each with what was wrong with it."""
    faulty = RunningNode(a_chain(clock))
    faulty.fail_with(503)
    async with a_source(Network(faulty=faulty), clock, "faulty", "gone") as source:
        with pytest.raises(NodeUnreachable) as raised:
            await source.fetch_keys()
    text = str(raised.value)
    assert "the node faulty answered with the status 503; the node gone " in text
    assert "All connection attempts failed" in text


async def test_pages_that_never_end_are_given_up(
    node: RunningNode, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each is as it should be: a subnet has no so many places."""
    names = sorted(
        storage.to_hex(storage.certificate_key(NETUID, a_hotkey(f"number {number}")))
        for number in range(60)
    )
    monkeypatch.setattr(module, "PAGE_KEYS", 5)
    monkeypatch.setattr(module, "MAX_ENTRIES", 40)
    node.lie(KEYS, lambda params, _: [name for name in names if name > (params[2] or "")][:5])
    async with a_source(Network(node=node), clock) as source:
        with pytest.raises(NodeAnswerInvalid, match="more than 40"):
            await source.fetch_keys()
    assert node.methods().count(KEYS) == 9


@pytest.mark.virtual_time
async def test_silent_node_is_given_up_in_time(clock: FakeClock) -> None:
    """After its time for one answer; the other node is asked."""
    silent, honest = RunningNode(a_chain(clock)), RunningNode(a_chain(clock))
    silent.delay_seconds = 3600
    loop = asyncio.get_running_loop()
    async with a_source(Network(silent=silent, honest=honest), clock) as source:
        began = loop.time()
        assert await source.fetch_key(ALICE) == KEY
        assert loop.time() - began < 13
    async with a_source(Network(silent=silent), clock) as source:
        with pytest.raises(NodeUnreachable, match="did not answer in time"):
            await source.fetch_keys()


@pytest.mark.virtual_time
async def test_node_that_is_slow_each_time_is_given_up_in_time(clock: FakeClock) -> None:
    """No answer is too slow by itself; all of them together are."""
    slow, honest = RunningNode(a_chain(clock)), RunningNode(a_chain(clock))
    slow.delay_seconds = 8
    loop = asyncio.get_running_loop()
    async with a_source(Network(slow=slow, honest=honest), clock) as source:
        began = loop.time()
        assert (await source.fetch_keys()).keys
        assert loop.time() - began < module.NODE_SECONDS + 1


@pytest.mark.virtual_time
async def test_fetch_ends_in_time_and_the_next_one_goes_on_elsewhere(clock: FakeClock) -> None:
    """Where many nodes say nothing: a later fetch begins with those that were not asked."""
    silent = RunningNode(a_chain(clock))
    silent.delay_seconds = 3600
    honest = RunningNode(a_chain(clock))
    hosts = ["a", "b", "c", "d", "e", "f", "honest"]
    network = Network(**dict.fromkeys(hosts, silent) | {"honest": honest})
    loop = asyncio.get_running_loop()
    async with a_source(network, clock, *hosts) as source:
        began = loop.time()
        with pytest.raises(NodeUnreachable):
            await source.fetch_keys()
        assert loop.time() - began < 60
        assert "honest" not in network.asked
        assert (await source.fetch_keys()).keys


async def test_node_behind_what_was_believed_is_refused(clock: FakeClock) -> None:
    """A lower head must not bring an old key back; not even where its time would do."""
    chain = a_chain(clock)
    ahead, behind = RunningNode(chain), RunningNode(chain)
    async with a_source(Network(ahead=ahead, behind=behind), clock) as source:
        behind.stick()
        chain.publish(ALICE, BOBS_KEY)
        ahead.advance()
        assert await source.fetch_key(ALICE) == BOBS_KEY
        ahead.fail_with(500)
        for fetch in (source.fetch_keys, source.fetch_neurons):
            with pytest.raises(NodeFailed, match="is behind: at block 2, and 3 is known"):
                await fetch()
        with pytest.raises(NodeFailed):
            await source.fetch_key(ALICE)
        with pytest.raises(NodeFailed):
            await source.fetch_place(ALICE)
        behind.behave()
        assert await source.fetch_key(ALICE) == BOBS_KEY


async def test_node_on_a_fork_is_refused_at_the_same_height(clock: FakeClock) -> None:
    """Two finalised blocks of one height cannot both be true: the first one counts."""
    chain = a_chain(clock)
    fork = chain.fork(1)
    fork.publish(ALICE, BOBS_KEY)
    fork.advance()
    node, forked = RunningNode(chain), RunningNode(fork)
    async with a_source(Network(node=node, forked=forked), clock) as source:
        assert await source.fetch_key(ALICE) == KEY
        node.fail_with(500)
        with pytest.raises(NodeFailed, match="is on a fork"):
            await source.fetch_keys()


@pytest.mark.parametrize("value", [[storage.to_hex(storage.NOW_KEY), None], None])
async def test_block_without_a_time_grows_old_from_when_it_is_seen(
    node: RunningNode, clock: FakeClock, value: list[str | None] | None
) -> None:
    """A private chain may keep none, and its node say null or nothing: a head must move on."""

    def without_time(sets: Any) -> Any:
        kept = [each for each in sets[0]["changes"] if each[0] != storage.to_hex(storage.NOW_KEY)]
        return first(changes=kept if value is None else [value, *kept])(sets)

    changes(VALUES, without_time)(node)
    async with a_source(Network(node=node), clock) as source:
        seen = clock()
        await source.fetch_keys()
        clock.advance(seconds=BEHIND_SECONDS)
        found = await source.fetch_keys()
        assert found.block is not None
        assert found.block.time == seen
        for minutes in (1, 20):
            clock.advance(minutes=minutes)
            with pytest.raises(NodeFailed, match="is behind: its head"):
                await source.fetch_keys()
        node.advance()
        assert (await source.fetch_keys()).keys


async def test_height_that_was_a_lie_counts_for_a_while_only(
    node: RunningNode, clock: FakeClock
) -> None:
    """One node that was wrong once must not shut the others out until a restart."""
    async with a_source(Network(node=node), clock) as source:
        node.lie(HEADER, lambda _, header: {**header, "number": "0xffffff"})
        await source.fetch_keys()
        node.behave()
        for minutes, is_refused in ((14, True), (1, False)):
            clock.advance(minutes=minutes)
            node.advance()
            if is_refused:
                with pytest.raises(NodeFailed, match="is behind"):
                    await source.fetch_keys()
            else:
                assert (await source.fetch_keys()).keys


async def test_same_head_is_believed_again(node: RunningNode, clock: FakeClock) -> None:
    """Until it is too old: a node that stops advancing stops giving answers."""
    async with a_source(Network(node=node), clock) as source:
        await source.fetch_keys()
        clock.advance(seconds=BEHIND_SECONDS)
        await source.fetch_keys()
        clock.advance(seconds=1)
        with pytest.raises(NodeFailed, match="or this machine's clock is wrong"):
            await source.fetch_keys()


async def test_first_node_says_which_chain_is_meant(clock: FakeClock) -> None:
    """Where none is configured; but not one whose answer was of no use."""
    other = RunningNode(Chain(name="Other", clock=clock))
    other.advance(5)
    honest = RunningNode(a_chain(clock))
    network = Network(other=other, honest=honest)
    async with a_source(network, clock) as source:
        other.lie(KEYS, lambda params, honest: None)
        assert (await source.fetch_keys()).keys == {ALICE: KEY, BOB: BOBS_KEY}
        other.behave()
        honest.fail_with(500)
        with pytest.raises(NodeFailed, match="is on another chain"):
            await source.fetch_keys()


async def test_two_chains_at_once_are_one_in_the_end(clock: FakeClock) -> None:
    """Fetches that began before a chain was known do not end with another one."""
    other = RunningNode(Chain(name="Other", clock=clock))
    other.advance(2)
    honest = RunningNode(a_chain(clock))
    async with a_source(Network(node=honest), clock) as source:
        network = source._http._transport
        assert isinstance(network, Network)

        def switch(params: Any, said: Any) -> Any:
            network.nodes["node"] = honest
            return said

        other.lie(HEADER, switch)
        network.nodes["node"] = other
        # Its head is of one chain, its state of another: that chain does not know the block.
        with pytest.raises(RegistryError):
            await source.fetch_keys()
        assert (await source.fetch_keys()).keys


async def test_failed_fetch_leaves_nothing_behind(node: RunningNode, clock: FakeClock) -> None:
    """A head whose state did not come is not believed: it refuses no other node."""
    forward = a_chain(clock)
    forward.advance(5)
    broken = RunningNode(forward)
    broken.lie(VALUES, lambda params, honest: None)
    async with a_source(Network(broken=broken, node=node), clock) as source:
        assert (await source.fetch_keys()).block is not None


async def test_many_at_once_are_fine(node: RunningNode, clock: FakeClock) -> None:
    """Each ends with its own answer."""
    async with a_source(Network(node=node), clock) as source:
        keys = await asyncio.gather(
            *(source.fetch_key(hotkey) for hotkey in [ALICE, BOB, CAROL] * 20)
        )
    assert keys == [KEY, BOBS_KEY, None] * 20


async def test_requests_are_plain_posts(node: RunningNode, clock: FakeClock) -> None:
    """Nothing is compressed, no cookie is kept; the query of the address is sent, and not shown."""
    seen: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        body = await node._answer("http", request.content)
        return httpx.Response(
            200, stream=httpx.ByteStream(body), headers={"Set-Cookie": "a=b; Path=/"}
        )

    async with ChainSource(
        endpoints=["http://node/?token=secret"],
        netuid=NETUID,
        clock=clock,
        transport=httpx.MockTransport(answer),
    ) as source:
        await source.fetch_key(ALICE)
    for request in seen:
        assert request.method == "POST"
        assert str(request.url) == "http://node/?token=secret"
        assert request.headers["accept-encoding"] == "identity"
        assert request.headers["content-type"] == "application/json"
        assert "cookie" not in request.headers


async def test_compressed_answer_is_refused(clock: FakeClock) -> None:
    """It could be any size."""
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, content=b"x", headers={"Content-Encoding": "gzip"})
    )
    async with ChainSource(
        endpoints=["http://node"], netuid=NETUID, clock=clock, transport=transport
    ) as source:
        with pytest.raises(NodeAnswerInvalid, match="compressed"):
            await source.fetch_keys()


async def test_use_after_the_end_is_our_own_error(node: RunningNode, clock: FakeClock) -> None:
    """As the port says."""
    source = a_source(Network(node=node), clock)
    await source.aclose()
    with pytest.raises(NodeUnreachable):
        await source.fetch_keys()


def test_websocket_without_its_package_is_refused_at_once(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it; nodes at http:// need none."""
    monkeypatch.setitem(sys.modules, "nexus_auth.adapters.chain.websocket", None)
    ChainSource(endpoints=["http://node"], netuid=NETUID, clock=clock)
    with pytest.raises(ConfigurationError, match=r"pip install 'nexus-auth\[chain\]'") as raised:
        ChainSource(endpoints=["http://node", "wss://node"], netuid=NETUID, clock=clock)
    assert raised.value.setting == "NEXUS_CHAIN_ENDPOINT"


MUTATIONS: Final = st.sampled_from([GENESIS, HEAD, HEADER, KEYS, VALUES])
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["block", "changes", "number"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(method=MUTATIONS, answer=JSON, stored=st.binary(max_size=70))
def test_any_answer_is_a_value_or_a_registry_error(method: str, answer: Any, stored: bytes) -> None:
    """Whatever is said to one request, and whatever is stored: nothing else comes out."""
    clock = FakeClock()
    node = RunningNode(a_chain(clock))
    node.chain.store_certificate(CAROL, stored)
    node.chain.store(scale.of_account("Axons", NETUID, ALICE.account_id), stored)
    node.advance()

    async def use() -> None:
        async with a_source(Network(node=node), clock) as source:
            for fetch in (
                source.fetch_keys,
                lambda: source.fetch_key(CAROL),
                lambda: source.fetch_place(ALICE),
            ):
                for lying in (False, True):
                    node.behave()
                    if lying:
                        node.lie(method, lambda params, honest: answer)
                    try:
                        await fetch()
                    except RegistryError:
                        continue

    asyncio.run(use())
