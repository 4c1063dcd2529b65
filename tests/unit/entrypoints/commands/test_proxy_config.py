from __future__ import annotations

from pathlib import Path

import pytest

from nexus_auth.adapters.proxies import syntax_check
from nexus_auth.adapters.proxies.table import CONFIGURABLE
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.cli import main


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_a_name_alone_prints_a_configuration(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every argument has a default."""
    assert main(["proxy-config", name]) == exit_codes.DONE
    assert f"NEXUS_AUTH_PROXY={name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["apache"],
        ["nginx", "-listen", "443"],
        ["nginx", "-app", "a:1;}"],
        ["nginx", "-app", ""],
        ["nginx", "-auth", ""],
        ["nginx", "-auth", "unix:relative"],
        ["nginx", "-tls-cert", "/a b"],
        ["nginx", "-tls-key", "key.pem"],
        ["nginx", "-server-name", "a;b"],
        ["nginx", "-state-dir", "/a;b"],
        ["nginx", "-output", "a\nb"],
        ["traefik", "-auth", "unix:/a.sock"],
        ["ingress-nginx", "-app", "127.0.0.1:80"],
    ],
)
def test_a_wrong_argument_is_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what is wrong, and nothing is printed or written."""
    try:
        code: object = main(["proxy-config", *arguments])
    except SystemExit as exc:
        code = exc.code
    assert code == exit_codes.USAGE
    assert capsys.readouterr().out == ""


def test_files_are_written_where_asked_and_never_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What somebody edited by hand stays, unless they say so."""
    folder = tmp_path / "new" / "haproxy"
    command = ["proxy-config", "haproxy", "--output", str(folder)]
    assert main(command) == exit_codes.DONE
    names = {"haproxy.cfg", "nexus_auth.lua", "tls.pem", "tls.pem.key"}
    assert {path.name for path in folder.iterdir()} == names
    (folder / "haproxy.cfg").write_text("mine")
    assert main(command) == exit_codes.FAILED
    assert (folder / "haproxy.cfg").read_text() == "mine"
    assert "-force" in capsys.readouterr().err
    assert main([*command, "-force"]) == exit_codes.DONE
    assert (folder / "haproxy.cfg").read_text() != "mine"


def test_a_check_that_cannot_be_made_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody takes silence for approval."""
    monkeypatch.setattr(syntax_check, "find_program", lambda _name: None)
    assert main(["proxy-config", "nginx", "-check"]) == exit_codes.FAILED
    assert "not installed" in capsys.readouterr().err
    assert main(["proxy-config", "traefik", "-check"]) == exit_codes.FAILED
    assert "no check of its own" in capsys.readouterr().err
