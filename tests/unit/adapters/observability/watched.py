"""What monitoring tests share: a registry and a verifier of which only a few words matter."""

from __future__ import annotations

from datetime import timedelta

from nexus_auth.adapters.observability.tally import Tally
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.reasons import DenialReason
from tests.builders import NOW, a_hotkey


def a_state(
    freshness: Freshness = Freshness.FRESH, *, age: float | None = 12.0, error: str | None = None
) -> RegistryHealth:
    """The state of some registry."""
    return RegistryHealth(
        freshness=freshness,
        mode="snapshot",
        size=3,
        age=None if age is None else timedelta(seconds=age),
        failing_since=None if error is None else NOW,
        last_error=error,
    )


class Registry:
    """A registry of which only its state matters."""

    def __init__(self, state: RegistryHealth) -> None:
        self._state = state

    def health(self) -> RegistryHealth:
        return self._state


class Verifier:
    """A verifier of which only its memory matters."""

    def __init__(self, *certificates: ClientCertificate) -> None:
        self._certificates = certificates

    @property
    def remembered(self) -> int:
        return len(self._certificates)

    def remembered_certificates(self) -> tuple[ClientCertificate, ...]:
        return self._certificates


def grant(tally: Tally, name: str = "alice", *, times: int = 1) -> None:
    """Has somebody granted entry."""
    decision = Granted(hotkey=a_hotkey(name), fingerprint="ab" * 32, expires_at=NOW)
    for _ in range(times):
        tally.decided(decision, seconds=0.000_02, method=b"GET", target=b"/auth", headers=())


def deny(
    tally: Tally,
    reason: DenialReason = DenialReason.NOT_REGISTERED,
    *,
    uri: bytes = b"/",
    method: bytes = b"GET",
    detail: str = "",
) -> None:
    """Has somebody denied."""
    tally.decided(
        Denied(reason=reason, detail=detail, hotkey=a_hotkey("mallory")),
        seconds=0.001,
        method=b"GET",
        target=b"/auth",
        headers=[(b"X-Original-URI", uri), (b"X-Original-Method", method)],
    )
