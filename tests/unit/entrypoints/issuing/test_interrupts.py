from __future__ import annotations

import asyncio
import os
import signal

import pytest

from nexus_auth.entrypoints.issuing.interrupts import HeldSignals


async def deliver(which: signal.Signals) -> None:
    """Sends a signal to this process and lets its handler run."""
    os.kill(os.getpid(), which)
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signal_is_noted_and_explained(which: signal.Signals) -> None:
    """The block goes on, and the exit code is that of the signal."""
    said: list[str] = []
    signals = HeldSignals(said.append)
    before = signal.getsignal(which)
    with signals.held():
        await deliver(which)
    assert (signals.received, signals.exit_code) == (which, 128 + which)
    assert "Not now" in said[0]
    assert signal.getsignal(which) is before


async def test_nothing_that_came_is_no_exit_code() -> None:
    """The usual case."""
    signals = HeldSignals(print)
    with signals.held():
        await asyncio.sleep(0)
    assert signals.exit_code is None


async def test_third_interrupt_is_obeyed() -> None:
    """After two explanations of what it costs."""
    said: list[str] = []
    signals = HeldSignals(said.append)

    async def wait_for_ever() -> None:
        with signals.held():
            await asyncio.sleep(30)

    waiting = asyncio.create_task(wait_for_ever())
    await asyncio.sleep(0)
    for _ in range(2):
        await deliver(signal.SIGINT)
    assert not waiting.done()
    assert "once more" in said[1]
    await deliver(signal.SIGINT)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_other_signals_are_never_obeyed() -> None:
    """Whoever sends them can send SIGKILL."""
    signals = HeldSignals(lambda _: None)
    with signals.held():
        for _ in range(5):
            await deliver(signal.SIGTERM)
