"""The `.env` of a working directory that another user can write, against the real program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.builders import a_hotkey

TOKEN = "the-token-of-the-operator"
_IDENTITY = {"NEXUS_PYLON_NETUID": "1", "NEXUS_PYLON_IDENTITY_NAME": "miner"}
_COMMANDS = (["doctor"], ["generate", "-ss58-address", a_hotkey("miner").address])


class Thief(ThreadingHTTPServer):
    """Answers 404 and keeps what it was shown."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Thief

    def do_GET(self) -> None:
        self.server.requests.append(str(self.headers))
        self.send_error(404)

    do_HEAD = do_POST = do_GET  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def thief() -> Iterator[Thief]:
    """A server that is not Pylon."""
    with Thief() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(folder: Path, command: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, with the identity's token in the environment."""
    clean = {name: value for name, value in os.environ.items() if "NEXUS" not in name}
    return subprocess.run(
        [sys.executable, "-m", "nexus_auth", *command],
        env={**clean, **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _writable(folder: Path) -> None:
    (folder / ".env").chmod(0o666)


def _of_another_user(folder: Path) -> None:
    os.chown(folder / ".env", 12345, 12345)


def _replaceable(folder: Path) -> None:
    folder.chmod(0o777)


def _link_of_another_user(folder: Path) -> None:
    (folder / ".env").rename(folder / "ours.env")
    (folder / ".env").symlink_to("ours.env")
    os.chown(folder / ".env", 12345, 12345, follow_symlinks=False)


_needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")


@pytest.mark.parametrize("command", _COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    "spoil",
    [
        _writable,
        _replaceable,
        pytest.param(_of_another_user, marks=_needs_root),
        pytest.param(_link_of_another_user, marks=_needs_root),
    ],
)
def test_env_file_of_another_user_sends_no_token_anywhere(
    tmp_path: Path, thief: Thief, spoil: Callable[[Path], None], command: list[str]
) -> None:
    """Exit code 2 and a remedy; the endpoint that the file names is not contacted at all."""
    (tmp_path / ".env").write_text(f"NEXUS_PYLON_ENDPOINT=http://127.0.0.1:{thief.server_port}\n")
    spoil(tmp_path)
    done = run(tmp_path, command, **_IDENTITY, NEXUS_PYLON_IDENTITY_TOKEN=TOKEN)
    assert thief.requests == []
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "NEXUS_AUTH_ENV_FILE" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize("command", _COMMANDS, ids=lambda command: command[0])
def test_token_of_the_environment_does_not_go_to_an_endpoint_of_the_folder(
    tmp_path: Path, thief: Thief, command: list[str]
) -> None:
    """A file of our own may come from elsewhere, as in a checkout; the message names both."""
    (tmp_path / ".env").write_text(f"NEXUS_PYLON_ENDPOINT=http://127.0.0.1:{thief.server_port}\n")
    done = run(tmp_path, command, **_IDENTITY, NEXUS_PYLON_IDENTITY_TOKEN=TOKEN)
    assert thief.requests == []
    assert done.returncode == 2
    assert "NEXUS_PYLON_IDENTITY_TOKEN (from environment)" in done.stderr
    assert "NEXUS_PYLON_ENDPOINT" in done.stderr
    assert ".env" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_env_file_does_not_take_a_secret_out_of_another_folder(
    tmp_path: Path, thief: Thief
) -> None:
    """A path is no secret: a file that came with a checkout can name any file of its reader."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (tmp_path / "token").write_text(TOKEN)
    lines = [f"{name}={value}" for name, value in _IDENTITY.items()]
    lines.append(f"NEXUS_PYLON_ENDPOINT=http://127.0.0.1:{thief.server_port}")
    for path in ("../token", str(tmp_path / "token"), "link"):
        (folder / "link").unlink(missing_ok=True)
        (folder / "link").symlink_to("../token")
        text = "\n".join([*lines, f"NEXUS_PYLON_IDENTITY_TOKEN_FILE={path}"])
        (folder / ".env").write_text(text)
        done = run(folder, ["doctor"])
        assert thief.requests == []
        assert done.returncode == 2
        assert TOKEN not in done.stdout + done.stderr


def test_env_file_with_its_own_token_is_read(tmp_path: Path, thief: Thief) -> None:
    """What a file says of itself is sent where it says; so is what lies in its own folder."""
    (tmp_path / "token").write_text(TOKEN)
    lines = [f"{name}={value}" for name, value in _IDENTITY.items()]
    lines.append(f"NEXUS_PYLON_ENDPOINT=http://127.0.0.1:{thief.server_port}")
    for line in (f"NEXUS_PYLON_IDENTITY_TOKEN={TOKEN}", "NEXUS_PYLON_IDENTITY_TOKEN_FILE=token"):
        thief.requests.clear()
        (tmp_path / ".env").write_text("\n".join([*lines, line]))
        assert run(tmp_path, ["doctor"]).returncode == 1
        assert any(TOKEN in request for request in thief.requests)


def test_env_file_that_is_named_is_the_users_word(tmp_path: Path, thief: Thief) -> None:
    """As an endpoint from the environment is: then the token goes there."""
    (tmp_path / ".env").write_text(f"NEXUS_PYLON_ENDPOINT=http://127.0.0.1:{thief.server_port}\n")
    _writable(tmp_path)
    token = {**_IDENTITY, "NEXUS_PYLON_IDENTITY_TOKEN": TOKEN}
    assert run(tmp_path, ["doctor"], **token, NEXUS_AUTH_ENV_FILE=".env").returncode == 1
    assert any(TOKEN in request for request in thief.requests)


@pytest.mark.parametrize("command", [["inspect", "none.crt"], ["completion", "bash"]])
def test_command_without_settings_reads_no_env_file(tmp_path: Path, command: list[str]) -> None:
    """What it is asked for does not depend on the folder."""
    (tmp_path / ".env").write_text("NEXUS_PYLON_ENDPOINT=http://127.0.0.1:9\n")
    _writable(tmp_path)
    assert ".env" not in run(tmp_path, command).stderr
