"""`nexus-auth config show`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from nexus_auth.entrypoints.cli import main
from nexus_auth.entrypoints.settings import Settings, all_settings
from tests.builders import a_hotkey

TOKEN = "sekrit-token-that-nobody-sees"


def test_every_setting_is_shown_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Flag, environment, env file and default are told apart."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("NEXUS_AUTH_REUSE_SECONDS=7\nNEXUS_AUTH_LEEWAY_SECONDS=1\n")
    monkeypatch.setenv("NEXUS_AUTH_LEEWAY_SECONDS", "2")
    assert main(["config", "show", "--json", "-net-uid", "12"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["settings"]}
    assert set(rows) == {setting.name for setting in all_settings()}
    assert rows["NEXUS_PYLON_NETUID"] == {
        "name": "NEXUS_PYLON_NETUID",
        "value": "12",
        "origin": "flag -net-uid",
    }
    assert rows["NEXUS_AUTH_LEEWAY_SECONDS"]["origin"] == "environment"
    assert rows["NEXUS_AUTH_REUSE_SECONDS"]["value"] == "7"
    assert rows["NEXUS_AUTH_REUSE_SECONDS"]["origin"] == ".env"
    assert rows["NEXUS_AUTH_LISTEN_ADDR"]["origin"] == "default"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {
            "NEXUS_AUTH_LISTEN_ADDR": "unix:/run/nexus-auth.sock",
            "NEXUS_AUTH_SOCKET_MODE": "0666",
            "NEXUS_AUTH_ADMIN_ADDR": "off",
            "NEXUS_AUTH_REFRESH_SECONDS": "2.5",
            "NEXUS_AUTH_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
            "NEXUS_AUTH_DENY_HOTKEYS": a_hotkey("alice").address,
            "NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT": "true",
            "NEXUS_AUTH_MIN_STAKE": "alpha=5e15,tao=1 rao,total=0",
            "NEXUS_AUTH_GRANT_HEADERS": "stake,uid",
        },
    ],
)
def test_what_is_shown_can_be_set(
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A value is written as the setting takes it, so that a line can be copied into `.env`."""
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["config", "show", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["settings"]
    shown = {row["name"]: row["value"] for row in rows if row["value"] != "(unset)"}
    given = Settings.load(environ=environ)
    assert dataclasses.replace(Settings.load(environ=shown), origins=given.origins) == given
    assert shown["NEXUS_AUTH_SNAPSHOT_STORE"] == "none"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_secrets_are_masked(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    form: list[str],
) -> None:
    """A token is never printed, whether it came from the environment or from a file."""
    monkeypatch.chdir(tmp_path)
    Path("token").write_text(TOKEN + "\n")
    monkeypatch.setenv("NEXUS_PYLON_OPEN_ACCESS_TOKEN_FILE", "token")
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_TOKEN", TOKEN)
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_NAME", "me")
    assert main(["config", "show", *form, "-net-uid", "1"]) == 0
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    assert out.count("(set, hidden)") == 2
    assert "token, named by environment" in out


def test_misspelt_name_is_called_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A variable with our prefix that is no setting is named, with the nearest one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_AUTH_LISTEN_ADRR", ":1")
    assert main(["config", "show"]) == 0
    assert "did you mean NEXUS_AUTH_LISTEN_ADDR?" in capsys.readouterr().err
