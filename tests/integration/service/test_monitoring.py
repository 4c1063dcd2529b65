"""Metrics and the status page, right across workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.builders import a_hotkey
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import wait_until_ready
from tests.integration.service.running import (
    TIMEOUT_SECONDS,
    Answered,
    RunningService,
    a_header,
    register,
    request,
    running_service,
    service_environment,
)

TOKEN = "an-admin-token-of-32-characters!"


@pytest.fixture(scope="module")
def pylon() -> Iterator[RunningPylon]:
    """A development Pylon that knows alice."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        yield pylon


def admin(service: RunningService, path: str, **headers: str) -> Answered:
    """One request to the admin listener."""
    connection = socket.create_connection(("127.0.0.1", service.admin_port), TIMEOUT_SECONDS)
    return request(connection, path, {"Host": f"127.0.0.1:{service.admin_port}", **headers})


def scrape(service: RunningService) -> dict[str, float]:
    """All samples, by name and label values."""
    answered = admin(service, "/metrics")
    assert answered.status == 200
    return {
        " ".join(
            [sample.name, *(value for _, value in sorted(sample.labels.items()))]
        ): sample.value
        for family in text_string_to_metric_families(answered.body.decode())
        for sample in family.samples
    }


def granted(service: RunningService) -> float:
    """How many grants Prometheus would see."""
    return scrape(service)["nexus_auth_decisions_total granted granted"]


def worker_pids(service: RunningService) -> set[int]:
    """The processes that serve the auth listener."""
    return {line["pid"] for line in service.lines("listening")}


def test_single_worker_tells_of_everything(pylon: RunningPylon, tmp_path: Path) -> None:
    """Decisions, the registry and Pylon, right after they happened."""
    with running_service(tmp_path, pylon.url) as service:
        for _ in range(3):
            assert service.ask(a_header("alice")).status == 200
        assert service.ask(None, **{"X-Original-URI": "/<script>"}).status == 403
        samples = scrape(service)
        page = admin(service, "/")
    assert samples["nexus_auth_decisions_total granted granted"] == 3
    assert samples["nexus_auth_decisions_total no-certificate denied"] == 1
    assert samples["nexus_auth_decision_seconds_count granted"] == 3
    assert samples["nexus_auth_registry_state fresh"] == 1
    assert samples["nexus_auth_registry_hotkeys"] == 1
    assert samples["nexus_auth_registry_questions_total none answered"] >= 1
    assert samples["nexus_auth_pylon_request_seconds_count 200"] >= 1
    assert samples["nexus_auth_remembered_certificates"] >= 1
    assert samples["nexus_auth_workers"] == 1
    text = page.body.decode()
    assert page.status == 200
    assert a_hotkey("alice").address in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "Certificates that end within 30 days" in text


def test_workers_are_added_up_and_no_counter_goes_back(pylon: RunningPylon, tmp_path: Path) -> None:
    """Whichever worker answers a caller, and even if it is killed afterwards."""
    with running_service(tmp_path, pylon.url, NEXUS_AUTH_WORKERS="2") as service:
        wait_until_ready(lambda: scrape(service)["nexus_auth_workers"] == 2, what="both workers")
        certificate = a_header("alice")
        for _ in range(40):
            assert service.ask(certificate).status == 200
        wait_until_ready(lambda: granted(service) == 40, what="all grants in the metrics")
        first_pids = worker_pids(service)
        for pid in first_pids:
            os.kill(pid, signal.SIGKILL)
        wait_until_ready(
            lambda: len(worker_pids(service)) == 4 and service.is_ready(), what="new workers"
        )
        assert granted(service) == 40
        assert service.ask(certificate).status == 200
        wait_until_ready(lambda: granted(service) == 41, what="one more grant")
        page = admin(service, "/").body.decode()
    assert "2 workers" in page
    assert "41" in page


def test_admin_token_guards_all_but_the_probes(pylon: RunningPylon, tmp_path: Path) -> None:
    """Beyond loopback too, where it is needed to start at all."""
    with running_service(tmp_path, pylon.url, NEXUS_AUTH_ADMIN_TOKEN=TOKEN) as service:
        assert admin(service, "/readyz").body == b'{"status":"serving"}'
        assert admin(service, "/readyz", Host=f"10.244.1.7:{service.admin_port}").status == 200
        assert admin(service, "/readyz", Host="evil.example").status == 421
        assert b"hotkeys" in admin(service, "/readyz", Authorization=f"Bearer {TOKEN}").body
        assert admin(service, "/metrics").status == 401
        assert admin(service, "/", Authorization="Bearer wrong").status == 401
        assert admin(service, "/metrics", Authorization=f"Bearer {TOKEN}").status == 200
        assert TOKEN not in service.process.output


def test_page_from_elsewhere_cannot_read_the_status(pylon: RunningPylon, tmp_path: Path) -> None:
    """A name that its owner points at loopback is denied (DNS rebinding)."""
    with running_service(tmp_path, pylon.url) as service:
        assert admin(service, "/", Host="evil.example").status == 421
        assert admin(service, "/metrics", Host="evil.example:8081").status == 421
        assert admin(service, "/readyz", Host="evil.example").status == 421
        assert admin(service, "/", Host="localhost").status == 200
        assert b"hotkeys" in admin(service, "/readyz", Host="localhost").body


@pytest.mark.parametrize("address", [":0", "0.0.0.0:0", "[::]:0"])
def test_admin_listener_is_never_public_without_a_token(tmp_path: Path, address: str) -> None:
    """It says so in one line, before it listens on anything."""
    ended = subprocess.run(
        [sys.executable, "-m", "nexus_auth", "run"],
        env=service_environment("http://127.0.0.1:9", NEXUS_AUTH_ADMIN_ADDR=address),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "NEXUS_AUTH_ADMIN_ADDR" in ended.stderr
    assert "NEXUS_AUTH_ADMIN_TOKEN" in ended.stderr
