from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from nexus_auth.entrypoints.demo.errors import DemoFailed
from nexus_auth.entrypoints.demo.people import KeyPair
from nexus_auth.entrypoints.demo.proxy import Envoy, Nginx, Wiring, find_proxy


@pytest.fixture
def wiring(tmp_path: Path) -> Wiring:
    """Some ports and files."""
    server = KeyPair.in_directory(tmp_path / "miner")
    return Wiring(directory=tmp_path, port=1, server=server, auth_port=2, backend_port=3)


def _fake(program: Path, says: str) -> str:
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    program.chmod(0o755)
    return str(program)


def test_missing_proxy_tells_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, with the two ways."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(DemoFailed, match=r"apt-get install nginx.*nexus-auth\[demo\]"):
        find_proxy()


def test_proxy_that_was_asked_for_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for Envoy does not get nginx."""
    monkeypatch.setattr(
        shutil, "which", lambda name, **_: "/usr/sbin/nginx" if name == "nginx" else None
    )
    with pytest.raises(DemoFailed, match="no envoy on this machine"):
        find_proxy("envoy")


@pytest.mark.parametrize(
    ("says", "title", "option"),
    [
        ("nginx version: nginx/1.22.1", "nginx 1.22.1", True),
        ("nginx version: nginx/1.18.0 (Ubuntu)", "nginx 1.18.0", False),
        ("nginx version: openresty", "nginx", False),
    ],
)
def test_old_nginx_is_started_without_what_it_does_not_know(
    tmp_path: Path,
    wiring: Wiring,
    says: str,
    title: str,
    option: bool,  # noqa: FBT001 - a table
) -> None:
    """`-e` came with 1.19.5; Debian 11 has an older one."""
    nginx = Nginx(_fake(tmp_path / "nginx", says))
    assert nginx.title == title
    assert ("-e" in nginx.prepare(wiring)) is option


@pytest.mark.parametrize(("user", "expected"), [(0, True), (1000, False)])
def test_nginx_stays_root_only_where_it_starts_as_root(
    tmp_path: Path,
    wiring: Wiring,
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    expected: bool,  # noqa: FBT001 - a table
) -> None:
    """Its workers must be able to enter the demo's own directory."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    Nginx(_fake(tmp_path / "nginx", "nginx/1.22.1")).prepare(wiring)
    assert ("\nuser root" in (tmp_path / "nginx.conf").read_text()) is expected


def test_envoy_is_configured_in_json(tmp_path: Path, wiring: Wiring) -> None:
    """The file is well-formed, fails closed, and listens on loopback alone."""
    envoy = Envoy(_fake(tmp_path / "envoy", "envoy  version: abc/1.40.0/Clean/RELEASE"))
    assert envoy.title == "Envoy 1.40.0"
    envoy.prepare(wiring)
    text = (tmp_path / "envoy.json").read_text()
    assert json.loads(text)
    assert '"failure_mode_allow": false' in text
    assert "0.0.0.0" not in text  # noqa: S104 - it is not there
