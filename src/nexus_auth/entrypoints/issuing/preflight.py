"""What is found out before Pylon is asked for a key pair, since that replaces a key on chain.

What follows from it, `domain/prospect.py` decides; the requests and the words are here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from nexus_auth.domain import errors
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuance import Order
from nexus_auth.domain.issuing import BACKDATING
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import Clock, KeyMap
from nexus_auth.domain.prospect import (
    BLOCK,
    Comparison,
    Prospect,
    Verdict,
    judge,
    likely_refusals,
    presumed_wait,
)
from nexus_auth.entrypoints.reporter import Reporter

_LIMIT: Final = "the chain's rate limit (50 blocks, about 10 minutes, by default)"


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Preflight:
    """Stops an order that the chain would refuse, or that would replace another hotkey's key.

    Attributes:
        order: What the user wants.
        compare: Compares the key of the identity that is asked for a pair with a hotkey's.
        fetch_keys: As of `KeySource`.
        fetch_place: As of `PlaceSource`.
        netuid: The subnet; None where Pylon knows one alone.
        clock: The wall clock.
        reporter: Shows what happens.
        poll_seconds: The pause between two readings of the chain.
    """

    order: Order
    compare: Callable[[Hotkey], Awaitable[Comparison]]
    fetch_keys: Callable[[], Awaitable[KeyMap]]
    fetch_place: Callable[[Hotkey], Awaitable[Place | None]]
    netuid: int | None
    clock: Clock
    reporter: Reporter
    poll_seconds: float = 2.0
    _known: Prospect = field(init=False)
    _presumed: timedelta = field(init=False, default=timedelta())
    _ready_at: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self._known = Prospect(hotkey=self.order.hotkey, is_forced=self.order.force)

    async def check(self, present: ClientCertificate | None) -> None:
        """Reads what can be read, and raises where asking for a key pair is no good.

        Args:
            present: The certificate of the pair on disk, where there is one.

        Raises:
            IssuingRefused: If the chain would take no key, or another hotkey's would be replaced.
            ConfigurationError: If Pylon wants settings that are missing.
            IssuingError: If the keys on chain cannot be read.
        """
        async with self.reporter.waiting(f"Looking up {self.order.hotkey} on chain"):
            with suppress(errors.RegistryError):  # A help, which not every Pylon can give.
                place = await self.fetch_place(self.order.hotkey)
                self._known = replace(self._known, place=place)
            verdict = Verdict.COMPARE_AGAIN
            while verdict is Verdict.COMPARE_AGAIN:
                verdict = judge(await self._compare())
        if verdict is not Verdict.ASK:
            raise errors.IssuingRefused(f"{self._explain(verdict)}. Nothing was changed")
        if present is not None:
            self._warn_of_rate_limit(present)

    async def _compare(self) -> Prospect:
        if self._known.comparisons:
            await asyncio.sleep(self.poll_seconds)
        comparison = await self.compare(self.order.hotkey)
        self._known = replace(self._known, comparisons=(*self._known.comparisons, comparison))
        if self._known.subnet is None:
            with suppress(errors.RegistryError):  # Not every Pylon gives all keys at once.
                self._known = replace(self._known, subnet=await self.fetch_keys())
        return self._known

    def _warn_of_rate_limit(self, present: ClientCertificate) -> None:
        now = self.clock()
        self._presumed = presumed_wait(
            self._known,
            public_key=present.public_key,
            made_at=present.not_before + BACKDATING,
            now=now,
        )
        if self._presumed:
            self._ready_at = f" after {now + self._presumed:%H:%M:%S} UTC"
            self.reporter.warn(
                "the key on chain is only "
                f"{_minutes(now - present.not_before - BACKDATING)} old, and by default the chain "
                f"takes no other for 10 minutes. If it refuses, run this again{self._ready_at}"
            )

    # In words

    def likely_refusals(self) -> str:
        """Why the chain may have refused a key, after it was asked for."""
        verdicts = likely_refusals(self._known, presumed=self._presumed)
        who = self.order.hotkey if self._known.is_identity_proven else "the identity's hotkey"
        causes = {
            Verdict.TOO_SOON: f"{who} served its axon, or published a key, within {_LIMIT}: wait, "
            f"and run this again{self._ready_at}",
            Verdict.NO_AXON: f"{who} serves no axon: {self._axon_remedy}",
            Verdict.NO_PLACE: f"{who} is not registered on {self._subnet}",
        }
        listed = "".join(f"\n- {causes[each]}" for each in verdicts)
        return (
            f"\nWhat the chain refuses a key for, the likeliest first:{listed}"
            "\nOtherwise Pylon cannot reach the chain; its log says more."
        )

    @property
    def _subnet(self) -> str:
        return "Pylon's subnet" if self.netuid is None else f"subnet {self.netuid}"

    @property
    def _axon_remedy(self) -> str:
        netuid = "NETUID" if self.netuid is None else self.netuid
        return (
            f"serve one once, which needs no server: btcli axon set --netuid {netuid} --ip 0.0.0.0 "
            f"--port 1 (with -w and -H for the wallet); then wait for {_LIMIT}, and run this "
            "again. Or publish axon and key together from here: generate -local"
        )

    def _explain(self, verdict: Verdict) -> str:
        hotkey, place = self.order.hotkey, self._known.place
        match verdict:
            case Verdict.NO_PLACE:
                return (
                    f"{hotkey} has no place on {self._subnet}, and the chain takes no key from "
                    "it: register it there, or correct -ss58-address or NEXUS_PYLON_NETUID"
                )
            case Verdict.NO_AXON:
                return (
                    f"{hotkey} serves no axon on {self._subnet} (port 0), and the chain stores a "
                    f"key with an axon alone: {self._axon_remedy}"
                )
            case Verdict.TOO_SOON:
                blocks = place.blocks_to_wait if isinstance(place, Place) else None
                wait = (blocks or 0) * BLOCK
                return (
                    f"{hotkey} served its axon, or published a key, so lately that the chain "
                    f"takes no other for {blocks} blocks: run this again in {_minutes(wait)}, "
                    f"after {self.clock() + wait:%H:%M:%S} UTC"
                )
            case _:
                return self._explain_identity(verdict)

    def _explain_identity(self, verdict: Verdict) -> str:
        hotkey, holders = self.order.hotkey, self._known.holders()
        names = " or ".join(str(each) for each in holders if each != hotkey)
        if verdict is Verdict.SHARED_KEY:
            return (
                f"{hotkey} has the same key on chain as {names}: which of them the Pylon identity "
                "is cannot be seen, and a new pair replaces the key of that one alone. "
                "-force-recreate has it made all the same"
            )
        has_key = any(each.own is not None for each in self._known.comparisons)
        harm = "a new pair would replace its key" if has_key else "it has no key, unlike that"
        remedy = f"name {names} as -ss58-address, or " if names else ""
        return (
            f"-ss58-address is {hotkey}, but the Pylon identity is {names or 'another hotkey'} "
            f"({harm}): {remedy}use the endpoint, name and token of the identity of {hotkey}"
        )


def _minutes(span: timedelta) -> str:
    minutes = max(1, -(-int(span.total_seconds()) // 60))
    return "1 minute" if minutes == 1 else f"{minutes} minutes"
