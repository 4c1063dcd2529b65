"""A grant cache that nginx cannot use: what is generated serves all the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.builders import a_hotkey
from tests.integration.policy.test_nginx_locations import TWO_POLICIES, with_second_place
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import (
    ask,
    ask_http2,
    connect,
    exchange,
    http1_request,
    tls_context,
)
from tests.integration.proxies.stack import (
    People,
    StartedProxy,
    make_people,
    make_server_certificate,
    open_folder,
    started_proxy,
)
from tests.integration.real import REQUIRE_REAL

GRANTS: Final = "state/grants"
"""Where the cache is, from the folder that nginx is started in."""


def can_mount() -> bool:
    """Whether this user may have file systems of its own."""
    tried = ["unshare", "--mount", "true"]
    return shutil.which("unshare") is not None and not subprocess.run(tried, check=False).returncode


needs_mounts = pytest.mark.skipif(
    not can_mount() and not REQUIRE_REAL, reason="needs the right to mount: run this as root"
)


def on_tmpfs(size: str, then: str = "true") -> list[str]:
    """A command that gives the cache a file system of its own, which nothing else sees."""
    script = f"mkdir {GRANTS} && mount -t tmpfs -o size={size},mode=777 tmpfs {GRANTS} && {then}"
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh"]


@dataclass(frozen=True)
class House:
    """nginx, running, with alice and bob registered, and all that asks and answers around it."""

    nginx: StartedProxy
    auth: AuthService
    people: People
    application: Application

    @property
    def grants(self) -> Path:
        """The folder of the cache."""
        return self.nginx.directory / GRANTS

    def asked(self) -> int:
        """How often the auth service was asked so far."""
        return len(self.auth.listener.facts)

    def assert_serves_all_the_same(self) -> None:
        """Registered callers are let in, strangers are not; the service is asked once at most."""
        before = self.asked()
        for _ in range(3):
            assert ask(self.nginx.port, self.people["alice"]).status == 200
            assert ask_http2(self.nginx.port, self.people["bob"], method="POST").status == 200
            assert ask(self.nginx.port, self.people["carol"]).status == 403
            assert ask_http2(self.nginx.port, self.people["nobody"]).status == 403
        # Once for each request, but for those that the rest of the cache can answer.
        assert self.asked() - before <= 12
        hotkeys = {tuple(record.hotkeys) for record in self.application.records}
        assert hotkeys == {(a_hotkey(name).address,) for name in ("alice", "bob")}


@contextmanager
def running_house(
    *,
    prefix: list[str] | None = None,
    edit: Callable[[str], str] | None = None,
) -> Iterator[House]:
    """Starts it."""
    with (
        open_folder() as folder,
        Application() as application,
        AuthService(
            "nginx", 0, reuse_seconds=60, policies=TWO_POLICIES, knows=("alice", "bob")
        ) as auth,
        started_proxy(
            "nginx",
            folder,
            app=application.address,
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
            prefix=prefix or (),
            edit=edit,
        ) as nginx,
    ):
        yield House(nginx, auth, make_people(folder), application)


def test_a_cache_that_works_is_asked_before_the_service() -> None:
    """Nothing of what follows costs a working cache anything."""
    with running_house() as house:
        for _ in range(5):
            assert ask(house.nginx.port, house.people["alice"]).status == 200
        assert house.asked() == 1


@needs_mounts
def test_a_full_disk_refuses_nobody() -> None:
    """The grant cannot be kept; it is a grant all the same."""
    with running_house(prefix=on_tmpfs("4k", f"head -c 4096 /dev/zero > {GRANTS}/full")) as house:
        house.assert_serves_all_the_same()
        assert "No space left on device" in house.nginx.process.output


@needs_mounts
def test_a_read_only_disk_refuses_nobody() -> None:
    """As file systems become after an error: with grants in the cache, and without."""
    with running_house(prefix=on_tmpfs("1m")) as house:
        alice = house.people["alice"]
        assert ask(house.nginx.port, alice).status == 200
        inside = ["nsenter", "--target", str(house.nginx.process.pid), "--mount"]
        remount = ["mount", "-o", "remount,ro", str(house.grants)]
        subprocess.run([*inside, *remount], check=True, timeout=30)
        asked = house.asked()
        assert ask(house.nginx.port, alice).status == 200
        assert house.asked() == asked
        house.assert_serves_all_the_same()
        assert "Read-only file system" in house.nginx.process.output


def make_foreign(grants: Path) -> None:
    """Takes from nginx's user what is kept and the right to keep more."""
    for path in (grants, *grants.iterdir()):
        if os.geteuid() == 0:
            os.chown(path, 0, 0)
        path.chmod(0o700 if os.geteuid() == 0 else 0)


def make_unreadable(grants: Path) -> None:
    """Takes from nginx's user what is kept alone."""
    for path in grants.iterdir():
        if os.geteuid() == 0:
            os.chown(path, 0, 0)
        path.chmod(0)


@pytest.mark.parametrize("damage", [make_foreign, make_unreadable, shutil.rmtree])
def test_a_cache_of_another_owner_or_none_refuses_nobody(
    damage: Callable[[Path], None],
) -> None:
    """Neither a grant that cannot be read nor one that cannot be kept ends a request."""
    with running_house() as house:
        assert ask(house.nginx.port, house.people["alice"]).status == 200
        damage(house.grants)
        try:
            house.assert_serves_all_the_same()
        finally:
            if house.grants.exists():
                house.grants.chmod(0o700)


def test_asking_past_the_cache_leaves_nothing_behind() -> None:
    """One connection goes on for many requests, and nginx ends without an open one."""
    with running_house() as house:
        shutil.rmtree(house.grants)
        with connect(house.nginx.port, tls_context(house.people["alice"])) as connection:
            for _ in range(50):
                assert exchange(connection, http1_request()).status == 200
        house.nginx.process.send_signal(signal.SIGQUIT)
        assert house.nginx.process.wait() == 0
        assert "[alert]" not in house.nginx.process.output


def test_a_broken_cache_lets_in_nobody_whose_grant_ended() -> None:
    """A denial is a denial, with whatever was kept before."""
    with running_house() as house:
        shutil.rmtree(house.grants)
        del house.auth.registry.keys[a_hotkey("alice")]
        before = house.asked()
        assert ask(house.nginx.port, house.people["alice"]).status == 403
        assert house.asked() - before == 1
        assert not house.application.records


def with_careless_copy(configuration: str) -> str:
    """A second place whose copy still names the first one where nginx begins again."""
    copied = with_second_place(configuration)
    begins_again = "error_page 500 = /.nexus-auth-subrequest"
    return copied.replace(f"{begins_again}-team;", f"{begins_again};")


@pytest.mark.parametrize(("edit", "unread"), [(with_second_place, 200), (with_careless_copy, 503)])
def test_a_broken_cache_never_leads_from_one_policy_to_another(
    edit: Callable[[str], str], unread: int
) -> None:
    """A place asks with its own policy, or not at all."""

    def edited(text: str) -> str:
        return edit(text) if "location = /.nexus-auth-subrequest {" in text else text

    with running_house(edit=edited) as house:
        team, port = http1_request(target="/team/"), house.nginx.port
        alice, bob = house.people["alice"], house.people["bob"]
        assert [ask(port, alice, each).status for each in (None, team)] == [200, 200]
        make_unreadable(house.grants)
        assert ask(port, alice, team).status == unread
        shutil.rmtree(house.grants)
        for _ in range(3):
            assert ask(port, bob, team).status == 403
            assert ask(port, alice, team).status == 200
            assert ask(port, bob).status == 200
        assert {facts.get("policy") for facts in house.auth.listener.facts} == {None, "team"}
        assert [r.hotkeys for r in house.application.records if "/team/" in r.line] == [
            [a_hotkey("alice").address]
        ] * (4 if unread == 503 else 5)
