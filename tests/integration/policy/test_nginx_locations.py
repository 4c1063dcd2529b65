"""Two locations of a real nginx with two policies, as docs/policy.md tells how."""

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
from tests.integration.pylon.running import running_pylon
from tests.integration.real import (
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)
from tests.integration.service.running import register, running_service

TWO_POLICIES = PolicySet(
    policies={
        "registered": AccessPolicy(name="registered"),
        "team": AccessPolicy(name="team", rules=(OnlyHotkeys(frozenset({a_hotkey("alice")})),)),
    },
    default="registered",
)
POLICIES = f"""
default = "registered"

[policies.registered]

[policies.team]
allow = ["{a_hotkey("alice").address}"]
"""


def with_second_place(configuration: str) -> str:
    """Copies the two locations with three changes, as the page says."""
    block = r"(?ms)^        location {} \{{.*?^        \}}\n"
    application = re.search(block.format("/"), configuration)
    question = re.search(block.format(r"= /\.nexus-auth-subrequest"), configuration)
    assert application is not None
    assert question is not None
    name = "/.nexus-auth-subrequest"
    copies = application[0].replace("location / ", "location /team/ ").replace(name, f"{name}-team")
    copies += (
        question[0]
        .replace(name, f"{name}-team")
        .replace("internal;", "internal;\n            proxy_set_header X-Nexus-Auth-Policy team;")
    )
    return configuration.replace(question[0], question[0] + copies)


def with_second_server(configuration: str, other: str) -> str:
    """Puts the server of another configuration beside the one that is there."""
    block = re.compile(r"(?ms)^    server \{.*?^    \}\n")
    servers = block.findall(configuration), block.findall(other)
    assert [len(found) for found in servers] == [1, 1]
    return configuration.replace(servers[0][0], servers[0][0] + servers[1][0])


def test_two_servers_of_one_nginx_share_no_grant_where_their_policies_differ() -> None:
    """Whoever puts two generated servers into one file has one cache for both."""
    nginx = require_program("nginx", "apt-get install nginx")
    with open_folder() as folder, Application() as application:
        people, certificate = make_people(folder), make_server_certificate(folder)
        with AuthService(
            "nginx", 0, reuse_seconds=60, policies=TWO_POLICIES, knows=("alice", "bob")
        ) as auth:
            ports = {"registered": free_port(), "team": free_port()}
            texts, state = [], folder / "state"
            state.mkdir()
            for policy, port in ports.items():
                code = main(
                    [
                        *("proxy-config", "nginx", "-listen", f"127.0.0.1:{port}"),
                        *("-app", application.address, "-auth", f"127.0.0.1:{auth.port}"),
                        *("-tls-cert", str(certificate[0]), "-tls-key", str(certificate[1])),
                        *("-state-dir", str(state), "-output", str(folder / policy)),
                        *("-policy", policy),
                    ]
                )
                assert code == 0
                texts.append((folder / policy / "nginx.conf").read_text())
            file = folder / "nginx.conf"
            file.write_text(with_second_server(*texts))
            command: list[str | Path] = [nginx, "-e", "stderr", "-g", "daemon off;", "-c", file]
            with Process(command, log_file=folder / "log", directory=folder) as process:
                wait_until_ready(
                    lambda: all(accepts_connections(port) for port in ports.values()),
                    what="nginx",
                    process=process,
                )
                for _ in range(3):
                    assert ask(ports["registered"], people["bob"]).status == 200
                    assert ask(ports["team"], people["bob"]).status == 403
                    assert ask(ports["team"], people["alice"]).status == 200


def test_two_places_have_two_policies_and_share_no_grant(tmp_path: Path) -> None:
    """However often and in whatever order: what one place granted, the other one never uses."""
    nginx = require_program("nginx", "apt-get install nginx")
    (tmp_path / "policy.toml").write_text(POLICIES)
    with running_pylon() as pylon, open_folder() as folder, Application() as application:
        register(pylon, "alice", "bob")
        people = make_people(folder)
        certificate = make_server_certificate(folder)
        with running_service(
            tmp_path,
            pylon.url,
            NEXUS_AUTH_POLICY_FILE=str(tmp_path / "policy.toml"),
            NEXUS_AUTH_LOG_GRANTS="all",
            NEXUS_AUTH_REUSE_SECONDS="60",
        ) as service:
            port, state = free_port(), folder / "state"
            state.mkdir()
            code = main(
                [
                    *("proxy-config", "nginx", "-listen", f"127.0.0.1:{port}"),
                    *("-app", application.address, "-auth", f"127.0.0.1:{service.port}"),
                    *("-tls-cert", str(certificate[0]), "-tls-key", str(certificate[1])),
                    *("-state-dir", str(state), "-output", str(folder)),
                ]
            )
            assert code == 0
            file = folder / "nginx.conf"
            file.write_text(with_second_place(file.read_text()))
            command: list[str | Path] = [
                nginx,
                "-e",
                "stderr",
                "-g",
                "daemon off;",
                "-c",
                str(file),
            ]
            with Process(command, log_file=folder / "log", directory=folder) as process:
                wait_until_ready(lambda: accepts_connections(port), what="nginx", process=process)

                def status(who: str, target: str, policy: str | None = None) -> int:
                    headers = [] if policy is None else [("X-Nexus-Auth-Policy", policy)]
                    request = http1_request(target=target, headers=headers)
                    return ask(port, people[who], request).status

                for _ in range(3):
                    for policy in (None, "registered", "team", "nope"):
                        assert status("bob", "/", policy) == 200
                        assert status("bob", "/team/", policy) == 403
                        assert status("alice", "/team/", policy) == 200
                        assert status("alice", "/", policy) == 200
                        assert status("nobody", "/team/", policy) == 403
                        assert status("bob", "/.nexus-auth-subrequest-team", policy) == 404
                grants = [
                    (line["hotkey"], line.get("policy"))
                    for line in service.lines("decision")
                    if line["outcome"] == "granted"
                ]
                # Asked once for each caller and place, then kept.
                alice, bob = a_hotkey("alice").address, a_hotkey("bob").address
                assert sorted(grants, key=str) == sorted(
                    [(bob, None), (alice, None), (alice, "team")], key=str
                )
                assert all(
                    record.hotkeys == [alice if "/team/" in record.line else record.hotkeys[0]]
                    for record in application.records
                )
