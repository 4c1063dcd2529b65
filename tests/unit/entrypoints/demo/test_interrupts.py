from __future__ import annotations

import signal

import pytest

from nexus_auth.entrypoints.demo.interrupts import Interrupts


@pytest.mark.parametrize(
    ("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_ends_the_demo_as_shells_report_it(which: signal.Signals, code: int) -> None:
    """Whatever is on the way out runs, and the exit code tells which signal it was."""
    with Interrupts().caught(), pytest.raises(SystemExit) as caught:
        signal.raise_signal(which)
    assert caught.value.code == code


def test_signal_waits_while_held() -> None:
    """Between starting a child and noting it nothing interrupts."""
    interrupts = Interrupts()
    reached: list[str] = []

    def run() -> None:
        with interrupts.held():
            with interrupts.held():
                signal.raise_signal(signal.SIGTERM)
                reached.append("inner")
            reached.append("outer")
        reached.append("after")

    with interrupts.caught(), pytest.raises(SystemExit):
        run()
    assert reached == ["inner", "outer"]


def test_signal_changes_nothing_once_the_demo_is_ending() -> None:
    """A second Ctrl-C does not stop the cleaning up."""
    interrupts = Interrupts()
    with interrupts.caught():
        interrupts.close()
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_put_back() -> None:
    """The demo leaves the process as it found it."""
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts().caught():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
