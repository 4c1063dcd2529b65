from __future__ import annotations

import asyncio
import os
import signal

import pytest

from nexus_auth.entrypoints.signals import STOPPING, HeldSignals, Interrupts, handled_by

EXPLANATIONS = ("Not now.", "Still not; press it once more.")


async def deliver(which: signal.Signals) -> None:
    """Sends a signal to this process and lets its handler run."""
    os.kill(os.getpid(), which)
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signal_is_noted_and_explained(which: signal.Signals) -> None:
    """The block goes on, and the exit code is that of the signal."""
    said: list[str] = []
    signals = HeldSignals(said.append, EXPLANATIONS)
    before = signal.getsignal(which)
    with signals.held():
        await deliver(which)
    assert signals.exit_code == 128 + which
    assert said == ["Not now."]
    assert signal.getsignal(which) is before


async def test_nothing_that_came_is_no_exit_code() -> None:
    """The usual case."""
    signals = HeldSignals(print, EXPLANATIONS)
    with signals.held():
        await asyncio.sleep(0)
    assert signals.exit_code is None


async def test_third_interrupt_is_obeyed() -> None:
    """After two explanations of what it costs."""
    said: list[str] = []
    signals = HeldSignals(said.append, EXPLANATIONS)

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
    """Their sender can send SIGKILL."""
    signals = HeldSignals(lambda _: None, EXPLANATIONS)
    with signals.held():
        for _ in range(5):
            await deliver(signal.SIGTERM)


@pytest.mark.parametrize(
    ("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_becomes_the_exit_that_shells_report(which: signal.Signals, code: int) -> None:
    """Clean-up runs on the way out, and the exit code tells which signal it was."""
    with Interrupts().caught(), pytest.raises(SystemExit) as caught:
        signal.raise_signal(which)
    assert caught.value.code == code


def test_signal_waits_until_no_block_holds_it() -> None:
    """Between starting a child and noting it, nothing interrupts."""
    interrupts = Interrupts()
    reached: list[str] = []

    def work() -> None:
        with interrupts.held():
            with interrupts.held():
                signal.raise_signal(signal.SIGTERM)
                reached.append("inner")
            reached.append("outer")
        reached.append("after")

    with interrupts.caught(), pytest.raises(SystemExit):
        work()
    assert reached == ["inner", "outer"]


def test_signal_changes_nothing_once_the_process_is_ending() -> None:
    """A second Ctrl-C does not stop the clean-up."""
    interrupts = Interrupts()
    with interrupts.caught():
        interrupts.close()
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_put_back() -> None:
    """The block leaves the process as it found it."""
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts().caught():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_only_the_named_signals_are_handled() -> None:
    """SIGHUP stays what it was for a service, which reloads on it."""
    seen: list[int] = []
    before = signal.getsignal(signal.SIGHUP)
    with handled_by(lambda number, _: seen.append(number), STOPPING):
        assert signal.getsignal(signal.SIGHUP) is before
        for which in STOPPING:
            signal.raise_signal(which)
    assert seen == list(STOPPING)
