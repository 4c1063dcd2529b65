"""A name's address changes, as it does when a container is made anew."""

from __future__ import annotations

import pytest

from nexus_auth.adapters.proxies.table import PROXIES
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import ask
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    started_proxy,
)
from tests.integration.proxies.surroundings import NameServer, with_files_of_etc
from tests.integration.real import free_port, require_program, wait_until_ready

NAMES = {"auth": "auth.service.test", "app": "app.service.test"}
FOLLOWS_WITHIN_SECONDS = 60


@pytest.mark.parametrize("leg", ["auth", "app"])
@pytest.mark.parametrize("proxy", PROGRAMS)
def test_a_name_is_followed_to_its_new_address(proxy: str, leg: str) -> None:
    """Without a restart of the proxy, and no other name is ever looked up."""
    require_program(proxy, PROGRAMS[proxy])
    with open_folder() as folder, NameServer() as names:
        people, port = make_people(folder), {"auth": free_port(), "app": free_port()}

        def start(which: str, host: str) -> AuthService | Application:
            names.addresses[NAMES[which]] = host
            if which == "app":
                return Application(host, port["app"])
            return AuthService(proxy, port["auth"], host=host, reuse_seconds=0, knows=("alice",))

        by_resolver = ("-resolver", names.address)
        other = "app" if leg == "auth" else "auth"
        prefix = with_files_of_etc(folder, hosts="127.0.0.1 localhost\n", resolver=names.host)
        with start(other, "127.0.0.4"):
            first = start(leg, "127.0.0.2")
            with (
                first,
                started_proxy(
                    proxy,
                    folder,
                    app=f"{NAMES['app']}:{port['app']}",
                    auth=f"{NAMES['auth']}:{port['auth']}",
                    certificate=make_server_certificate(folder),
                    arguments=by_resolver if PROXIES[proxy].needs_resolver else (),
                    prefix=prefix,
                ) as started,
            ):
                granted = lambda: ask(started.port, people["alice"]).status == 200  # noqa: E731
                wait_until_ready(granted, what=f"a grant through {proxy}", timeout_seconds=60)
                first.__exit__()
                with start(leg, "127.0.0.3"):
                    wait_until_ready(
                        granted, what="the new address", timeout_seconds=FOLLOWS_WITHIN_SECONDS
                    )
                    # Each worker of nginx looks the name up by itself.
                    denied = lambda: ask(started.port, people["carol"]).status == 403  # noqa: E731
                    wait_until_ready(
                        denied, what="a denial", timeout_seconds=FOLLOWS_WITHIN_SECONDS
                    )
                    # Only what was named, and no name of the configuration's own.
                    assert names.asked <= set(NAMES.values())
