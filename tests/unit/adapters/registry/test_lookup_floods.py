"""What forged certificates can do to a source that is asked for each hotkey: little."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import structlog.testing

from nexus_auth.adapters.registry import lookup
from nexus_auth.adapters.registry.fetch import PATIENCE_SECONDS
from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.domain.errors import RegistryError, RegistryUnavailable
from tests.builders import a_hotkey
from tests.unit.adapters.registry.sources import (
    REFRESH_EVERY,
    FakeSource,
    a_timing,
    key_of,
    keys_of,
    neurons_of,
    until_idle,
)
from tests.virtual_time import LoopClocks

pytestmark = pytest.mark.virtual_time

MINERS = [f"miner {number}" for number in range(256)]
WRONG = key_of("eve")

Make = Callable[..., LookupRegistry]


@pytest.fixture
def source() -> FakeSource:
    """A source that knows a full subnet, and which neurons it has."""
    return FakeSource(keys_of(*MINERS), neurons=neurons_of(*MINERS))


@pytest_asyncio.fixture
async def make(source: FakeSource) -> AsyncIterator[Make]:
    """Makes registries over the source; closes them at the end."""
    made: list[LookupRegistry] = []

    def build(**settings: Any) -> LookupRegistry:
        settings = {"source": source, "neuron_source": source, **settings}
        registry = LookupRegistry(timing=a_timing(LoopClocks()), **settings)
        made.append(registry)
        return registry

    yield build
    for registry in made:
        await registry.aclose()


async def is_granted(registry: LookupRegistry, name: str, *, key: bytes | None = None) -> bool:
    """Whether a caller gets in with a key: the one that goes with the name, unless told so."""
    presented = key_of(name) if key is None else key
    known = registry.peek(a_hotkey(name))
    if known is None or known.public_key != presented:
        try:
            known = await registry.lookup(a_hotkey(name), presented=presented)
        except RegistryError:
            return False
    return known is not None and known.public_key == presented


def total(source: FakeSource) -> int:
    """All requests that the source got."""
    return source.fetches.total() + source.bulk_fetches + source.neuron_fetches


async def flood(registry: LookupRegistry, names: list[str], *, seconds: float) -> None:
    """Shows a wrong key under every name, five times a second."""
    for _ in range(int(seconds * 5)):
        for name in names:
            assert not await is_granted(registry, name, key=WRONG)
        await asyncio.sleep(0.2)


async def test_wrong_keys_under_known_names_do_not_set_the_load_on_the_source(
    make: Make, source: FakeSource
) -> None:
    """256 known hotkeys with wrong keys for 20 s cost what one allowance gives, for all of them."""
    registry = make()
    for name in MINERS:
        assert await is_granted(registry, name)
    await asyncio.sleep(lookup.UNKNOWN_SECONDS)
    before = total(source)
    await flood(registry, MINERS, seconds=20)
    assert total(source) - before <= lookup.RECHECKS_AT_ONCE + 20 * lookup.RECHECKS_PER_SECOND


async def test_registered_callers_get_in_among_strangers(make: Make, source: FakeSource) -> None:
    """A hundred strangers a second lock out nobody who has a neuron on the subnet."""
    registry = make()
    strangers = (f"stranger {number}" for number in itertools.count())
    refused = 0
    for second in range(60):
        for _ in range(100):
            assert not await is_granted(registry, next(strangers))
            await asyncio.sleep(0.01)
        for name in MINERS[4 * second : 4 * second + 4]:
            refused += not await is_granted(registry, name)
    assert refused == 0


async def knock(registry: LookupRegistry, names: list[str]) -> None:
    """Shows wrong keys until it is cancelled."""
    await flood(registry, names, seconds=3600)


async def seconds_until_granted(registry: LookupRegistry, name: str, key: bytes) -> float:
    """How long a caller who tries five times a second waits for the first grant."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await is_granted(registry, name, key=key):  # noqa: ASYNC110 - as a client would.
        await asyncio.sleep(0.2)
    return loop.time() - began


@pytest.mark.parametrize(
    ("attacked", "limit"),
    [
        (0, lookup.UNKNOWN_SECONDS),
        (8, lookup.UNKNOWN_SECONDS),
        # A fair share of the allowance, twice the number of hotkeys over the fetches a second.
        (64, lookup.UNKNOWN_SECONDS + 2 * 64 / lookup.RECHECKS_PER_SECOND),
        # The refresh in the background.
        (256, REFRESH_EVERY.total_seconds()),
    ],
)
async def test_rotated_key_works_soon_however_many_hotkeys_are_attacked(
    make: Make, source: FakeSource, attacked: int, limit: float
) -> None:
    """The attack takes nothing from a hotkey but its place in a fair queue."""
    registry = make()
    for name in MINERS:
        assert await is_granted(registry, name)
    async with asyncio.TaskGroup() as group:
        attack = group.create_task(knock(registry, MINERS[:attacked]))
        for name in MINERS[::64]:
            await asyncio.sleep(7)
            new = key_of(f"{name}'s new")
            source.keys[a_hotkey(name)] = new
            assert await seconds_until_granted(registry, name, new) <= limit + 0.2
            # The old one is out with it.
            assert not await is_granted(registry, name)
        attack.cancel()


async def test_names_with_a_neuron_but_without_a_key_lock_out_nobody(
    make: Make, source: FakeSource
) -> None:
    """An attacker reads the names of all neurons on chain; who was never fetched comes first."""
    without = [f"keyless {number}" for number in range(200)]
    source.neurons = neurons_of(*MINERS, *without)
    registry = make()
    await flood(registry, [f"stranger {number}" for number in range(200)], seconds=1)
    before, refused = total(source), 0
    for second in range(60):
        await flood(registry, without, seconds=1)
        for name in MINERS[4 * second : 4 * second + 4]:
            refused += not await is_granted(registry, name)
    assert refused == 0
    assert total(source) - before <= lookup.UNKNOWN_AT_ONCE + 60 * lookup.UNKNOWN_PER_SECOND


async def test_all_floods_at_once_cost_the_sum_of_the_allowances(
    make: Make, source: FakeSource
) -> None:
    """Known names with wrong keys, names of neurons, and strangers: for two minutes."""
    source.neurons = neurons_of(*MINERS, *(f"keyless {number}" for number in range(256)))
    registry = make()
    for name in MINERS:
        assert await is_granted(registry, name)
    strangers = (f"stranger {number}" for number in itertools.count())
    before, seconds = total(source), 120
    for _ in range(seconds * 2):
        names = [*MINERS, *(f"keyless {number}" for number in range(256))]
        names += itertools.islice(strangers, 50)
        for name in names:
            assert not await is_granted(registry, name, key=WRONG)
        await asyncio.sleep(0.5)
    refreshes = len(MINERS) * seconds / REFRESH_EVERY.total_seconds()
    allowed = 2 * lookup.UNKNOWN_AT_ONCE + 2 * seconds * lookup.UNKNOWN_PER_SECOND
    rechecks = lookup.RECHECKS_AT_ONCE + seconds * lookup.RECHECKS_PER_SECOND
    neurons = 1 + seconds / lookup.NEURONS_SECONDS
    assert source.neuron_fetches <= neurons
    assert total(source) - before <= refreshes + allowed + rechecks + neurons


async def test_neurons_are_not_fetched_while_few_unknown_hotkeys_come(
    make: Make, source: FakeSource
) -> None:
    """Half of the allowance is left: nothing has to come first."""
    registry = make()
    for number in range(lookup.UNKNOWN_AT_ONCE // 2):
        assert not await is_granted(registry, f"stranger {number}")
    await asyncio.sleep(1)
    assert source.neuron_fetches == 0


@pytest.mark.parametrize(
    "error", [None, RegistryUnavailable("no neurons here"), ZeroDivisionError("a defect")]
)
async def test_source_without_neurons_serves_unknown_hotkeys_as_they_come(
    make: Make, source: FakeSource, error: Exception | None
) -> None:
    """Every unknown hotkey is one among strangers, and the source is asked for neurons rarely.

    The log tells of a defect, with its traceback, and of nothing else.
    """
    source.neuron_error = error
    registry = make(**({"neuron_source": None} if error is None else {}))
    with structlog.testing.capture_logs() as lines:
        await flood(registry, [f"stranger {number}" for number in range(256)], seconds=59)
    is_defect = isinstance(error, ZeroDivisionError)
    assert [line["event"] for line in lines] == ["lookup_crashed"] * is_defect
    assert all(line["exc_info"] for line in lines)
    task = registry._neurons._task
    assert task is None or task.exception() is None  # It has been seen, where there was one.
    assert source.neuron_fetches == (0 if error is None else 1)
    for number in range(10):
        assert not await is_granted(registry, f"another {number}")
    assert not await is_granted(registry, "miner 0")
    await asyncio.sleep(1)
    assert await is_granted(registry, "miner 0")


async def test_silent_source_of_neurons_holds_nobody_up_and_ends_with_the_registry(
    make: Make, source: FakeSource
) -> None:
    """Its answer is not waited for, and no second one is asked for meanwhile."""
    registry = make()
    source.open.clear()
    strangers = [a_hotkey(f"stranger {number}") for number in range(2 * lookup.UNKNOWN_AT_ONCE)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    outcomes = await asyncio.gather(
        *(registry.lookup(each, presented=WRONG) for each in strangers), return_exceptions=True
    )
    assert loop.time() - began == pytest.approx(PATIENCE_SECONDS)
    refused = [str(outcome) for outcome in outcomes].count("too many unknown hotkeys at once")
    assert refused == lookup.UNKNOWN_AT_ONCE
    assert source.neuron_fetches == 1
    await registry.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_hotkey_with_a_neuron_does_not_wait_in_the_queue_of_strangers(
    make: Make, source: FakeSource
) -> None:
    """Where the source is slow, that queue is long."""
    registry = make()
    await flood(registry, [f"stranger {number}" for number in range(200)], seconds=1)
    source.open.clear()
    waiting = [
        asyncio.create_task(is_granted(registry, f"another {number}"))
        for number in range(2 * lookup.MAX_FETCHES)
    ]
    await until_idle()
    waiting.append(asyncio.create_task(is_granted(registry, "miner 0")))
    await until_idle()
    assert source.fetches[a_hotkey("miner 0")] == 1
    source.open.set()
    assert (await asyncio.gather(*waiting))[-1]


async def test_known_hotkey_does_not_wait_in_the_queue_of_strangers(
    make: Make, source: FakeSource
) -> None:
    """Its renewal is sent at once, also where the source tells no neurons."""
    registry = make(neuron_source=None)
    assert await is_granted(registry, "miner 0")
    await asyncio.sleep(REFRESH_EVERY.total_seconds())
    source.open.clear()
    waiting = [
        asyncio.create_task(is_granted(registry, f"stranger {number}"))
        for number in range(2 * lookup.MAX_FETCHES)
    ]
    await until_idle()
    assert await is_granted(registry, "miner 0")
    await until_idle()
    assert source.fetches[a_hotkey("miner 0")] == 2
    source.open.set()
    await asyncio.gather(*waiting)


async def test_rotated_key_of_a_known_hotkey_works_soon_among_strangers(
    make: Make, source: FakeSource
) -> None:
    """They take nothing from the allowance of known hotkeys, however many come."""
    registry = make(neuron_source=None)
    assert await is_granted(registry, "miner 0")
    await asyncio.sleep(lookup.UNKNOWN_SECONDS)
    await flood(registry, [f"stranger {number}" for number in range(400)], seconds=0.2)
    new = key_of("miner 0's new")
    source.keys[a_hotkey("miner 0")] = new
    await flood(registry, [f"another {number}" for number in range(400)], seconds=0.2)
    while registry._others.take():
        pass
    assert await is_granted(registry, "miner 0", key=new)


async def test_hotkey_with_a_neuron_that_publishes_a_key_is_granted_within_two_seconds(
    make: Make, source: FakeSource
) -> None:
    """As any other hotkey is."""
    source.neurons = neurons_of(*MINERS, "late")
    registry = make()
    await flood(registry, [f"stranger {number}" for number in range(200)], seconds=1)
    assert source.neuron_fetches == 1
    assert not await is_granted(registry, "late")
    source.keys |= keys_of("late")
    await asyncio.sleep(2)
    assert await is_granted(registry, "late")


async def test_neurons_are_fetched_again_a_minute_later(make: Make, source: FakeSource) -> None:
    """Not sooner, and only while strangers come: a new neuron is to come first as well."""
    registry = make()
    fetches = []
    for moment in range(3):
        await flood(registry, [f"stranger {number}" for number in range(300)], seconds=1)
        fetches.append(source.neuron_fetches)
        source.neurons |= neurons_of("late")
        await asyncio.sleep(0 if moment == 0 else 60)
    assert fetches == [1, 1, 2]
    assert a_hotkey("late") in registry._neurons.hotkeys


async def test_number_of_neurons_that_are_remembered_is_bounded(
    make: Make, source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a source says."""
    monkeypatch.setattr(lookup, "MAX_KNOWN", 3)
    registry = make()
    await flood(registry, [f"stranger {number}" for number in range(200)], seconds=1)
    assert source.neuron_fetches == 1
    assert len(registry._neurons.hotkeys) == 3


async def test_key_long_unused_is_fetched_before_it_is_used_also_during_an_attack(
    make: Make, source: FakeSource
) -> None:
    """That fetch is due, and needs no allowance: the key may have been replaced since."""
    registry = make()
    for name in MINERS:
        assert await is_granted(registry, name)
    source.keys[a_hotkey("miner 200")] = key_of("miner 200's new")
    await asyncio.sleep(2 * REFRESH_EVERY.total_seconds() + 1)
    while registry._rechecks.take():
        pass  # As an attack on many names does.
    assert not await is_granted(registry, "miner 200")
