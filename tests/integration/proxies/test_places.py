from __future__ import annotations

import pytest

from tests.builders import a_hotkey
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import ask
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
)
from tests.integration.real import require_program, wait_until_ready


@pytest.mark.parametrize("proxy", ["nginx", "envoy", "caddy", "haproxy"])
def test_the_auth_service_can_be_on_a_unix_socket_and_the_proxy_everywhere(proxy: str) -> None:
    """A socket in a folder of its own and a listener on every address work as written."""
    require_program(proxy, PROGRAMS[proxy])
    with open_folder() as folder, Application() as application:
        people, socket = make_people(folder), folder / "auth.sock"
        with (
            AuthService(proxy, socket, reuse_seconds=0, knows=("alice",)),
            running_proxy(
                proxy,
                folder,
                app=application.address.replace("127.0.0.1", "localhost"),
                auth=f"unix:{socket}",
                certificate=make_server_certificate(folder),
                host="",
            ) as port,
        ):
            granted = lambda: ask(port, people["alice"]).status == 200  # noqa: E731 - short
            wait_until_ready(granted, what=f"a grant through {proxy}")
            assert ask(port, people["carol"]).status == 403
            assert [r.hotkeys for r in application.records] == [[a_hotkey("alice").address]]


@pytest.mark.parametrize(("host", "written"), [("127.0.0.1", "localhost"), ("::1", "[::1]")])
@pytest.mark.parametrize("proxy", PROGRAMS)
def test_an_auth_service_by_name_or_over_ipv6_is_found(proxy: str, host: str, written: str) -> None:
    """`localhost` is the name that most people try first."""
    require_program(proxy, PROGRAMS[proxy])
    with open_folder() as folder, Application() as application:
        people = make_people(folder)
        with (
            AuthService(proxy, 0, host=host, reuse_seconds=0, knows=("alice",)) as auth,
            running_proxy(
                proxy,
                folder,
                app=application.address,
                auth=f"{written}:{auth.port}",
                certificate=make_server_certificate(folder),
            ) as port,
        ):
            granted = lambda: ask(port, people["alice"]).status == 200  # noqa: E731 - short
            wait_until_ready(granted, what=f"a grant through {proxy}")
