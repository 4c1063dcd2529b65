"""What the files around the code promise to those who build, run and ship it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from bench.end_to_end import shipped_configuration, shipped_text
from bench.tls import without_authorisation
from nexus_auth.entrypoints.cli import COMMANDS, build_parser

ROOT: Final = Path(__file__).resolve().parents[2]

CERTIFICATE_HEADERS: Final = (
    *("X-Client-Cert", "X-Client-Cert-Subject", "X-Client-Cert-Issuer"),
    *("Ssl-Client-Cert", "X-Forwarded-Client-Cert", "Client-Cert"),
    *("X-Forwarded-Tls-Client-Cert", "X-Amzn-Mtls-Clientcert"),
)
"""Every header in which some proxy hands a certificate, or what is in it, on."""


def read(name: str) -> str:
    """The text of one of the project's files."""
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The project table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
    return table


class Dockerfile:
    """The instructions of the Dockerfile, stage by stage."""

    def __init__(self) -> None:
        self.stages: list[list[tuple[str, str]]] = []
        text = re.sub(r"^\s*#.*\n", "", read("Dockerfile"), flags=re.MULTILINE)
        for line in text.replace("\\\n", " ").splitlines():
            instruction, _, arguments = line.strip().partition(" ")
            if instruction == "FROM":
                self.stages.append([])
            if instruction and self.stages:
                self.stages[-1].append((instruction, arguments.strip()))

    def final(self, instruction: str) -> list[str]:
        """The arguments of an instruction in the stage that is shipped."""
        return [arguments for name, arguments in self.stages[-1] if name == instruction]


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    """The parsed Dockerfile."""
    return Dockerfile()


def test_image_runs_the_service_unless_told_otherwise(dockerfile: Dockerfile) -> None:
    """`docker run nexus-auth` runs; `docker run nexus-auth generate ...` issues."""
    assert [json.loads(line) for line in dockerfile.final("ENTRYPOINT")] == [["nexus-auth"]]
    assert [json.loads(line) for line in dockerfile.final("CMD")] == [["run"]]


def test_image_runs_as_uid_1000(dockerfile: Dockerfile) -> None:
    """The process is nobody special, in a way that Kubernetes can check."""
    assert dockerfile.final("USER") == ["1000:1000"]
    commands = " ".join(dockerfile.final("RUN"))
    assert "useradd --uid 1000 --gid nexus" in commands
    assert "install --directory --owner=nexus --group=nexus /app /app/certs" in commands


def test_image_has_the_program_where_the_original_has_it(dockerfile: Dockerfile) -> None:
    """A Kubernetes file that starts /usr/bin/nexus-auth goes on working."""
    commands = " ".join(dockerfile.final("RUN"))
    assert "ln -s /opt/nexus-auth/bin/nexus-auth /usr/bin/nexus-auth" in commands
    assert dockerfile.final("COPY") == ["--from=builder /opt/nexus-auth /opt/nexus-auth"]


def test_image_keeps_certificates_in_a_volume(dockerfile: Dockerfile) -> None:
    """`-v ./certs:/app/certs` works, and ./certs is the default output folder."""
    assert dockerfile.final("WORKDIR") == ["/app"]
    assert dockerfile.final("VOLUME") == ["/app/certs"]


def test_image_checks_its_health_without_curl(dockerfile: Dockerfile) -> None:
    """The admin listener is asked, by a program that the image has."""
    (check,) = dockerfile.final("HEALTHCHECK")
    command = json.loads(check[check.index("CMD") + len("CMD") :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    assert "'127.0.0.1', 8081" in command[2]
    assert "'/healthz'" in command[2]


def test_final_stage_installs_nothing(dockerfile: Dockerfile) -> None:
    """Compilers and package managers stay in the builder."""
    assert len(dockerfile.stages) == 2
    commands = " ".join(dockerfile.final("RUN"))
    assert not re.search(r"\b(pip3? install|apt-get|gcc|apk)\b", commands)
    assert "rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip" in commands


def test_image_is_built_from_listed_files_only() -> None:
    """No certificate, token or database can slip into an image."""
    lines = [line for line in read(".dockerignore").splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    admitted = {line[1:] for line in lines if line.startswith("!")}
    assert admitted == {"LICENSE", "README.md", "pyproject.toml", "src"}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", read("Dockerfile"), re.MULTILINE)
    assert {name for line in copied for name in line.split()} == admitted


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file."""
    table: dict[str, Any] = yaml.safe_load(read("docker-compose.yml"))["services"]
    return table


def test_compose_brings_the_service_a_pylon_and_nginx(services: dict[str, Any]) -> None:
    """One command starts all there is to see."""
    started = {name for name, service in services.items() if "profiles" not in service}
    assert started == {"auth", "pylon", "nginx"}
    assert services["nginx"]["ports"] == ["8443:8443"]
    assert "./certs:/app/certs" in services["auth"]["volumes"]
    assert "ports" not in services["auth"]  # only the proxy may ask it


def test_compose_runs_commands_that_exist(services: dict[str, Any]) -> None:
    """A command that was renamed would only be missed when somebody tries."""
    assert "command" not in services["auth"]  # the image's own: run
    assert services["generate"]["entrypoint"] == ["nexus-auth", "generate"]
    assert "generate" in COMMANDS
    arguments = services["pylon"]["command"]
    build_parser(only=arguments[0]).parse_args(arguments)


@pytest.mark.parametrize("name", ["auth", "pylon", "generate"])
def test_compose_locks_our_containers_down(services: dict[str, Any], name: str) -> None:
    """Nothing is granted that is not needed."""
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service


def test_compose_mounts_files_that_exist(services: dict[str, Any]) -> None:
    """What is mounted is in the repository, or is made by the container."""
    made_by_the_container = {"./nginx/ssl"}
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("./") and source not in made_by_the_container:
                assert (ROOT / source).is_dir(), source


def find_location(name: str) -> str:
    """The body of one location of the development nginx configuration, without comments."""
    text = re.sub(r"#.*", "", read("nginx/conf.d/default.conf"))
    found = re.search(rf"location {re.escape(name)} {{(.*?)\n    }}", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_nginx_gives_the_application_only_what_was_proven() -> None:
    """A client cannot name itself, nor bring a certificate by header."""
    location = find_location("/")
    assert "auth_request /auth;" in location
    assert "auth_request_set $client_hotkey $upstream_http_x_hotkey;" in location
    assert "proxy_set_header X-Hotkey $client_hotkey;" in location
    for header in CERTIFICATE_HEADERS:
        assert f'proxy_set_header {header} "";' in location


def test_nginx_gives_the_auth_service_nothing_that_a_client_wrote() -> None:
    """The only certificate is the one of the TLS connection."""
    location = find_location("= /auth")
    for directive in (
        "internal;",
        "proxy_pass_request_headers off;",
        "proxy_pass_request_body off;",
        'proxy_set_header Content-Length "";',
        "proxy_set_header X-Client-Cert $ssl_client_escaped_cert;",
    ):
        assert directive in location


def test_nginx_reuses_grants_by_certificate_and_only_as_told() -> None:
    """Two certificates or locations never share an answer, and nginx invents no lifetime."""
    location = find_location("= /auth")
    assert "proxy_cache_key $uri$ssl_client_fingerprint;" in location
    assert "proxy_cache_valid" not in location
    assert "proxy_cache_use_stale" not in location
    assert "proxy_cache_lock" not in location  # makes callers wait for half a second at a time


def test_nginx_keeps_grants_in_memory_with_room_to_spare(services: dict[str, Any]) -> None:
    """On a full or read-only disk it would drop every granted request."""
    text = read("nginx/conf.d/default.conf")
    cache = re.search(
        r"^proxy_cache_path (\S+) [^;]*max_size=(\d+)m min_free=(\d+)m", text, re.MULTILINE
    )
    (mount,) = services["nginx"]["tmpfs"]
    place, _, size = mount.partition(":size=")
    assert cache is not None
    assert place == cache[1]
    # nginx looks every ten seconds; until then it stores more than it may keep.
    assert int(size.removesuffix("m")) >= 8 * int(cache[2])
    assert int(size.removesuffix("m")) > int(cache[3])


def test_nginx_gives_up_idle_connections_before_the_other_side_does() -> None:
    """What is sent while the other side closes is lost."""
    text = read("nginx/conf.d/default.conf")
    assert text.count("keepalive 32;") == text.count("keepalive_timeout 3s;") == 1


def test_the_benchmark_measures_the_nginx_configuration_that_we_ship() -> None:
    """It still finds everything that it replaces there, and leaves TLS and the example out."""
    text = shipped_configuration(1, 2, "127.0.0.1:3", Path("/cache"))
    assert text.count("\nserver {") == 1
    assert "proxy_cache_key" in text
    assert re.search(r"^\s*ssl_|listen 8443", text, flags=re.MULTILINE) is None


def test_the_benchmark_over_tls_takes_out_authorisation_and_nothing_else() -> None:
    """Otherwise it would compare a configuration with itself, or with another one."""
    text = shipped_text(2, "127.0.0.1:3", Path("/cache"))
    bare = without_authorisation(text, "HOTKEY").splitlines()
    changed = [
        (old.split()[0], new.strip())
        for old, new in zip(text.splitlines(), bare, strict=True)
        if old != new
    ]
    assert changed[:2] == [("auth_request", ""), ("auth_request_set", "set $client_hotkey HOTKEY;")]
    assert {old for old, _ in changed} == {"auth_request", "auth_request_set"}


def test_make_offers_what_the_readers_of_the_readme_expect() -> None:
    """The targets of the original are all there, and some more."""
    said = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    offered = {line.split()[0] for line in said.splitlines()}
    assert offered >= {
        *("help", "all", "build", "build-docker", "format", "lint", "test", "coverage", "clean"),
        *("demo", "bench", "soak", "fuzz"),
    }
    subprocess.run(
        ["make", "--dry-run", "docker-build"], cwd=ROOT, capture_output=True, check=True, timeout=30
    )


@pytest.mark.parametrize("name", [".ci/run", "scripts/bootstrap.sh"])
def test_scripts_can_be_started_and_stop_at_the_first_failure(name: str) -> None:
    """A step that fails is never followed by a success."""
    assert os.access(ROOT / name, os.X_OK)
    assert read(name).startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in read(name)
    subprocess.run(["bash", "-n", str(ROOT / name)], check=True, timeout=30)


def test_ci_ends_with_the_tests_and_requires_real_servers() -> None:
    """The test runner's summary is the last thing printed, and no test is quietly skipped."""
    commands = [
        shlex.split(line, comments=True)
        for line in read(".ci/run").splitlines()
        if line and not line.startswith("#")
    ]
    assert ["export", "NEXUS_AUTH_REQUIRE_REAL=1"] in commands
    assert commands[-1] == ["make", "test"]


def test_every_runtime_dependency_is_justified(project: dict[str, Any]) -> None:
    """A page says of each package why it is there, and of no package that is not."""
    page = read("docs/dependencies.md")
    always, _, extras = page.partition("## Extras")
    named = {re.split(r"[\[>;]", requirement)[0] for requirement in project["dependencies"]}
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", always, re.MULTILINE)) == named
    explained = set(re.findall(r"^\| `([a-z0-9-]+)` \|", extras, re.MULTILINE))
    assert explained == set(project["optional-dependencies"])


def test_dependencies_have_lower_bounds_only(project: dict[str, Any]) -> None:
    """A library leaves pinning to the application that uses it."""
    extras = project["optional-dependencies"].values()
    for requirement in [*project["dependencies"], *(each for extra in extras for each in extra)]:
        if requirement.startswith("nexus-auth["):
            continue
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?>=[0-9.]+(; .+)?", requirement), requirement


def test_changelog_puts_security_first() -> None:
    """What matters most to somebody who upgrades is read first."""
    unreleased = read("CHANGELOG.md").partition("## [Unreleased]")[2].partition("\n## ")[0]
    assert re.findall(r"^### (.+)$", unreleased, re.MULTILINE)[0] == "Security"
