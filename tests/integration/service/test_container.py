"""What the container image relies on, without an engine to build it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.pylon.running import running_pylon
from tests.integration.real import free_port, wait_until_ready
from tests.integration.service.running import (
    RunningService,
    a_header,
    register,
    running_service,
    service_environment,
)
from tests.pages import ROOT


def _write_nothing() -> None:
    """Has every byte that goes into a file fail, also for root."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_service_writes_nothing_to_disk(tmp_path: Path) -> None:
    """A read-only root file system, no home and no place for temporary files will do."""
    tmp_path.chmod(0o555)
    auth, admin = free_port(), free_port()
    home = tmp_path / "nowhere"
    with running_pylon() as pylon:
        register(pylon, "alice")
        environment = service_environment(
            pylon.url,
            HOME=str(home),
            TMPDIR=str(home),
            PYTHONDONTWRITEBYTECODE="1",
            NEXUS_AUTH_LISTEN_ADDR=f"127.0.0.1:{auth}",
            NEXUS_AUTH_ADMIN_ADDR=f"127.0.0.1:{admin}",
        )
        with subprocess.Popen(
            [sys.executable, "-m", "nexus_auth", "run"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=tmp_path,
            preexec_fn=_write_nothing,  # noqa: PLW1509 - it only sets a limit
        ) as process:
            try:
                service = RunningService(process, auth, admin)  # type: ignore[arg-type] # for its client alone
                wait_until_ready(service.is_ready, what="the service")
                assert service.ask(a_header("alice")).status == 200
                assert service.ask(None).status == 403
            finally:
                process.send_signal(signal.SIGTERM)
                said, _ = process.communicate(timeout=15)
    assert process.returncode == 0
    assert {json.loads(line)["level"] for line in said.splitlines()} == {"info"}
    assert list(tmp_path.iterdir()) == []


def test_health_check_of_the_image_asks_a_real_service(tmp_path: Path) -> None:
    """Its command succeeds as long as the service is alive, ready or not, and then fails."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    _, _, check = text.partition("HEALTHCHECK")
    command = json.loads(check.partition("CMD")[2].partition("\n")[0])
    with running_service(tmp_path, "http://127.0.0.1:9", wait=False) as service:
        code = command[2].replace("8081", str(service.admin_port))

        def is_healthy() -> bool:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={"PATH": os.environ["PATH"]},
                stderr=subprocess.DEVNULL,
                timeout=10,
                check=False,
            )
            return done.returncode == 0

        assert is_healthy()
        service.process.stop()
        assert not is_healthy()
