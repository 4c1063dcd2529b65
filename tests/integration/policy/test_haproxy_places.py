"""Two places of a real HAProxy with two policies, by the line that docs/policy.md shows."""

from __future__ import annotations

import re
from pathlib import Path

from nexus_auth.domain.policy import AccessPolicy, OnlyHotkeys, PolicySet
from nexus_auth.entrypoints.cli import main
from tests.builders import a_hotkey
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import ask, http1_request
from tests.integration.proxies.stack import make_people, make_server_certificate, open_folder
from tests.integration.real import (
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "policy.md"
POLICIES = PolicySet(
    policies={
        "registered": AccessPolicy(name="registered"),
        "team": AccessPolicy(name="team", rules=(OnlyHotkeys(frozenset({a_hotkey("alice")})),)),
    },
    default="registered",
)


def test_two_places_have_two_policies_and_share_no_grant() -> None:
    """What HAProxy remembers, it remembers by policy and certificate."""
    haproxy = require_program("haproxy", "apt-get install haproxy")
    line = re.search(r"```haproxy\n(.*?)\n```", PAGE.read_text("utf-8"), re.DOTALL)
    assert line is not None
    with open_folder() as folder, Application() as application:
        people, certificate = make_people(folder), make_server_certificate(folder)
        with AuthService(
            "haproxy", 0, reuse_seconds=60, policies=POLICIES, knows=("alice", "bob")
        ) as auth:
            port, made = free_port(), folder / "made"
            code = main(
                [
                    *("proxy-config", "haproxy", "-listen", f"127.0.0.1:{port}"),
                    *("-app", application.address, "-auth", f"127.0.0.1:{auth.port}"),
                    *("-tls-cert", str(certificate[0]), "-tls-key", str(certificate[1])),
                    *("-state-dir", str(folder), "-output", str(made)),
                ]
            )
            assert code == 0
            file, action = made / "haproxy.cfg", "    http-request lua.nexus_auth\n"
            text = file.read_text()
            assert text.count(action) == 1
            file.write_text(text.replace(action, f"    {line[1]}\n{action}"))
            command = [str(haproxy), "-db", "-f", str(file)]
            with Process(command, log_file=folder / "log", directory=made) as process:
                wait_until_ready(lambda: accepts_connections(port), what="HAProxy", process=process)

                def status(who: str, target: str) -> int:
                    return ask(port, people[who], http1_request(target=target)).status

                for _ in range(3):
                    assert status("bob", "/") == 200
                    assert status("bob", "/team/x") == 403
                    assert status("alice", "/team/x") == 200
                    assert status("alice", "/") == 200
                    assert status("carol", "/") == 403
                    assert status("nobody", "/team/x") == 403
