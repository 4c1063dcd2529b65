"""`nexus-auth generate` in folders of other users, as in a container on a fresh host.

Docker makes a missing `./certs` for root, and the image runs as another user. The folders here are
root's, and the program is started under other numbers, without a name, a home or `HOME`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.test_generate import (
    command,
    environment,
    key_on_chain,
    load,
    mode,
    names,
    posts,
)
from tests.integration.proxies.stack import open_folder
from tests.integration.pylon.running import RunningPylon
from tests.integration.real import require_program

US = 12345
"""A user that has no name on any machine."""

OF_ROOT = (
    "belongs to user 0. Run: sudo {command} (for a container: the folder that is mounted there), "
    "or run this as that user (docker run --user 0:0)\n"
)


def as_user(user: int, *words: str | Path) -> list[str | Path]:
    """A command that runs under another number, and keeps nothing of root's."""
    setpriv = require_program("setpriv", "apt-get install util-linux")
    return [setpriv, f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *words]


@pytest.fixture(scope="module", autouse=True)
def _can_change_users() -> None:
    """Only root can; and the other user must be able to read this interpreter's packages."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a program as another user; run this test as root")
    trial = "import nexus_auth.entrypoints.container, httpx; httpx.Client().close()"
    tried = subprocess.run(
        as_user(US, sys.executable, "-c", trial), capture_output=True, check=False, timeout=60
    )
    if tried.returncode != 0:
        pytest.skip(f"another user cannot read the packages of {sys.executable}")


@pytest.fixture
def host() -> Iterator[Path]:
    """Where the user runs the command: root's, and every user can enter it."""
    with open_folder() as folder:
        yield folder


def generate(
    pylon: RunningPylon, host: Path, *arguments: str, user: int = US, folder: str = "certs"
) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user, in a folder of the host."""
    settings = environment(pylon)
    settings.pop("HOME", None)
    finished = subprocess.run(
        as_user(user, *command(pylon, Path(folder), *arguments)),
        env=settings,
        cwd=host,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "Traceback" not in finished.stderr
    return finished


@pytest.fixture
def certs(host: Path) -> Path:
    """The folder, as Docker makes it."""
    path = host / "certs"
    path.mkdir(mode=0o755)
    return path


@pytest.mark.parametrize("bits", [0o755, 0o700, 0o775])
@pytest.mark.parametrize("arguments", [[], ["-force-recreate"], ["-renew-before-days", "30"]])
def test_folder_of_root_is_named_with_the_way_out(
    pylon: RunningPylon, host: Path, certs: Path, bits: int, arguments: list[str]
) -> None:
    """In one line, before Pylon is asked: the key on chain is the one of before."""
    pylon.store.set_certificate(pylon.hotkey, before := bytes(range(32)))
    certs.chmod(bits)
    finished = generate(pylon, host, *arguments)
    remedy = OF_ROOT.format(command=f"chown {US} certs")
    expected = f"nexus-auth: 'certs': Permission denied to user {US}: 'certs' {remedy}"
    assert (finished.returncode, finished.stderr) == (1, expected)
    assert (pylon.requests, key_on_chain(pylon)) == ([], before)
    assert names(certs) == []


def test_both_ways_out_work(pylon: RunningPylon, host: Path, certs: Path) -> None:
    """The folder is given away, or the command runs as its owner."""
    assert generate(pylon, host).returncode == 1
    os.chown(certs, US, -1)
    finished = generate(pylon, host)
    assert finished.returncode == 0, finished.stderr
    assert (certs / "client.key").stat().st_uid == US
    assert load(certs).certificate.public_key == key_on_chain(pylon)
    os.chown(certs, 54321, 54321)
    assert generate(pylon, host, "-force-recreate").returncode == 1
    for path in certs.iterdir():
        os.chown(path, 54321, 54321)
    finished = generate(pylon, host, "-force-recreate", user=54321)
    assert finished.returncode == 0, finished.stderr
    assert load(certs).certificate.public_key == key_on_chain(pylon)


def test_folder_that_the_user_made_needs_nothing(pylon: RunningPylon, host: Path) -> None:
    """`mkdir certs`, then `--user "$(id -u):$(id -g)"`: no name, no home, no rights of root."""
    certs = host / "certs"
    certs.mkdir()
    os.chown(certs, US, US)
    finished = generate(pylon, host)
    assert finished.returncode == 0, finished.stderr
    assert names(certs) == ["client.crt", "client.key"]
    assert mode(certs / "client.key") == 0o600


@pytest.mark.parametrize("folder", ["certs", "a b/certs"])
def test_missing_folder_that_cannot_be_made_is_named_with_the_way_out(
    pylon: RunningPylon, host: Path, folder: str
) -> None:
    """The parent stays root's: only the folder itself is made for the user."""
    (host / "a b").mkdir()
    finished = generate(pylon, host, folder=folder)
    quoted = f"'{folder}'" if " " in folder else folder
    assert (finished.returncode, pylon.requests) == (1, [])
    assert OF_ROOT.format(command=f"install -d -o {US} {quoted}") in finished.stderr
    subprocess.run(["install", "-d", "-o", str(US), host / folder], check=True, timeout=10)
    assert generate(pylon, host, folder=folder).returncode == 0


def test_closed_parent_is_named(pylon: RunningPylon, host: Path, certs: Path) -> None:
    """What is behind it, and whether it is there, cannot be seen."""
    deeper = certs / "deeper"
    deeper.mkdir()
    os.chown(deeper, US, US)
    certs.chmod(0o700)
    finished = generate(pylon, host, folder="certs/deeper")
    assert (finished.returncode, pylon.requests) == (1, [])
    assert OF_ROOT.format(command=f"chown {US} certs") in finished.stderr


@pytest.mark.parametrize(
    "arguments", [["-force-recreate"], ["-renew-before-days", "30"], ["-reuse-key"]]
)
def test_key_of_root_in_our_folder_is_found_before_pylon_is_asked(
    pylon: RunningPylon, host: Path, certs: Path, arguments: list[str]
) -> None:
    """Its owner ran `sudo nexus-auth generate` before: it could not be kept beside the new one."""
    assert generate(pylon, host, user=0).returncode == 0
    os.chown(certs, US, US)
    before, asked = load(certs).certificate.fingerprint, posts(pylon)
    finished = generate(pylon, host, *arguments)
    assert finished.returncode == 1
    assert OF_ROOT.format(command=f"chown {US} certs/client.key") in finished.stderr
    assert load(certs).certificate.fingerprint == before
    assert load(certs).certificate.public_key == key_on_chain(pylon)
    assert (names(certs), posts(pylon)) == (["client.crt", "client.key"], asked)
    os.chown(certs / "client.key", US, US)
    assert generate(pylon, host, *arguments).returncode == 0
    assert load(certs).certificate.public_key == key_on_chain(pylon)


def test_request_of_root_in_our_folder_is_not_overlooked(
    pylon: RunningPylon, host: Path, certs: Path
) -> None:
    """`sudo nexus-auth generate -force-recreate` was killed: its record is root's, and closed."""
    os.chown(certs, US, US)
    assert generate(pylon, host).returncode == 0
    record = certs / ".client-pair.0.requested.tmp"
    record.write_bytes(bytes(16))
    record.chmod(0o600)
    assert generate(pylon, host).returncode == 0  # The chain has the key of the pair.
    pylon.store.set_certificate(pylon.hotkey, bytes(range(32)))
    finished = generate(pylon, host)
    assert finished.returncode == 1
    assert "the key on chain has been replaced" in finished.stderr
    asked = posts(pylon)
    finished = generate(pylon, host, "-force-recreate")
    assert (finished.returncode, posts(pylon)) == (1, asked)
    assert f"chown {US} certs/{record.name}" in finished.stderr


@pytest.mark.parametrize("name", ["client.key", "client.crt", "client.key.old"])
def test_file_of_another_in_a_sticky_folder_is_found_before_pylon_is_asked(
    pylon: RunningPylon, host: Path, certs: Path, name: str
) -> None:
    """As in /tmp: only its owner can replace it."""
    certs.chmod(0o1777)
    assert generate(pylon, host).returncode == 0
    (certs / name).touch()
    os.chown(certs / name, 0, 0)
    (certs / name).chmod(0o644)
    before = key_on_chain(pylon), posts(pylon)
    finished = generate(pylon, host, "-force-recreate")
    assert finished.returncode == 1
    assert f"certs/{name}': is another user's" in finished.stderr
    assert before == (key_on_chain(pylon), posts(pylon))
    os.chown(certs / name, US, US)
    assert generate(pylon, host, "-force-recreate").returncode == 0


def test_read_only_file_system_is_not_blamed_on_the_owner(
    pylon: RunningPylon, host: Path, certs: Path
) -> None:
    """Giving the folder away would change nothing."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "none", certs],
        capture_output=True,
        check=False,
        timeout=10,
    )
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here (CAP_SYS_ADMIN)")
    try:
        finished = generate(pylon, host)
    finally:
        subprocess.run(["umount", certs], check=True, timeout=10)
    expected = "nexus-auth: 'certs': Read-only file system\n"
    assert (finished.returncode, finished.stderr) == (1, expected)
    assert pylon.requests == []
