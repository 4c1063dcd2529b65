"""One log line a decision; repeated grants are counted, and logged in one line a minute."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import structlog

from nexus_auth.adapters.observability.facts import RequestView
from nexus_auth.domain.decision import Decision, Granted

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.ports import Headers, MonotonicClock

log = structlog.get_logger(__name__)

GrantLogging = Literal["all", "sampled", "none"]

SUMMARY_SECONDS: Final = 60.0
"""How often a certificate that is granted again and again gets another line."""

_CERTIFICATES_COUNTED: Final = 4096
"""As many as a verifier remembers; beyond that the oldest count is logged and dropped."""


@dataclass(slots=True)
class _Count:
    hotkey: Hotkey
    since: float
    times: int = 0


class DecisionLog:
    """A `DecisionObserver` that logs every denial, and grants as often as configured.

    `sampled` logs a certificate's first grant, and from then on one line a minute with the number
    of its grants: nothing is lost, and a busy caller does not fill the disk.
    """

    def __init__(
        self,
        *,
        grants: GrantLogging = "sampled",
        view: RequestView = RequestView(),  # noqa: B008 - immutable
        monotonic: MonotonicClock = time.monotonic,
    ) -> None:
        """Starts with no counts.

        Args:
            grants: Which grants are logged; denials always are.
            view: What is logged of requests.
            monotonic: A clock that is never set, in seconds.
        """
        self._grants = grants
        self._view = view
        self._monotonic = monotonic
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def decided(
        self, decision: Decision, *, seconds: float, method: bytes, target: bytes, headers: Headers
    ) -> None:
        """See `DecisionObserver`."""
        if isinstance(decision, Granted) and (
            self._grants == "none" or (self._grants == "sampled" and self._is_repeated(decision))
        ):
            return
        log.info(
            "decision",
            **self._view.facts(decision, method, target, headers),
            duration_ms=round(seconds * 1000, 3),
        )

    def _is_repeated(self, granted: Granted) -> bool:
        """Counts a grant; says whether an earlier one of the certificate was logged."""
        count = self._counts.get(granted.fingerprint)
        if count is not None:
            count.times += 1
            return True
        self._counts[granted.fingerprint] = _Count(granted.hotkey, self._monotonic())
        if len(self._counts) > _CERTIFICATES_COUNTED:
            self._log_count(*self._counts.popitem(last=False))
        return False

    def summarise(self) -> None:
        """Logs the counts since the last call. To be called every `SUMMARY_SECONDS`, and last.

        A certificate without a grant in between is dropped: its next grant has a full line.
        """
        for fingerprint, count in list(self._counts.items()):
            if count.times:
                self._log_count(fingerprint, count)
                count.times, count.since = 0, self._monotonic()
            else:
                del self._counts[fingerprint]

    def _log_count(self, fingerprint: str, count: _Count) -> None:
        if count.times:
            log.info(
                "grants_repeated",
                hotkey=count.hotkey.address,
                certificate=fingerprint,
                times=count.times,
                seconds=round(self._monotonic() - count.since, 1),
            )
