"""One log line a decision; grants that repeat are counted and told of in one line a minute."""

from __future__ import annotations

import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import structlog

from nexus_auth.adapters.headers.names import POLICY_FIELD, REQUEST_ID_FIELD
from nexus_auth.domain.decision import Decision, Denied, Granted

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey

log = structlog.get_logger(__name__)

GrantLogging = Literal["all", "sampled", "none"]

SUMMARY_SECONDS: Final = 60.0
"""How often a certificate that is granted again and again gets another line."""

_CERTIFICATES_COUNTED: Final = 4096
"""As many as a verifier remembers; beyond that the oldest is told of and forgotten."""

_MAX_URI: Final = 512
_MAX_METHOD: Final = 32
_MAX_POLICY: Final = 64

# What the proxies say of the client's own request; the first one that is there counts.
_URI_HEADERS: Final = (b"x-original-uri", b"x-forwarded-uri")
_METHOD_HEADERS: Final = (b"x-original-method", b"x-forwarded-method")

_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
"""What an identifier looks like: UUIDs, hexadecimal, base64, `1-5759e988-bd862e3fe1be46a994272793`.
Anything else is not worth repeating."""


@dataclass(slots=True)
class _Count:
    hotkey: Hotkey
    since: float
    times: int = 0


def _text(value: bytes, limit: int) -> str:
    """Bytes from outside as ASCII text of bounded length; the log's renderer escapes the rest."""
    text = value[:limit].decode("ascii", "backslashreplace")
    return text if len(value) <= limit else f"{text}… ({len(value)} bytes)"


class DecisionLog:
    """Writes every denial, and grants as often as is wanted.

    `sampled` writes a certificate's first grant, and from then on one line a minute that says how
    often it was granted: nothing is lost, and a busy caller does not fill the disk.
    """

    def __init__(
        self,
        *,
        grants: GrantLogging = "sampled",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts counting.

        Args:
            grants: Which grants are written; denials always are.
            monotonic: Seconds that only ever grow.
        """
        self._grants = grants
        self._monotonic = monotonic
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def decided(
        self,
        decision: Decision,
        *,
        seconds: float,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        """See `DecisionObserver`."""
        match decision:
            case Granted():
                if self._grants == "none" or (
                    self._grants == "sampled" and self._is_repeated(decision)
                ):
                    return
                log.info(
                    "decision",
                    outcome="granted",
                    code="granted",
                    hotkey=decision.hotkey.address,
                    certificate=decision.fingerprint,
                    **client_request(method, target, headers),
                    duration_ms=round(seconds * 1000, 3),
                )
            case Denied():
                log.info(
                    "decision",
                    outcome="denied",
                    code=decision.reason.value,
                    detail=decision.detail,
                    hotkey=None if decision.hotkey is None else decision.hotkey.address,
                    certificate=decision.fingerprint,
                    **client_request(method, target, headers),
                    duration_ms=round(seconds * 1000, 3),
                )

    def _is_repeated(self, granted: Granted) -> bool:
        """Counts a grant; says whether the certificate has had its line already."""
        count = self._counts.get(granted.fingerprint)
        if count is not None:
            count.times += 1
            return True
        self._counts[granted.fingerprint] = _Count(granted.hotkey, self._monotonic())
        if len(self._counts) > _CERTIFICATES_COUNTED:
            self._tell(*self._counts.popitem(last=False))
        return False

    def summarise(self) -> None:
        """Writes the counts since the last time. To be called every `SUMMARY_SECONDS`, and last.

        A certificate that was not seen in between is forgotten: its next grant has a full line.
        """
        for fingerprint, count in list(self._counts.items()):
            if count.times:
                self._tell(fingerprint, count)
                count.times, count.since = 0, self._monotonic()
            else:
                del self._counts[fingerprint]

    def _tell(self, fingerprint: str, count: _Count) -> None:
        if count.times:
            log.info(
                "grants_repeated",
                hotkey=count.hotkey.address,
                certificate=fingerprint,
                times=count.times,
                seconds=round(self._monotonic() - count.since, 1),
            )


def client_request(
    method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> dict[str, str]:
    """The client's own request, as the proxy tells of it; this very request where it does not.

    Returns:
        `request_id`, which is made up where the proxy gives none; `method` and `uri`, and
        `policy` where the proxy chose one, ASCII and of bounded length. All of it comes from
        outside.
    """
    found = {name.lower(): value for name, value in reversed(headers)}
    uri = next((found[name] for name in _URI_HEADERS if name in found), target)
    verb = next((found[name] for name in _METHOD_HEADERS if name in found), method)
    told = {
        "request_id": _request_id(found.get(REQUEST_ID_FIELD, b"")),
        "method": _text(verb, _MAX_METHOD),
        "uri": _text(uri, _MAX_URI),
    }
    policy = found.get(POLICY_FIELD)
    return told if policy is None else {**told, "policy": _text(policy, _MAX_POLICY)}


def _request_id(given: bytes) -> str:
    if _ID.fullmatch(given) is None:
        return uuid.uuid4().hex
    return given.decode("ascii")
