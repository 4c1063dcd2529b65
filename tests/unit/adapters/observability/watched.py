"""What tests of counters and reports share: the state of registry and policies, and decisions."""

from __future__ import annotations

from datetime import timedelta

from nexus_auth.adapters.observability.counters import Counters
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.health import Freshness, PolicyHealth, RegistryHealth
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.snapshot import Block
from tests.builders import NOW, a_hotkey

BLOCK = Block(number=1_234_567, hash="0x" + "ab" * 32, time=NOW)


def a_state(
    freshness: Freshness = Freshness.FRESH,
    *,
    age: float | None = 12.0,
    error: str | None = None,
    block: Block | None = None,
) -> RegistryHealth:
    """The state of some registry: of the chain where there is a block, 42 s old."""
    return RegistryHealth(
        freshness=freshness,
        mode="snapshot",
        size=3,
        age=None if age is None else timedelta(seconds=age),
        failing_since=None if error is None else NOW,
        last_error=error,
        source="pylon" if block is None else "chain",
        block=block,
        block_age=None if block is None else timedelta(seconds=42),
    )


def policies(problem: str | None = None) -> PolicyHealth:
    """The state of some policies."""
    return PolicyHealth(source="/p.toml", names=("a",), loaded_at=NOW, problem=problem)


def grant(counters: Counters, name: str = "alice", *, times: int = 1) -> None:
    """Counts grants of one caller."""
    decision = Granted(hotkey=a_hotkey(name), fingerprint="ab" * 32, expires_at=NOW)
    for _ in range(times):
        counters.decided(decision, seconds=0.000_02, method=b"GET", target=b"/auth", headers=())


def deny(
    counters: Counters,
    reason: DenialReason = DenialReason.NOT_REGISTERED,
    *,
    uri: bytes = b"/",
    method: bytes = b"GET",
    detail: str = "",
) -> None:
    """Counts one denial."""
    counters.decided(
        Denied(reason=reason, detail=detail, hotkey=a_hotkey("mallory")),
        seconds=0.001,
        method=b"GET",
        target=b"/auth",
        headers=[(b"X-Original-URI", uri), (b"X-Original-Method", method)],
    )
