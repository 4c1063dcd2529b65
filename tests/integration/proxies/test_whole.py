from __future__ import annotations

import pytest

from tests.builders import a_hotkey
from tests.integration.proxies.application import Application
from tests.integration.proxies.client import ask
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
)
from tests.integration.pylon.running import running_pylon
from tests.integration.real import require_program, wait_until_ready
from tests.integration.service.running import register, running_service


@pytest.mark.parametrize("proxy", PROGRAMS)
def test_proxy_service_and_pylon_work_together(proxy: str) -> None:
    """The settings in the head of the generated file are all that the service needs."""
    require_program(proxy, PROGRAMS[proxy])
    with open_folder() as folder, Application() as application, running_pylon() as pylon:
        people = make_people(folder)
        register(pylon, "alice")
        with (
            running_service(
                folder,
                pylon.url,
                NEXUS_AUTH_PROXY=proxy,
                NEXUS_AUTH_TRUSTED_PROXIES="127.0.0.1,::1",
            ) as service,
            running_proxy(
                proxy,
                folder,
                app=application.address,
                auth=f"127.0.0.1:{service.port}",
                certificate=make_server_certificate(folder),
            ) as port,
        ):
            alice = people["alice"]
            wait_until_ready(lambda: ask(port, alice).status == 200, what=f"alice via {proxy}")
            for who in ("nobody", "carol", "mallory as alice", "expired", "early"):
                assert ask(port, people[who]).status == 403
            hotkeys = {tuple(record.hotkeys) for record in application.records}
            assert hotkeys == {(a_hotkey("alice").address,)}
