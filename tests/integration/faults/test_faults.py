"""The fault matrix: every fault of a source in every state of each registry.

The tables in docs/reliability.md are this test's outcome. UPDATE_DOCS=1 writes them anew.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, get_args

import pytest
import structlog.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.chain.source import ChainSource
from nexus_auth.adapters.clock import Clocks
from nexus_auth.adapters.pylon.api import OpenAccessApi
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.adapters.registry.fetch import Timing
from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.ports import KeySource
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.verifier import CertificateVerifier
from tests.builders import a_certificate, a_hotkey, a_key, to_der
from tests.integration.chain.node import NETUID as CHAIN_NETUID
from tests.integration.faults.chain_faults import CHAIN_FAULTS, ChainFault, LivingNode
from tests.integration.faults.faults import FAULTS, Fault, end
from tests.integration.faults.faulty_pylon import NETUID, FaultyPylon
from tests.unit.adapters.registry.sources import MAX_AGE, REFRESH_EVERY, keys_of

PAGE: Final = Path(__file__).parents[3] / "docs" / "reliability.md"
BEGIN: Final = "<!-- The fault matrix of {}: written by tests/integration/faults. -->\n"
END: Final = "<!-- End of the fault matrix of {}. -->\n"

Kind = Literal["snapshot", "lookup", "chain"]
"""The registry, as in NEXUS_AUTH_REGISTRY, over Pylon; or a snapshot over a node of the chain."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

FAULTS_OF: Final[dict[Kind, tuple[Fault | ChainFault, ...]]] = {
    "snapshot": FAULTS,
    "lookup": FAULTS,
    "chain": CHAIN_FAULTS,
}
PAIRS: Final = [(kind, fault) for kind in KINDS for fault in FAULTS_OF[kind]]

STATES: Final = ("never fetched", "fresh", "stale", "too old")
EVERYBODY: Final = ("alice", "dave", *(f"miner {n}" for n in range(10)))
PATIENCE: Final = timedelta(seconds=0.3)
ANSWER_SECONDS: Final = 0.5


REGISTRIES: Final = {
    "snapshot": SnapshotRegistry,
    "lookup": LookupRegistry,
    "chain": SnapshotRegistry,
}


class MovedClocks:
    """The real clocks, which can be moved on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def wall(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


def certificate_of(
    name: str,
    *,
    key: Ed25519PrivateKey | None = None,
    signed_by: Ed25519PrivateKey | None = None,
) -> bytes:
    """A certificate that is valid now; with the key that goes with the name, unless told so."""
    now = datetime.now(UTC)
    return to_der(
        a_certificate(
            hotkey=a_hotkey(name),
            key=key or a_key(name),
            signed_by=signed_by,
            not_before=now - timedelta(days=1),
            not_after=now + timedelta(days=1),
        )
    )


CERTIFICATES: Final = {name: certificate_of(name) for name in ("alice", "dave", "eve", "miner 9")}
KNOWN: Final = ("alice", "dave", "miner 9")
IMPOSTORS: Final = (
    certificate_of("alice", key=a_key("eve")),
    certificate_of("miner 9", key=a_key("eve")),
    certificate_of("alice", signed_by=a_key("eve")),
)


class Scene:
    """A Pylon or a node, and a service's decisions over it."""

    def __init__(
        self,
        origin: FaultyPylon | LivingNode,
        registry: SnapshotRegistry | LookupRegistry,
        clocks: MovedClocks,
    ) -> None:
        self.origin = origin
        self.registry = registry
        self.clocks = clocks
        self.verifier = CertificateVerifier(registry=registry, clock=clocks.wall)

    async def outcome(self, name: str, *, at_once: bool = False) -> str:
        """What a caller is told; at once means without waiting for anything."""
        deciding = self.verifier.verify(CERTIFICATES[name])
        if at_once:
            try:
                deciding.send(None)
            except StopIteration as done:
                decision: Decision = done.value
            else:
                pytest.fail(f"{name} had to wait")
        else:
            decision = await deciding
        match decision:
            case Granted():
                assert decision.hotkey == a_hotkey(name)
                return "granted"
            case Denied():
                return decision.reason.value

    async def enter(self, state: str, fault: Fault | ChainFault) -> None:
        """Brings the registry into a state in which the fault is met."""
        if state != "never fetched":
            async with asyncio.timeout(30):  # a busy machine may take more than one try
                await self.renew()
                while {await self.outcome(name) for name in KNOWN} != {"granted"}:
                    self.clocks.ahead += 10  # past any pause after a failure
                    await self.renew()
        if isinstance(fault, Fault):
            assert isinstance(self.origin, FaultyPylon)
            await fault.begin(self.origin)
        else:
            assert isinstance(self.origin, LivingNode)
            await fault.begin(self.origin)
        if state == "fresh":
            # An early refresh may meet the fault.
            self.clocks.ahead += 2
        elif state == "stale":
            self.clocks.ahead += 300
            await self.renew()
        elif state == "too old":
            self.clocks.ahead += MAX_AGE.total_seconds()
            await self.renew()

    async def renew(self) -> None:
        """Has what is known of the callers asked for again."""
        if isinstance(self.registry, SnapshotRegistry):
            await self.registry.refresh()
            return
        await asyncio.gather(*(self.verifier.verify(CERTIFICATES[name]) for name in KNOWN))
        # Who did not wait for the answer any longer is not all there is.
        await asyncio.sleep(ANSWER_SECONDS - PATIENCE.total_seconds() + 0.05)


@asynccontextmanager
async def scene(kind: Kind) -> AsyncIterator[Scene]:
    """A scene in which nothing has happened yet."""
    clocks = MovedClocks()
    async with source_of(kind, clocks) as (origin, source):
        registry = REGISTRIES[kind](
            source=source,
            timing=Timing(
                max_age=MAX_AGE,
                refresh_every=REFRESH_EVERY,
                patience=PATIENCE,
                clocks=Clocks(clocks.wall, clocks.monotonic),
            ),
        )
        yield Scene(origin, registry, clocks)
        await registry.aclose()


@asynccontextmanager
async def source_of(
    kind: Kind, clocks: MovedClocks
) -> AsyncIterator[tuple[FaultyPylon | LivingNode, KeySource]]:
    """A Pylon or a node, and what fetches from it."""
    read_seconds = ANSWER_SECONDS - 0.1
    if kind == "chain":
        node = LivingNode(*EVERYBODY, clock=clocks.wall)
        node.start()
        try:
            async with ChainSource(
                endpoints=[node.url],
                netuid=CHAIN_NETUID,
                clock=clocks.wall,
                genesis=node.chain.genesis,
                read_timeout_seconds=read_seconds,
            ) as chain:
                yield node, chain
        finally:
            node.stop()
        return
    async with (
        FaultyPylon(keys_of(*EVERYBODY)) as pylon,
        PylonClient(
            endpoint=pylon.endpoint,
            api=OpenAccessApi(netuid=NETUID),
            read_timeout_seconds=read_seconds,
        ) as client,
    ):
        yield pylon, client


async def play(kind: Kind, state: str, fault: Fault | ChainFault) -> str:
    """Plays one fault in one state, and says what came of it."""
    async with scene(kind) as stage:
        with structlog.testing.capture_logs() as lines:
            await stage.enter(state, fault)
            is_known = state in {"fresh", "stale"}
            known = await stage.outcome("alice", at_once=is_known and kind != "lookup")
            owner = await stage.outcome("dave")
            stranger = await stage.outcome("eve")
            # The second time, a Pylon that is silent is known to be.
            if await stage.outcome("eve") == DenialReason.REGISTRY_UNAVAILABLE:
                await stage.outcome("eve", at_once=True)
            for impostor in IMPOSTORS:
                match await stage.verifier.verify(impostor):
                    case Granted() as wrong:
                        pytest.fail(f"{fault.name}, {state}: {wrong}")
                    case Denied():
                        pass
            if is_known and not (fault.changes_keys and kind == "lookup"):
                assert known == "granted"
            assert stranger in {DenialReason.NOT_REGISTERED, DenialReason.REGISTRY_UNAVAILABLE}
            if isinstance(stage.origin, LivingNode):
                stage.origin.behave()
            else:
                await end(stage.origin)
            await expect_recovery(stage)
        assert len(lines) <= 6, lines
    people = [known, stranger]
    if owner != known:
        people.append(f"owner {owner}")
    return ", ".join(people)


async def expect_recovery(stage: Scene) -> None:
    """When Pylon is back, so is the service."""
    expected = dict.fromkeys(KNOWN, "granted")
    expected["eve"] = DenialReason.NOT_REGISTERED
    stage.clocks.ahead += 10
    async with asyncio.timeout(30):  # ends the test if it never recovers
        while {name: await stage.outcome(name) for name in expected} != expected:
            stage.clocks.ahead += 2
            await asyncio.sleep(0.02)


def committed_rows(kind: Kind) -> dict[str, str]:
    """The rows of a table as they stand in the page, by fault."""
    page = PAGE.read_text(encoding="utf-8")
    table = page.partition(BEGIN.format(kind))[2].partition(END.format(kind))[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return {line.split(" | ", 1)[0].removeprefix("| "): line for line in lines}


def write_row(kind: Kind, name: str, row: str) -> None:
    """Puts one row into the page."""
    begin, end = BEGIN.format(kind), END.format(kind)
    rows = committed_rows(kind) | {name: row}
    ordered = [rows[fault.name] for fault in FAULTS_OF[kind] if fault.name in rows]
    header = f"| fault | {' | '.join(STATES)} |\n|{'---|' * (1 + len(STATES))}\n"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    table = header + "".join(f"{line}\n" for line in ordered)
    PAGE.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "fault"), PAIRS, ids=[f"{fault.name}-{kind}" for kind, fault in PAIRS]
)
async def test_fault_in_every_state_is_as_the_table_says(
    kind: Kind, fault: Fault | ChainFault
) -> None:
    """No wrong grant, no waiting for the known, a prompt answer for strangers, and recovery."""
    outcomes = [await play(kind, state, fault) for state in STATES]
    row = f"| {fault.name} | {' | '.join(outcomes)} |"
    if os.environ.get("UPDATE_DOCS") == "1":
        write_row(kind, fault.name, row)
    assert committed_rows(kind).get(fault.name) == row, "UPDATE_DOCS=1 writes the table anew"


@pytest.mark.parametrize("kind", KINDS)
def test_table_lists_every_fault(kind: Kind) -> None:
    """Nothing is left out, and nothing remains of faults that are tested no more."""
    assert list(committed_rows(kind)) == [fault.name for fault in FAULTS_OF[kind]]
