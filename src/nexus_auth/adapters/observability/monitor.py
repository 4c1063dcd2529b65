"""One worker's eye on itself, and on the other workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from nexus_auth.adapters.observability.report import CertificateSeen, Overview, Report

if TYPE_CHECKING:
    from nexus_auth.adapters.observability.board import Board
    from nexus_auth.adapters.observability.tally import Tally
    from nexus_auth.domain.certificate import ClientCertificate
    from nexus_auth.domain.health import RegistryHealth
    from nexus_auth.domain.ports import Clock

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
"""How often counts become dates, and reports are put on the board."""

ENDING_SOON: Final = timedelta(days=30)

CERTIFICATES_SHOWN: Final = 100
"""Of those that end soon, the soonest."""


class TellsState(Protocol):
    """A registry that says how good its knowledge is."""

    def health(self) -> RegistryHealth:
        """Says it, at once."""


class Remembers(Protocol):
    """A verifier that shows the certificates it remembers."""

    @property
    def remembered(self) -> int:
        """How many certificates are remembered now."""

    def remembered_certificates(self) -> Iterable[ClientCertificate]:
        """The certificates themselves."""


class Monitor:
    """Reports on this worker and adds up the reports of all. Lives between `start` and `aclose`."""

    def __init__(
        self,
        *,
        tally: Tally,
        registry: TellsState,
        verifier: Remembers,
        clock: Clock,
        board: Board | None = None,
        worker: int = 0,
    ) -> None:
        """Wires the monitor, and goes on from what a predecessor had counted.

        That comes first of all: whoever asked before it would be told of a counter that went
        back, and what the predecessor had counted would be overwritten.

        Args:
            tally: Counts this worker's decisions; it has counted nothing yet.
            registry: This worker's.
            verifier: This worker's.
            clock: Tells the time (aware, UTC).
            board: Where the workers see each other's reports; None where there is one alone.
            worker: This worker's number. Whoever replaces it has the same.
        """
        self._tally = tally
        self._registry = registry
        self._verifier = verifier
        self._clock = clock
        self._board = board
        self._worker = worker
        self._ticking: asyncio.Task[None] | None = None
        predecessor = self._read(worker)
        if predecessor is not None:
            tally.go_on_from(predecessor)

    async def start(self) -> None:
        """Begins to tick."""
        self._tick()
        self._ticking = asyncio.create_task(self._tick_on(), name="monitor")

    async def aclose(self) -> None:
        """Leaves a last report."""
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
            self._ticking = None
        self._tick()

    def overview(self) -> Overview:
        """All workers together, this one as it is now.

        What is told is kept for whoever replaces this worker: no counter that was seen goes back.
        """
        report = self.report()
        self._publish(report)
        others = (self._read(slot) for slot in self._other_slots())
        return Overview.of(report, [each for each in others if each is not None])

    def health(self) -> RegistryHealth:
        """The state of the worst worker's registry: a caller may come to any of them."""
        return self.overview().registry if self._board is not None else self._registry.health()

    def report(self) -> Report:
        """This worker as it is now."""
        self._tally.tick()
        return self._tally.report(
            worker=self._worker,
            registry=self._registry.health(),
            remembered=self._verifier.remembered,
            certificates=self._ending_soon(),
        )

    def _ending_soon(self) -> tuple[CertificateSeen, ...]:
        soon = self._clock() + ENDING_SOON
        ending = sorted(
            (each for each in self._verifier.remembered_certificates() if each.not_after < soon),
            key=lambda each: each.not_after,
        )
        return tuple(
            CertificateSeen(
                hotkey=each.hotkey.address,
                fingerprint=each.fingerprint,
                not_after=each.not_after.timestamp(),
            )
            for each in ending[:CERTIFICATES_SHOWN]
        )

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._tick()
            except Exception:
                # A defect; decisions do not depend on it.
                log.exception("monitor_failed")

    def _tick(self) -> None:
        if self._board is None:
            self._tally.tick()
        else:
            self._publish(self.report())

    def _publish(self, report: Report) -> None:
        if self._board is not None and not self._board.publish(self._worker, report.to_bytes()):
            log.warning("report_too_long", worker=self._worker)

    def _other_slots(self) -> Iterable[int]:
        slots = 0 if self._board is None else self._board.slots
        return (slot for slot in range(slots) if slot != self._worker)

    def _read(self, slot: int) -> Report | None:
        data = None if self._board is None else self._board.read(slot)
        return None if data is None else Report.from_bytes(data)
