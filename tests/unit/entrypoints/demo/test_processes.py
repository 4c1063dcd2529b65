from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_auth.entrypoints.demo import processes
from nexus_auth.entrypoints.demo.processes import LOOPBACK, Children, DemoFailed, ReservedPort
from nexus_auth.entrypoints.signals import Interrupts

_WAITS = (sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)")


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    """Children whose output goes to the test's own directory."""
    children = Children(directory=tmp_path, interrupts=Interrupts())
    yield children
    children.stop_all()


def test_child_is_awaited_and_ended(children: Children) -> None:
    """It runs until it is stopped, and then it is gone."""
    child = children.start("sleeper", _WAITS)
    children.wait_until(lambda: "ready" in child.tail, child=child)
    assert child.process.poll() is None
    children.stop(child)
    assert child.process.returncode == -signal.SIGTERM
    children.check()


def test_child_that_ends_early_is_reported_with_its_last_lines(children: Children) -> None:
    """The error shows what the program wrote, not a timeout."""
    script = "print('first'); print('the port is taken \\x1b[31m'); raise SystemExit(7)"
    child = children.start("talker", (sys.executable, "-c", script))
    with pytest.raises(DemoFailed, match=r"talker ended early \(exit code 7\)") as caught:
        children.wait_until(lambda: False, child=child)
    assert "the port is taken" in str(caught.value)


def test_child_that_is_never_ready_is_reported(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is waited for without end."""
    monkeypatch.setattr(processes, "_READY_SECONDS", 0.1)
    child = children.start("sleeper", _WAITS)
    with pytest.raises(DemoFailed, match="sleeper is not ready"):
        children.wait_until(lambda: False, child=child)


def test_program_that_fails_is_reported(children: Children) -> None:
    """Its exit code and its last lines tell why."""
    with pytest.raises(DemoFailed, match=r"(?s)job failed \(exit code 3\).*no luck"):
        children.run("job", (sys.executable, "-c", "print('no luck'); raise SystemExit(3)"))
    children.run("job", (sys.executable, "-c", ""))
    children.check()


def test_missing_program_is_reported(children: Children) -> None:
    """What cannot be started is named."""
    with pytest.raises(DemoFailed, match="ghost does not start"):
        children.start("ghost", ("/nonexistent/program",))


def test_child_that_does_not_listen_is_killed_with_its_own_children(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither deafness nor grandchildren keep the demo from ending."""
    monkeypatch.setattr(processes, "_STOP_SECONDS", 0.2)
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pid = os.fork()\n"
        "if pid: print(pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    child = children.start("deaf", (sys.executable, "-c", script))
    children.wait_until(lambda: child.log.read_text().strip().isdigit(), child=child)
    grandchild = int(child.log.read_text())
    children.stop_all()
    assert child.process.returncode == -signal.SIGKILL
    # No process waits for a grandchild, so its end may take the system a moment.
    deadline = time.monotonic() + 10
    while _runs(grandchild) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(grandchild)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


def test_children_do_not_inherit_settings_or_proxies(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own configuration does not reach the demo."""
    monkeypatch.setenv("NEXUS_PYLON_ENDPOINT", "http://production")
    monkeypatch.setenv("https_proxy", "http://corporate")
    script = "import os; print(sorted(n for n in os.environ if 'NEXUS' in n or 'proxy' in n))"
    child = children.start("env", (sys.executable, "-c", script), may_end=True)
    child.process.wait(10)
    assert child.log.read_text() == "[]\n"


def test_child_is_out_of_the_terminals_reach(children: Children) -> None:
    """Ctrl-C goes to the demo alone; it ends its children in its own order."""
    child = children.start("sleeper", _WAITS)
    assert os.getsid(child.process.pid) == child.process.pid


def test_reserved_port_can_be_listened_on_by_its_server() -> None:
    """A server takes it in the usual way, and is then noticed."""
    port = ReservedPort()
    assert not port.is_answered()
    with socket.create_server((LOOPBACK, port.address.port)):
        assert port.is_answered()
    port.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep it")
def test_reserved_port_is_given_to_no_other_program() -> None:
    """A program that binds this number without sharing does not get it."""
    port = ReservedPort()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((LOOPBACK, port.address.port))
    port.close()
