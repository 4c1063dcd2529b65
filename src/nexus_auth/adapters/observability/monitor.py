"""Reports on one worker, and adds up the reports of all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from datetime import timedelta
from heapq import nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import structlog

from nexus_auth.adapters.observability.report import CertificateSeen, Overview, Report

if TYPE_CHECKING:
    from nexus_auth.adapters.observability.counters import Counters
    from nexus_auth.adapters.observability.shared_memory import SharedReports
    from nexus_auth.domain.certificate import ClientCertificate
    from nexus_auth.domain.health import RegistryHealth
    from nexus_auth.domain.ports import Clock

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
"""How often minutes and callers are brought up to date, and the report is published."""

ENDING_SOON: Final = timedelta(days=30)

CERTIFICATES_SHOWN: Final = 100
"""Of those that end soon, the soonest."""


class Monitor:
    """Reports on this worker and adds up the reports of all. Runs from `start` to `aclose`."""

    def __init__(
        self,
        *,
        counters: Counters,
        registry_health: Callable[[], RegistryHealth],
        remembered: Callable[[], Iterable[ClientCertificate]],
        clock: Clock,
        shared_reports: SharedReports | None = None,
        worker: int = 0,
    ) -> None:
        """Wires the monitor, and continues the counts of a predecessor.

        That comes first of all: a reader before it would see a counter that went back, and the
        predecessor's counts would be overwritten. A worker that replaces another has its number;
        a single worker has no shared reports.
        """
        self._counters = counters
        self._registry_health = registry_health
        self._remembered = remembered
        self._clock = clock
        self._shared_reports = shared_reports
        self._worker = worker
        self._ticking: asyncio.Task[None] | None = None
        for predecessor in self._published([worker]):
            counters.continue_from(predecessor)

    async def start(self) -> None:
        """Begins to tick."""
        self._tick()
        self._ticking = asyncio.create_task(self._keep_ticking(), name="monitor")

    async def aclose(self) -> None:
        """Publishes a last report."""
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
            self._ticking = None
        self._tick()

    def overview(self) -> Overview:
        """All workers together, this one as it is now.

        This worker's report is published as well, so that the worker that replaces this one
        continues from it: no counter that was shown ever goes back.
        """
        report = self.report()
        self._publish(report)
        slots = 0 if self._shared_reports is None else self._shared_reports.slots
        others = [slot for slot in range(slots) if slot != self._worker]
        return Overview.of(report, self._published(others))

    def health(self) -> RegistryHealth:
        """The state of the worst worker's registry: a caller may reach any of them."""
        return self._registry_health() if self._shared_reports is None else self.overview().registry

    def report(self) -> Report:
        """This worker as it is now."""
        self._counters.tick()
        remembered = list(self._remembered())
        return self._counters.report(
            registry=self._registry_health(),
            remembered=len(remembered),
            certificates=self._ending_soon(remembered),
        )

    def _ending_soon(self, remembered: Iterable[ClientCertificate]) -> tuple[CertificateSeen, ...]:
        soon = self._clock() + ENDING_SOON
        ending = (each for each in remembered if each.not_after < soon)
        return tuple(
            CertificateSeen(each.hotkey.address, each.fingerprint, each.not_after.timestamp())
            for each in nsmallest(CERTIFICATES_SHOWN, ending, key=attrgetter("not_after"))
        )

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._tick()
            except Exception:
                # A defect; decisions do not depend on it.
                log.exception("monitor_failed")

    def _tick(self) -> None:
        if self._shared_reports is None:
            self._counters.tick()
        else:
            self._publish(self.report())

    def _publish(self, report: Report) -> None:
        shared = self._shared_reports
        if shared is not None and not shared.publish(self._worker, report.to_bytes()):
            log.warning("report_too_long", worker=self._worker)

    def _published(self, slots: Iterable[int]) -> list[Report]:
        """The reports in some slots; a worker that has not started yet has none."""
        if self._shared_reports is None:
            return []
        found = map(self._shared_reports.read, slots)
        return [Report.from_bytes(data) for data in found if data is not None]
