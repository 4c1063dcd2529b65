from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import pytest

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.settings import Settings, all_settings

SECRET: Final = "hunter2-hunter2"
_IDENTITY: Final = {
    "NEXUS_PYLON_NETUID": "1",
    "NEXUS_PYLON_IDENTITY_NAME": "miner",
    "NEXUS_PYLON_IDENTITY_TOKEN": SECRET,
}


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` of the developer's is picked up."""
    monkeypatch.chdir(tmp_path)


def test_env_file_can_be_named(tmp_path: Path) -> None:
    """`NEXUS_AUTH_ENV_FILE` takes the place of `.env`."""
    named = tmp_path / "production.env"
    named.write_text("NEXUS_PYLON_NETUID=7\n")
    Path(".env").write_text("NEXUS_PYLON_NETUID=8\n")
    settings = Settings.load(environ={"NEXUS_AUTH_ENV_FILE": str(named)})
    assert settings.netuid == 7
    assert settings.origins["netuid"] == str(named)


def test_named_env_file_must_exist() -> None:
    """A file that was asked for and is missing is an error, not silence."""
    with pytest.raises(ConfigurationError, match=r"NEXUS_AUTH_ENV_FILE .*no such file"):
        Settings.load(environ={"NEXUS_AUTH_ENV_FILE": "nowhere.env"})


def test_folder_that_cannot_be_searched_holds_no_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo -u nexus nexus-auth run` from root's own folder starts; a named file is missed."""

    def is_file(_: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "is_file", is_file)
    assert Settings.load(environ={"NEXUS_PYLON_NETUID": "7"}).netuid == 7
    with pytest.raises(ConfigurationError, match=r"NEXUS_AUTH_ENV_FILE .*Permission denied"):
        Settings.load(environ={"NEXUS_AUTH_ENV_FILE": "/root/production.env"})


def test_env_file_that_is_no_text_is_one_clear_error() -> None:
    """Binary rubbish in `.env` does not end in a traceback."""
    Path(".env").write_bytes(b"\xff\xfe\x00NEXUS")
    with pytest.raises(ConfigurationError, match="not readable"):
        Settings.load(environ={})


@pytest.mark.parametrize(
    "line",
    [
        f'NEXUS_AUTH_ADMIN_TOKEN="{SECRET}',
        f"NEXUS_AUTH_ADMIN_TOKEN {SECRET}",
        f'NEXUS_AUTH_ADMIN_TOKEN: "{SECRET}"',
        f"- NEXUS_AUTH_ADMIN_TOKEN={SECRET}",
    ],
)
def test_line_of_ours_that_cannot_be_read_is_an_error(line: str) -> None:
    """Left out it would silently be no setting; the line may hold a secret and is not shown."""
    Path(".env").write_text(f"# ours\nNEXUS_AUTH_REUSE_SECONDS=7\n{line}\n")
    with pytest.raises(ConfigurationError, match=r"\.env.*: line 3 cannot be read") as caught:
        Settings.load(environ={})
    assert SECRET not in str(caught.value)


def test_line_of_others_that_cannot_be_read_is_theirs() -> None:
    """The file is shared with other programs."""
    Path(".env").write_text("some thing else\nNEXUS_AUTH_REUSE_SECONDS=7\nNAME\n")
    assert Settings.load(environ={}).reuse_seconds == 7


def test_secret_may_be_given_by_file(tmp_path: Path) -> None:
    """`NAME_FILE` holds the path, as container secrets have it; the line's end is cut off."""
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    environ = _IDENTITY | {
        "NEXUS_PYLON_IDENTITY_TOKEN": "",
        "NEXUS_PYLON_IDENTITY_TOKEN_FILE": str(path),
    }
    settings = Settings.load(environ=environ)
    assert settings.identity_token == SECRET
    assert settings.origins["identity_token"] == f"{path}, named by environment"


def test_missing_secret_file_is_named() -> None:
    """The variable and the path are both in the message."""
    environ = {"NEXUS_PYLON_IDENTITY_TOKEN_FILE": "/nonexistent/token"}
    with pytest.raises(ConfigurationError, match=r"IDENTITY_TOKEN_FILE.*/nonexistent/token"):
        Settings.load(environ=environ)


@pytest.mark.parametrize("name", [row.name for row in all_settings() if row.secret])
@pytest.mark.parametrize("content", ["", "\n", " \t\n"])
def test_secret_file_that_is_empty_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    """It is no secret, and not "not given" either: a public admin listener would be open to all."""
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=f"{name}_FILE .*it is empty"):
        Settings.load(environ={f"{name}_FILE": str(path), "NEXUS_AUTH_ADMIN_ADDR": ":8081"})


def test_what_kubernetes_says_of_a_service_is_no_misspelt_setting() -> None:
    """A Service that is called like us has eight variables in every container beside it."""
    links = {
        "NEXUS_AUTH_SERVICE_HOST": "10.0.0.1",
        "NEXUS_AUTH_SERVICE_PORT": "8080",
        "NEXUS_AUTH_SERVICE_PORT_HTTP": "8080",
        "NEXUS_AUTH_PORT": "tcp://10.0.0.1:8080",
        "NEXUS_AUTH_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "NEXUS_AUTH_PORT_8080_TCP_PROTO": "tcp",
        "NEXUS_AUTH_PORT_8080_TCP_PORT": "8080",
        "NEXUS_AUTH_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    assert Settings.load(environ=links).unknown == ()
    # Without a Service it is what somebody took for a setting.
    (unknown,) = Settings.load(environ={"NEXUS_AUTH_PORT": "8080"}).unknown
    assert unknown.startswith("NEXUS_AUTH_PORT is not a setting")
