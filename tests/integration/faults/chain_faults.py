"""Everything that a node of the chain can do wrong, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tests.builders import a_hotkey
from tests.integration.chain import scale
from tests.integration.chain.node import (
    NETUID,
    Chain,
    Params,
    RpcFailure,
    RunningNode,
    SealedBlock,
)
from tests.integration.faults.faults import OWNER
from tests.unit.adapters.registry.sources import key_of, keys_of

BLOCK_SECONDS: Final = 12
FAR_BEHIND: Final = timedelta(minutes=5)

_KEYS: Final = "state_getKeysPaged"
_VALUES: Final = "state_queryStorageAt"


class LivingNode(RunningNode):
    """A node whose chain has a new block every 12 s of a clock, unless it is to misbehave."""

    def __init__(self, *names: str, clock: Callable[[], datetime]) -> None:
        chain = Chain(clock=clock)
        chain.advance(5, at=clock() - FAR_BEHIND)
        for hotkey, key in keys_of(*names).items():
            chain.publish(hotkey, key)
        self._made_at = clock()
        self._clock = clock
        self._honest = chain
        self.is_advancing = True
        super().__init__(chain)
        # Forks share the block with all the keys.
        self.advance(2)

    @property
    def blocks(self) -> list[SealedBlock]:
        """Those that it has, after those that are due."""
        if self.is_advancing and self._clock() - self._made_at > timedelta(seconds=BLOCK_SECONDS):
            self._made_at = self._clock()
            self.advance()
        return super().blocks

    def behave(self) -> None:
        """Ends all faults: what the chain had stored is stored again."""
        super().behave()
        self.chain, self.is_advancing = self._honest, True
        self.chain.publish(OWNER, key_of("dave"))
        self.advance()
        self.start()


@dataclass(frozen=True)
class ChainFault:
    """One way to be wrong, by its name in the table."""

    name: str
    start: Callable[[LivingNode], object]
    changes_keys: bool = False

    async def begin(self, node: LivingNode) -> None:
        """Makes a node misbehave."""
        self.start(node)


def _says(method: str, change: Callable[[Any], Any]) -> Callable[[LivingNode], object]:
    return lambda node: node.lie(method, lambda _, honest: change(honest))


def _fails(method: str) -> Callable[[LivingNode], object]:
    def fail(params: Params, honest: Any) -> Any:
        raise RpcFailure(-32000, "Client error")

    return lambda node: node.lie(method, fail)


def _changes(change: Callable[[list[Any]], list[Any]]) -> Callable[[LivingNode], object]:
    return _says(_VALUES, lambda sets: [sets[0] | {"changes": change(sets[0]["changes"])}])


def _stores(value: bytes) -> Callable[[LivingNode], object]:
    def store(node: LivingNode) -> None:
        node.chain.store_certificate(OWNER, value)
        node.advance()

    return store


def _switch_to_a_fork(node: LivingNode) -> None:
    """Of the same height, on which the owner has another key."""
    node.is_advancing = False
    node.chain = node.chain.fork(node.head.number - 1)
    node.chain.publish(OWNER, key_of("dave's other"))
    node.advance()


def _go_back(node: LivingNode) -> None:
    """To a block before, of the same age, in which the owner had another key."""
    _switch_to_a_fork(node)
    node.chain.blocks = [*node.chain.blocks[:-2], node.chain.blocks[-1]]


def _switch_to_another_chain(node: LivingNode) -> None:
    node.chain = Chain(name="Other", clock=node.chain.clock)
    node.chain.publish(OWNER, key_of("dave's other"))
    node.advance(100)


def _fall_behind(node: LivingNode) -> None:
    node.is_advancing = False
    node.blocks_behind = len(node.blocks) - 5


def _stop_advancing(node: LivingNode) -> None:
    node.is_advancing = False


def _foreign(keys: list[str]) -> list[str]:
    other = scale.of_account("NeuronCertificates", NETUID + 1, a_hotkey("eve").account_id)
    return sorted([*keys, "0x" + other.hex()])


_GOOD: Final = key_of("dave")
_MINERS: Final = {
    "0x" + scale.of_account("NeuronCertificates", NETUID, a_hotkey(name).account_id).hex()
    for name in ("miner 1", "miner 2")
}

CHAIN_FAULTS: Final = (
    ChainFault("connection refused", lambda node: node.stop()),
    ChainFault("accepts and says nothing", lambda node: setattr(node, "delay_seconds", 3)),
    ChainFault("503", lambda node: node.fail_with(503)),
    ChainFault("429", lambda node: node.fail_with(429)),
    ChainFault(
        "HTML with status 200", lambda node: node.answer_with("chain_getHeader", b"<!doctype html>")
    ),
    ChainFault(
        "an answer of 600 KB", lambda node: node.answer_with(_VALUES, b"[" + b" " * 600_000)
    ),
    ChainFault("an error for an answer", _fails(_KEYS)),
    ChainFault("its state is pruned", lambda node: setattr(node, "keeps", 0)),
    ChainFault("another chain", _switch_to_another_chain),
    ChainFault("five minutes behind", _fall_behind),
    ChainFault("stops advancing", _stop_advancing),
    ChainFault("a fork of the same height", _switch_to_a_fork),
    ChainFault("back to a lower block", _go_back),
    ChainFault("does not know its own head", _says("chain_getHeader", lambda _: None)),
    ChainFault("keys that repeat", _says(_KEYS, lambda keys: [keys[0], *keys])),
    ChainFault("keys of another subnet", _says(_KEYS, _foreign)),
    ChainFault("values left out", _changes(lambda changes: changes[:-1])),
    ChainFault("values twice", _changes(lambda changes: changes + changes[-1:])),
    ChainFault(
        "values of another block",
        _says(_VALUES, lambda sets: [sets[0] | {"block": "0x" + "0" * 64}]),
    ),
    ChainFault("a key of 31 bytes", _stores(scale.compact(31) + _GOOD[1:] + b"\1")),
    ChainFault("a key of 0 bytes", _stores(b"\0\1")),
    ChainFault("a key of 64 bytes, algorithm 2", _stores(scale.compact(64) + _GOOD * 2 + b"\2")),
    ChainFault("algorithm 2", _stores(scale.compact(32) + _GOOD + b"\2")),
    ChainFault("another hotkey's key", _stores(scale.compact(32) + key_of("alice") + b"\1")),
    ChainFault("a value that is no certificate", _stores(b"\xff" * 5)),
    ChainFault("suddenly empty", _says(_KEYS, lambda _: [])),
    ChainFault("most hotkeys lost", _says(_KEYS, lambda keys: sorted(_MINERS & set(keys)))),
)
