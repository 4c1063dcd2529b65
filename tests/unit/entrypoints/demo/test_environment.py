from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from nexus_auth.entrypoints.demo.environment import Environment
from nexus_auth.entrypoints.demo.processes import DemoFailed
from nexus_auth.entrypoints.demo.proxy import Proxy
from nexus_auth.entrypoints.signals import Interrupts

_PROXY = Proxy(name="nginx", title="nginx", program="/nonexistent/nginx", options=())


def test_directory_that_no_configuration_can_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space in TMPDIR ends in one clear line, before anything is started."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a b"))
    (tmp_path / "a b").mkdir()
    with ExitStack() as ending, pytest.raises(DemoFailed, match="TMPDIR"):
        Environment(proxy=_PROXY, interrupts=Interrupts(), ending=ending)
    assert not any((tmp_path / "a b").iterdir())


def test_environment_that_never_started_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was prepared is given back, and no signal interrupts that."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ExitStack() as ending:
        running = Environment(proxy=_PROXY, interrupts=Interrupts(), ending=ending)
        assert running.directory.is_dir()
    assert not any(tmp_path.iterdir())
