"""The page of the Go original, line by line: what it promises holds here, or is said to differ.

Each test quotes the lines that it holds, of the page of October 2025 and, where marked (2026), of
the one that came after it. What differs on purpose is in `docs/migrating.md`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from nexus_auth.adapters.addresses import parse_listen_address
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.issuing import Credentials
from nexus_auth.entrypoints.settings import Settings
from tests.builders import a_certificate, a_hotkey, a_key, organization, to_nginx_header, to_pem
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import Process, free_port, wait_until_ready
from tests.integration.service.running import RunningService, a_header, register, request
from tests.pages import ROOT

COMMAND: Final = (sys.executable, "-m", "nexus_auth")
NETUID: Final = "1"


@pytest.fixture(scope="module")
def pylon() -> Iterator[RunningPylon]:
    """A Pylon of the first generation, as far as the page uses it: one subnet, and no token."""
    with running_pylon() as running:
        register(running, "alice")
        yield running


@pytest.fixture(scope="module")
def service(
    pylon: RunningPylon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """The service with the two variables of the page's own example, and no subcommand."""
    folder = tmp_path_factory.mktemp("service")
    port, admin_port = free_port(), free_port()
    environment = {
        "PATH": "/usr/bin:/bin",
        "NEXUS_AUTH_LISTEN_ADDR": f"127.0.0.1:{port}",
        "NEXUS_PYLON_ENDPOINT": pylon.url,
        # Not of the page: a place of its own for each run, and every decision as JSON.
        "NEXUS_AUTH_ADMIN_ADDR": f"127.0.0.1:{admin_port}",
        "NEXUS_AUTH_LOG_FORMAT": "json",
        "NEXUS_AUTH_LOG_GRANTS": "all",
    }
    with Process(
        list(COMMAND), log_file=folder / "log", environment=environment, directory=folder
    ) as process:
        service = RunningService(process, port, admin_port)
        wait_until_ready(service.is_ready, what="the service", process=process)
        yield service


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `nexus-auth` to its end, in a folder."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env={"PATH": "/usr/bin:/bin", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def identity_of(pylon: RunningPylon) -> dict[str, str]:
    """The variables of the page of 2026."""
    return {
        "NEXUS_PYLON_ENDPOINT": pylon.url,
        "NEXUS_PYLON_NETUID": NETUID,
        "NEXUS_PYLON_IDENTITY_NAME": pylon.identity_name,
        "NEXUS_PYLON_IDENTITY_TOKEN": pylon.token,
    }


class TestConfiguration:
    """What configures the service.

    "Set configuration via environment variables or flags".
    """

    def test_defaults(self) -> None:
        """Two variables have a default, and a third one since 2026.

        "NEXUS_AUTH_LISTEN_ADDR (default: :8080)", "NEXUS_PYLON_ENDPOINT (default:
        http://pylon:8000)"; "NEXUS_AUTH_CACHE_DURATION_MINS (default: 15)" (2026).
        """
        settings = Settings.load(environ={})
        assert settings.listen_addr == parse_listen_address(":8080")
        assert str(settings.pylon_endpoint) == "http://pylon:8000"
        assert settings.cache_duration_mins == 15

    def test_every_variable_is_read(self) -> None:
        """No name of the page is unknown.

        "NEXUS_PYLON_NETUID", "NEXUS_PYLON_IDENTITY_NAME", "NEXUS_PYLON_IDENTITY_TOKEN" (2026).
        """
        settings = Settings.load(
            environ={
                "NEXUS_AUTH_LISTEN_ADDR": ":9090",
                "NEXUS_PYLON_ENDPOINT": "http://other:1",
                "NEXUS_PYLON_NETUID": "12",
                "NEXUS_PYLON_IDENTITY_NAME": "miner",
                "NEXUS_PYLON_IDENTITY_TOKEN": "your-identity-token",
                "NEXUS_AUTH_CACHE_DURATION_MINS": "3",
            }
        )
        assert settings.listen_addr == parse_listen_address(":9090")
        assert str(settings.pylon_endpoint) == "http://other:1"
        assert (settings.netuid, settings.identity_name) == (12, "miner")
        assert settings.identity_token == "your-identity-token"
        assert settings.cache_duration_mins == 3
        assert settings.unknown == ()

    def test_flags_win_over_the_environment(self, tmp_path: Path) -> None:
        """With one dash, as the page writes them.

        "Simple configuration via environment variables or flags".
        """
        shown = run(
            *("config", "show", "-listen-addr", ":9091", "-pylon-endpoint", "http://flag:2"),
            folder=tmp_path,
            NEXUS_AUTH_LISTEN_ADDR=":9090",
            NEXUS_PYLON_ENDPOINT="http://variable:1",
        ).stdout
        assert ":9091" in shown
        assert "http://flag:2" in shown
        assert "variable" not in shown
        assert ":9090" not in shown


EXAMPLE: Final = """
services:
  auth:
    image: backenddevelopersltd/nexus-auth:latest
    environment:
      NEXUS_AUTH_LISTEN_ADDR: ":8080"
      NEXUS_PYLON_ENDPOINT: "http://pylon:8000"
      NEXUS_PYLON_NETUID: "1"
      NEXUS_PYLON_IDENTITY_NAME: "miner"
      NEXUS_PYLON_IDENTITY_TOKEN: "your-identity-token"
    volumes:
      - ./certs:/app/certs
    restart: unless-stopped
"""
"""The page's example for docker compose (2026; the one of 2025 has the first two variables)."""


class TestContainer:
    """What the page's containers are given."""

    def test_its_example_configures_our_image(self) -> None:
        """The environment is valid, and the volume is the folder of certificates.

        "services: auth: environment: ... volumes: - ./certs:/app/certs".
        """
        service = yaml.safe_load(EXAMPLE)["services"]["auth"]
        assert Settings.load(environ=service["environment"]).unknown == ()
        first_two = dict(list(service["environment"].items())[:2])
        assert Settings.load(environ=first_two).unknown == ()
        (volume,) = service["volumes"]
        dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
        assert f"VOLUME {volume.partition(':')[2]}" in dockerfile

    def test_our_own_compose_file_has_the_same_keys(self) -> None:
        """The command of the page starts ours, with its keys.

        "docker compose -p nexus up -d".
        """
        ours: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
        example = yaml.safe_load(EXAMPLE)["services"]["auth"]
        auth = ours["services"]["auth"]
        assert set(example) <= set(auth)
        assert (auth["volumes"], auth["restart"]) == (example["volumes"], example["restart"])
        assert set(auth["environment"]) >= set(example["environment"]) - {"NEXUS_AUTH_LISTEN_ADDR"}
        assert {"auth", "pylon", "nginx"} <= set(ours["services"])

    def test_generate_in_a_container_writes_into_the_volume(self) -> None:
        """The command is an argument of the entry point, and ./certs is /app/certs there.

        "docker run --rm -it -v ./certs:/app/certs ... generate"; "Use the run subcommand
        (default)".
        """
        dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
        final = dockerfile[dockerfile.rindex("\nFROM ") :]
        assert 'ENTRYPOINT ["nexus-auth"]' in final
        assert 'CMD ["run"]' in final  # "Use the run subcommand (default)"
        assert "WORKDIR /app\n" in final


@dataclass(frozen=True, slots=True)
class Made:
    """What `generate` left: its folder, when it began, and the key on chain then."""

    folder: Path
    began: datetime
    on_chain: bytes | None

    @property
    def certificate(self) -> bytes:
        """The certificate, as PEM."""
        return (self.folder / "certs/client.crt").read_bytes()


@pytest.fixture(scope="module")
def made(pylon: RunningPylon, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What the command of the page of 2026 made, in the folder where it was run."""
    folder, began = tmp_path_factory.mktemp("generate"), datetime.now(UTC)
    finished = run(
        *("generate", "-ss58-address", str(pylon.hotkey)), folder=folder, **identity_of(pylon)
    )
    assert finished.returncode == 0, finished.stderr
    return Made(folder, began, pylon.store.certificate(pylon.hotkey))


class TestGenerate:
    """What `generate` does.

    "Generate a client key and certificate (via Pylon)".
    """

    def test_creates_and_publishes_a_pair(self, made: Made) -> None:
        """Both files are there, and the chain has their key.

        "request a keypair from Pylon and create client.key and client.crt locally. Pylon will
        handle publishing certificate data to the blockchain."
        """
        pair = Credentials.from_pem(
            key_pem=(made.folder / "certs/client.key").read_bytes(),
            certificate_pem=made.certificate,
        )
        assert pair.certificate.public_key == made.on_chain

    def test_address_is_in_the_subject_organization(self, pylon: RunningPylon, made: Made) -> None:
        """Once, and nowhere else.

        "The SS58 address is stored in the certificate Subject Organization (O) field."
        """
        certificate = x509.load_pem_x509_certificate(made.certificate)
        (organisation,) = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        assert organisation.value == str(pylon.hotkey)

    def test_is_valid_for_ten_years_by_default(self, made: Made) -> None:
        """To the day.

        "-not-after-days can set the certificate validity in days. Default is 3650 (10 years)."
        """
        end = ClientCertificate.from_pem(made.certificate).not_after
        longer = end - made.began - timedelta(days=3650)
        assert timedelta(seconds=-1) <= longer < timedelta(minutes=5)  # it counts whole seconds

    def test_skips_an_existing_pair_and_force_recreates_it(
        self, pylon: RunningPylon, made: Made, tmp_path: Path
    ) -> None:
        """Nothing is asked or changed, until it is forced; with one dash or two.

        "If both client.crt and client.key already exist in the output directory, generation will be
        skipped to avoid accidental overwrites. Use --force-recreate to override this behavior."
        """
        address = ("-ss58-address", str(pylon.hotkey))
        shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
        key = tmp_path / "certs/client.key"
        before, requests = key.read_bytes(), len(pylon.requests)
        skipped = run("generate", *address, folder=tmp_path, **identity_of(pylon))
        assert (skipped.returncode, key.read_bytes()) == (0, before)
        assert len(pylon.requests) == requests
        for force in ("--force-recreate", "-force-recreate"):
            forced = run(
                *("generate", *address, force, "-not-after-days", "7"),
                folder=tmp_path,
                **identity_of(pylon),
            )
            assert forced.returncode == 0, forced.stderr
            assert key.read_bytes() != before
            before = key.read_bytes()
        certificate = ClientCertificate.from_pem((tmp_path / "certs/client.crt").read_bytes())
        assert certificate.not_after - datetime.now(UTC) < timedelta(days=7)


class TestDecisions:
    """What the auth listener answers.

    "Auth Service Endpoints", "Response Codes".
    """

    def test_granted(self, service: RunningService) -> None:
        """A registered caller is let in under its hotkey.

        "200 OK: Certificate validation successful, access granted"; "Forward the client's SS58
        address (hotkey) to the upstream as X-Hotkey" (2026).
        """
        answer = service.ask(a_header("alice"))
        assert (answer.status, answer.body) == (200, b"Access granted")
        assert answer.headers["X-Hotkey"] == str(a_hotkey("alice"))

    def test_get_of_the_root_is_a_sign_of_life(self, service: RunningService) -> None:
        """It always answers: 403 without a certificate, as the original does.

        "GET / - Health check and certificate validation endpoint".
        """
        answer = request(service.connect(), "/", {})
        assert answer.status == 403

    @pytest.mark.parametrize(
        ("certificate", "reason", "body"),
        [
            pytest.param(
                None, "no-certificate", "No client certificate", id="No X-Client-Cert header"
            ),
            pytest.param(
                b"nonsense", "malformed-certificate", "Invalid certificate", id="Invalid format"
            ),
            pytest.param("nameless", "no-organization", "No organization", id="No organization"),
            pytest.param(
                "mallory", "not-registered", "Organization not authorized", id="Not authorized"
            ),
            pytest.param(
                "alice by mallory",
                "key-mismatch",
                "Certificate validation failed",
                id="Public key doesn't match",
            ),
        ],
    )
    def test_denied(
        self, service: RunningService, certificate: str | bytes | None, reason: str, body: str
    ) -> None:
        """Each of the five causes of the page is one row.

        "403 Forbidden: Certificate validation failed, access denied".
        """
        if certificate == "nameless":
            now = datetime.now(UTC)
            nameless = a_certificate(
                subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]),
                not_before=now - timedelta(hours=1),
                not_after=now + timedelta(hours=1),
            )
            header: bytes | None = to_nginx_header(nameless)
        elif isinstance(certificate, str):
            name, _, key_of = certificate.partition(" by ")
            header = a_header(name, key_of=key_of or name)
        else:
            header = certificate
        answer = service.ask(header)
        assert (answer.status, answer.reason) == (403, reason)
        assert answer.body.decode().startswith(f"Access denied: {body}")
        assert "X-Hotkey" not in answer.headers

    def test_only_the_certificate_and_pylon_decide(
        self, service: RunningService, pylon: RunningPylon
    ) -> None:
        """The first generation's path is asked.

        "Query Pylon for the expected public key using the Organization value as hotkey"; "Compare
        the certificate's public key with the public key returned by Pylon".
        """
        assert {each.path for each in pylon.requests if each.method == "GET"} >= {
            "/api/v1/certificates"
        }
        carol = a_certificate(
            hotkey=a_hotkey("alice"),
            key=a_key("carol"),
            subject=x509.Name([organization(str(a_hotkey("alice")))]),
            not_before=datetime.now(UTC) - timedelta(hours=1),
            not_after=datetime.now(UTC) + timedelta(hours=1),
        )
        assert service.ask(to_nginx_header(carol)).reason == "key-mismatch"

    def test_every_header_of_the_page_is_read(self, service: RunningService) -> None:
        """The certificate decides, and the log repeats the others.

        "X-Client-Cert-Subject - Client certificate subject DN", "X-Client-Cert-Issuer - ...",
        "X-Original-URI - ...", "X-Original-Method - ..."; "Comprehensive logging for debugging and
        monitoring".
        """
        subject = f"O={a_hotkey('alice')}"
        answer = service.ask(
            a_header("alice"),
            **{
                "X-Client-Cert-Subject": subject,
                "X-Client-Cert-Issuer": f"{subject},CN=issuer",
                "X-Original-URI": "/a/path?token=s3cret",
                "X-Original-Method": "POST",
            },
        )
        assert answer.status == 200
        line = service.lines("decision")[-1]
        assert (line["outcome"], line["hotkey"]) == ("granted", str(a_hotkey("alice")))
        assert (line["proxy_subject"], line["proxy_issuer"]) == (subject, f"{subject},CN=issuer")
        assert (line["method"], line["uri"]) == ("POST", "/a/path")

    def test_the_header_is_url_escaped_pem(self) -> None:
        """It is what the tests above send.

        "X-Client-Cert - URL-escaped client certificate in PEM format".
        """
        certificate = a_certificate()
        assert to_nginx_header(certificate).startswith(b"-----BEGIN%20CERTIFICATE-----%0A")
        assert to_pem(certificate).startswith(b"-----BEGIN CERTIFICATE-----\n")


NGINX: Final = re.sub(r"#.*", "", (ROOT / "nginx/conf.d/default.conf").read_text("utf-8"))


class TestNginx:
    """The nginx configuration; `tests/integration/nginx` runs it.

    "Integrate with your reverse proxy".
    """

    @pytest.mark.parametrize(
        "line",
        [
            "auth_request /auth;",
            "auth_request_set $client_hotkey $upstream_http_x_hotkey;",
            "proxy_set_header X-Hotkey $client_hotkey;",
            "proxy_set_header X-Real-IP $remote_addr;",
            "proxy_set_header X-Client-Cert $ssl_client_escaped_cert;",
            "proxy_set_header X-Client-Cert-Subject $nexus_auth_subject;",
            "proxy_set_header X-Client-Cert-Issuer $nexus_auth_issuer;",
            "proxy_set_header X-Original-URI $request_uri;",
            "proxy_set_header X-Original-Method $request_method;",
            "ssl_verify_client optional_no_ca;",
        ],
    )
    def test_does_what_the_page_says(self, line: str) -> None:
        """Every directive that the page describes is there.

        "Nginx makes internal subrequest to auth service with certificate headers"; "X-Real-IP (set
        from $remote_addr, not from a client-supplied header)" (2026).
        """
        assert line in NGINX

    def test_one_line_is_to_be_changed(self) -> None:
        """It is the name of the application, which stands in one place.

        "This is the only line that requires a manual change" (2026).
        """
        text = (ROOT / "nginx/conf.d/default.conf").read_text("utf-8")
        assert text.count("CHANGE THIS") == 1
        assert NGINX.count("default example;") == 1
        assert "proxy_pass http://$application;" in NGINX


@pytest.mark.parametrize(
    "target",
    ["help", "all", "build", "build-docker", "format", "lint", "test", "coverage", "clean"],
)
def test_make_has_the_targets_of_the_page(target: str) -> None:
    """Each can be run, and `make help` explains it.

    "Common targets".
    """
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(rf"^{target}:.*## .+$", makefile, re.MULTILINE)
    dry = ["make", "--dry-run", target]
    subprocess.run(dry, cwd=ROOT, capture_output=True, check=True, timeout=30)


def test_make_all_is_the_full_pipeline() -> None:
    """All steps but `clean`, which would remove what the others need.

    "make all - Full build pipeline (build, clean, format, lint, test)".
    """
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (steps,) = re.findall(r"^all:.*\n((?:\t\$\(MAKE\) \w+\n)+)", makefile, re.MULTILINE)
    assert re.findall(r"MAKE\) (\w+)", steps) == ["format", "lint", "build", "test"]


def test_the_parts_are_where_the_page_has_them() -> None:
    """What does not depend on the language is in its place.

    "Project Structure".
    """
    for name in ("nginx", "Dockerfile", "Makefile", "docker-compose.yml"):
        assert (ROOT / name).exists()
