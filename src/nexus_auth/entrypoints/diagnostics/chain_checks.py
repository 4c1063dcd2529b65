"""Checks the nodes of the chain: each answers, for the same chain, and none has stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from nexus_auth.adapters.chain.endpoints import node_name
from nexus_auth.adapters.chain.rpc import NodeAnswerInvalid, NodeUnreachable
from nexus_auth.adapters.chain.source import ChainSource
from nexus_auth.domain.errors import ConfigurationError, RegistryError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.ports import Clock, KeyMap
from nexus_auth.domain.snapshot import Block
from nexus_auth.entrypoints.diagnostics.findings import Finding, Outcome
from nexus_auth.entrypoints.diagnostics.pylon_checks import judge_skew, judge_subnet
from nexus_auth.entrypoints.settings import Settings

_SUBJECT: Final = "node"
_LAG_BLOCKS: Final = 5
"""Ours: a minute. Nodes differ by a block or two."""
_SLOW_SECONDS: Final = 1.5
"""An unknown caller waits hardly longer than this for a fetch of all keys."""
_FINAL_WITHIN: Final = timedelta(seconds=60)
"""A block is final some three blocks of 12 s after it was made; the next one comes 12 s later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What one node did: it gave all keys at a block of a chain, or it failed."""

    name: str
    seconds: float
    genesis: str | None
    answer: KeyMap | None
    error: RegistryError | ConfigurationError | None

    @property
    def block(self) -> Block | None:
        return None if self.answer is None else self.answer.block


async def check_chain(
    settings: Settings, clock: Clock
) -> tuple[list[Finding], Mapping[Hotkey, bytes] | None]:
    """Fetches all keys of the subnet from each node, as the service does from one of them.

    Returns:
        What was found, and the registered keys as the node with the latest block has them; None
        where no node of the chain that is meant gave any.
    """
    endpoints = settings.chain_endpoint or ()
    seen = await asyncio.gather(*(_look(endpoint, settings, clock) for endpoint in endpoints))
    meant = settings.chain_genesis
    meant = meant or next((each.genesis for each in seen if each.genesis is not None), None)
    blocks = [(each.block.number, each) for each in seen if each.block and each.genesis == meant]
    best, latest = max(blocks, key=lambda pair: pair[0], default=(0, None))
    findings = [_judge(each, meant, best, clock) for each in seen]
    if latest is None or latest.answer is None or latest.block is None:
        return findings, None
    text = f"block 0 is {meant}"
    if settings.chain_genesis is None:
        next_step = f"NEXUS_CHAIN_GENESIS={meant} refuses nodes of any other chain"
        findings.append(Finding("chain", Outcome.WARNING, f"{text}; that is not set", next_step))
    else:
        findings.append(Finding("chain", Outcome.OK, f"{text}, as NEXUS_CHAIN_GENESIS says"))
    leeway = timedelta(seconds=settings.leeway_seconds)
    findings.append(judge_block_time(clock() - latest.block.time, leeway))
    return [*findings, *judge_subnet("the chain", latest.answer)], latest.answer.keys


async def _look(endpoint: str, settings: Settings, clock: Clock) -> _Seen:
    """Asks one node alone, whatever its chain is."""
    answer: KeyMap | None = None
    error: RegistryError | ConfigurationError | None = None
    genesis = None
    began = time.perf_counter()
    try:
        async with ChainSource(
            endpoints=(endpoint,),
            netuid=settings.netuid or 0,
            clock=clock,
            connect_timeout_seconds=settings.pylon_connect_timeout_seconds,
            read_timeout_seconds=settings.pylon_read_timeout_seconds,
        ) as source:
            answer = await source.fetch_keys()
            genesis = source.genesis
    except (RegistryError, ConfigurationError) as exc:
        error = exc
    return _Seen(
        name=node_name(endpoint),
        seconds=time.perf_counter() - began,
        genesis=genesis,
        answer=answer,
        error=error,
    )


def _judge(seen: _Seen, meant: str | None, best: int, clock: Clock) -> Finding:
    """Judges one node, where the chain is meant whose best node is at a block; 0 where none is."""
    if seen.answer is None or seen.block is None:
        return _explain(seen, others_answer=best > 0)
    outcome, next_step = Outcome.OK, ""
    age = (clock() - seen.block.time).total_seconds()
    text = (
        f"{seen.name}: block {seen.block.number:,}, {age:.0f} s old, "
        f"{len(seen.answer.keys)} registered keys, in {seen.seconds:.1f} s"
    )
    if seen.genesis != meant:
        outcome, text = Outcome.WRONG, f"{seen.name} is on another chain: block 0 is {seen.genesis}"
        next_step = "take it out of NEXUS_CHAIN_ENDPOINT, or correct NEXUS_CHAIN_GENESIS"
    elif best - seen.block.number > _LAG_BLOCKS:
        outcome, text = Outcome.WARNING, f"{text}; {best - seen.block.number} blocks behind another"
        next_step = "let it catch up, or name it last in NEXUS_CHAIN_ENDPOINT"
    elif seen.seconds > _SLOW_SECONDS:
        outcome, text = Outcome.WARNING, f"{text}: slow"
        next_step = "a node that is nearer, or of one's own, makes new keys count sooner"
    return Finding(_SUBJECT, outcome, text, next_step)


def _explain(seen: _Seen, *, others_answer: bool) -> Finding:
    outcome = Outcome.WRONG
    match seen.error:
        case ConfigurationError(problem=problem):
            # The service does not start, whatever the other nodes say.
            return Finding(_SUBJECT, outcome, f"{seen.name}: {problem}", "install it")
        case NodeUnreachable():
            outcome = Outcome.UNREACHABLE
            next_step = "does it run, and can this machine reach it? NEXUS_CHAIN_ENDPOINT names it"
        case NodeAnswerInvalid():
            next_step = "is this really the address of a subtensor node?"
        case _:
            next_step = "name another node in NEXUS_CHAIN_ENDPOINT, or set this machine's clock"
    return Finding(
        _SUBJECT, Outcome.WARNING if others_answer else outcome, str(seen.error), next_step
    )


def judge_block_time(age: timedelta, leeway: timedelta) -> Finding:
    """Compares this machine's clock with the time of the latest block.

    Args:
        age: How long ago that is by this machine's clock.
        leeway: By how much a certificate's validity may begin later than now.
    """
    text = f"the latest final block is {age.total_seconds():.0f} s old here"
    skew = max(-age, age - _FINAL_WITHIN)
    return judge_skew(skew, leeway, text, keeping="this machine")
