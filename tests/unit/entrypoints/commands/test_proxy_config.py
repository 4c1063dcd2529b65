from __future__ import annotations

from pathlib import Path

import pytest

from nexus_auth.adapters.proxies import syntax_check
from nexus_auth.adapters.proxies.table import CONFIGURABLE
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.cli import main
from nexus_auth.entrypoints.commands import proxy_config


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
        ["envoy", "-site"],
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# mine\nsearch a.example\nnameserver 10.0.0.2\nnameserver ::1 # b\n",
            "10.0.0.2:53 [::1]:53",
        ),
        (
            "nameserver fe80::1%eth0\nnameserver 10.0.0.2;\nnameserver\nnameserver 10.0.0.3\n",
            "10.0.0.3:53",
        ),
    ],
)
def test_names_are_looked_up_where_this_machine_looks_them_up(
    text: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No proxy reads resolv.conf by itself. What cannot be written down there is left out."""
    (tmp_path / "resolv.conf").write_text(text)
    monkeypatch.setattr(proxy_config, "_RESOLV_CONF", tmp_path / "resolv.conf")
    assert main(["proxy-config", "nginx", "-app", "app:1"]) == exit_codes.DONE
    assert f"resolver         {expected} valid=5s;" in capsys.readouterr().out
    command = ["proxy-config", "nginx", "-app", "app:1", "-resolver", "10.9.9.9"]
    assert main(command) == exit_codes.DONE
    assert "resolver         10.9.9.9:53 valid=5s;" in capsys.readouterr().out


def test_a_name_without_a_name_server_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says which argument helps; an address needs none."""
    monkeypatch.setattr(proxy_config, "_RESOLV_CONF", tmp_path / "missing")
    assert main(["proxy-config", "nginx", "-auth", "auth:1"]) == exit_codes.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert "-resolver" in said.err
    assert main(["proxy-config", "nginx", "-auth", "10.0.0.1:1"]) == exit_codes.DONE


@pytest.mark.parametrize("name", ["haproxy", "caddy", "envoy", "traefik"])
def test_name_servers_are_written_down_only_where_the_proxy_cannot_find_them(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the file is made need not be where it is used."""
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    monkeypatch.setattr(proxy_config, "_RESOLV_CONF", tmp_path / "resolv.conf")
    assert main(["proxy-config", name, "-auth", "auth:1"]) == exit_codes.DONE
    assert "192.0.2.53" not in capsys.readouterr().out
    assert main(["proxy-config", "nginx", "-auth", "auth:1"]) == exit_codes.DONE
    assert "192.0.2.53" in capsys.readouterr().out
