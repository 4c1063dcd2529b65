"""`nexus-auth doctor` and `nexus-auth status` against a real Pylon and a real TLS listener."""

from __future__ import annotations

import json
import os
import re
import shlex
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nexus_auth.adapters.clock import utc_now
from nexus_auth.entrypoints.cli import main
from nexus_auth.entrypoints.diagnostics import proxy_checks
from nexus_auth.entrypoints.diagnostics.findings import Outcome
from nexus_auth.entrypoints.diagnostics.pylon_checks import judge_clock
from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_nginx_header, to_pem
from tests.integration.nginx.test_development_configuration import Recorder, running_house
from tests.integration.proxies.stack import make_server_certificate
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import free_port

ALICE = a_hotkey("alice")


@pytest.fixture
def pylon() -> Iterator[RunningPylon]:
    """A Pylon that knows alice."""
    with running_pylon() as running:
        running.store.set_certificate(ALICE, public_bytes(a_key("alice")))
        yield running


@pytest.fixture(autouse=True)
def _settings(pylon: RunningPylon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_PYLON_ENDPOINT", pylon.url)
    monkeypatch.setenv("NEXUS_PYLON_NETUID", str(pylon.netuid))
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_NAME", pylon.identity_name)
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_TOKEN", pylon.token)


def save_pair(folder: Path, *, key: str = "alice", signer: str = "alice", days: int = 365) -> None:
    """Writes a key pair as `generate` does."""
    folder.mkdir(exist_ok=True)
    now = utc_now()
    certificate = a_certificate(
        hotkey=ALICE,
        key=a_key(key),
        signed_by=a_key(signer),
        not_before=now - timedelta(days=400),
        not_after=now + timedelta(days=days),
    )
    (folder / "client.crt").write_bytes(to_pem(certificate))
    private = a_key(key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "client.key").write_bytes(private)
    (folder / "client.key").chmod(0o600)


def examine(
    capsys: pytest.CaptureFixture[str], command: str, *arguments: str
) -> tuple[int, dict[str, dict[str, str]]]:
    """Runs a command; the findings by subject (the last one of each)."""
    code = main([command, "--json", *arguments])
    document: Any = json.loads(capsys.readouterr().out)
    findings = document["findings"] if isinstance(document, dict) else document
    return code, {finding["subject"]: finding for finding in findings}


def test_everything_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    """A pair that the chain has, a Pylon that answers, a clock that agrees."""
    save_pair(Path("certs"))
    code, found = examine(capsys, "doctor")
    assert code == 0
    assert {subject: finding["outcome"] for subject, finding in found.items()} == {
        "configuration": "ok",
        "Pylon": "ok",
        "clock": "ok",
        "certificate": "ok",
        "private key": "ok",
        "on chain": "ok",
        "proxy": "skipped",
    }


def test_people_are_told_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readable form names the setting to look at, and no secret."""
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_TOKEN", "a-wrong-token")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert "-> " in out
    assert "NEXUS_PYLON_IDENTITY_TOKEN" in out
    assert "a-wrong-token" not in out


def test_wrong_netuid_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pylon redirects to the identity's own netuid; that is told, not followed."""
    monkeypatch.setenv("NEXUS_PYLON_NETUID", "77")
    code, found = examine(capsys, "doctor")
    assert code == 1
    assert "NEXUS_PYLON_NETUID" in found["Pylon"]["next_step"]


@pytest.mark.parametrize("generation", ["first", "later"])
def test_pylon_of_the_other_generation_is_wrong(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pylon: RunningPylon,
    generation: str,
) -> None:
    """A Pylon that knows none of the paths is not one that lacks the bulk answer alone."""
    if generation == "first":
        missing, step = "/subnet/", "unset NEXUS_PYLON_NETUID"
    else:
        missing, step = "^/api/v1/certificates", "set NEXUS_PYLON_NETUID"
        for setting in ("NETUID", "IDENTITY_NAME", "IDENTITY_TOKEN"):
            monkeypatch.delenv(f"NEXUS_PYLON_{setting}")
    pylon.fail_with(404, where=missing)
    code, found = examine(capsys, "doctor")
    assert (code, found["Pylon"]["outcome"]) == (1, "wrong")
    assert step in found["Pylon"]["next_step"]
    if generation == "first":
        for setting in re.findall(r"NEXUS_\w+", found["Pylon"]["next_step"]):
            monkeypatch.delenv(setting)
        code, found = examine(capsys, "doctor")
        assert (code, found["Pylon"]["outcome"]) == (0, "ok")


def test_pylon_without_a_bulk_answer_is_a_warning(
    capsys: pytest.CaptureFixture[str], pylon: RunningPylon
) -> None:
    """It serves, a hotkey at a time."""
    pylon.fail_with(404, where="/block/latest/certificates$")
    code, found = examine(capsys, "doctor")
    assert (code, found["Pylon"]["outcome"]) == (0, "warning")


@contextmanager
def something_else(
    answers: dict[str, bytes], pair: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """Not the Pylon that is configured: a server that answers these paths, and else not found.

    With a certificate and its key it speaks TLS.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path, b'{"status_code":404,"detail":"Not Found"}')
            self.send_response(200 if self.path in answers else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if pair is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"{'http' if pair is None else 'https'}://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("answers", "text", "next_step"),
    [
        ({"/api/v1/certificates": b"{}"}, "the first generation's", "unset NEXUS_PYLON_NETUID"),
        ({}, "does not speak the identity API", "NEXUS_PYLON_ENDPOINT"),
    ],
    ids=["first generation", "no Pylon"],
)
def test_other_api_than_the_configured_one_is_wrong(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, bytes],
    text: str,
    next_step: str,
) -> None:
    """Such a service would refuse everybody."""
    with something_else(answers) as url:
        monkeypatch.setenv("NEXUS_PYLON_ENDPOINT", url)
        code, found = examine(capsys, "doctor")
    assert code == 1
    assert text in found["Pylon"]["text"]
    assert next_step in found["Pylon"]["next_step"]


def test_private_authority_that_this_machine_trusts_is_trusted(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pylon: RunningPylon,
    tmp_path: Path,
) -> None:
    """By every question to Pylon, that for the time included; without it, the advice names it."""
    pair = make_server_certificate(tmp_path)
    root = f"/api/v1/identity/{pylon.identity_name}/subnet/{pylon.netuid}"
    with something_else({f"{root}/block/latest/certificates": b"{}"}, pair) as url:
        monkeypatch.setenv("NEXUS_PYLON_ENDPOINT", url)
        code, found = examine(capsys, "doctor")
        assert code == 3
        assert "SSL_CERT_FILE" in found["Pylon"]["next_step"]
        monkeypatch.setenv("SSL_CERT_FILE", str(pair[0]))
        code, found = examine(capsys, "doctor")
    assert code == 0
    assert found["Pylon"]["outcome"] == "ok"
    assert found["clock"]["outcome"] == "ok"


def test_pylon_that_is_away_is_unreachable(
    capsys: pytest.CaptureFixture[str], pylon: RunningPylon
) -> None:
    """Exit code 3 tells a script that nothing is known, rather than that something is wrong."""
    save_pair(Path("certs"))
    pylon.stop()
    code, found = examine(capsys, "doctor")
    assert code == 3
    assert found["Pylon"]["outcome"] == "unreachable"
    code, found = examine(capsys, "status")
    assert code == 3
    assert found["on chain"]["outcome"] == "unreachable"
    assert main(["status", "--offline"]) == 0


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("NEXUS_AUTH_POLICY_FILE", "policy.toml", "not valid TOML"),
        ("NEXUS_AUTH_POLICY_FILE", "nowhere.toml", "No such file"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "redis://host/0?no_such_option=1", "SNAPSHOT_STORE"),
    ],
)
def test_setting_that_the_service_does_not_start_with_is_wrong(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    text: str,
) -> None:
    """What stands in files, and what only the package of Redis understands, is looked at too."""
    Path("policy.toml").write_text("[policies")
    monkeypatch.setenv(name, value)
    code, found = examine(capsys, "doctor")
    assert code == 1
    assert found["configuration"]["outcome"] == "wrong"
    assert text in found["configuration"]["text"]
    assert found["Pylon"]["outcome"] == "ok"


def test_settings_of_every_kind_are_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody but Pylon is asked: the Redis that is named does not exist."""
    Path("policy.toml").write_text("[policies.all]")
    monkeypatch.setenv("NEXUS_AUTH_POLICY_FILE", "policy.toml")
    monkeypatch.setenv("NEXUS_AUTH_SNAPSHOT_STORE", "redis://:pw@127.0.0.1:9/0")
    code, found = examine(capsys, "doctor")
    assert code == 0
    assert found["configuration"]["outcome"] == "ok"


def test_misspelt_setting_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is no setting has no effect, which is worth knowing."""
    monkeypatch.setenv("NEXUS_AUTH_REUSE_SECOND", "1")
    code, found = examine(capsys, "doctor")
    assert code == 0
    assert found["configuration"]["outcome"] == "warning"
    assert "NEXUS_AUTH_REUSE_SECONDS" in found["configuration"]["text"]


@pytest.mark.parametrize(
    ("pair", "subject", "outcome", "text"),
    [
        ({"days": -1}, "certificate", "wrong", "expired"),
        ({"days": 5}, "certificate", "warning", "4 days left"),
        ({"signer": "bob"}, "certificate", "wrong", "bad-signature"),
        ({"key": "bob", "signer": "bob"}, "on chain", "wrong", "another key"),
    ],
)
def test_pair_that_is_not_good_is_named(
    capsys: pytest.CaptureFixture[str],
    pair: dict[str, Any],
    subject: str,
    outcome: str,
    text: str,
) -> None:
    """Each way in which a pair is of no use, or soon will be."""
    save_pair(Path("certs"), **pair)
    code, found = examine(capsys, "status")
    assert code == (1 if outcome == "wrong" else 0)
    assert found[subject]["outcome"] == outcome
    assert text in found[subject]["text"]


@pytest.mark.parametrize("pair", [{"days": -1}, {"days": 5}, {"signer": "bob"}])
def test_advice_for_a_certificate_with_a_good_key_leaves_the_chain_alone(
    capsys: pytest.CaptureFixture[str], pylon: RunningPylon, pair: dict[str, Any]
) -> None:
    """The command that is printed makes everything well, without another key on chain."""
    folder = Path("a folder")
    save_pair(folder, **pair)
    _, found = examine(capsys, "status", str(folder))
    command = shlex.split(found["certificate"]["next_step"].partition(" makes ")[0])
    assert main(command[1:]) == 0
    capsys.readouterr()
    code, found = examine(capsys, "status", str(folder))
    assert code == 0
    assert {finding["outcome"] for finding in found.values()} == {"ok"}
    assert pylon.store.certificate(ALICE) == public_bytes(a_key("alice"))


@pytest.mark.parametrize("has_pair", [True, False])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".client-pair.1.requested.tmp", "ended without the answer"),
        (".client-pair.pending", "left a newer pair"),
    ],
)
def test_what_an_interrupted_run_left_is_a_warning(
    capsys: pytest.CaptureFixture[str], name: str, words: str, *, has_pair: bool
) -> None:
    """Even offline: the pair on disk may be worthless, and `generate` knows what to do."""
    folder = Path("certs")
    save_pair(folder)
    halves = [folder / "client.key", folder / "client.crt"]
    is_pair = name.endswith("pending")
    (folder / name).write_bytes(b"".join(each.read_bytes() for each in halves if is_pair))
    for each in halves:
        if not has_pair:
            each.unlink()
    _, found = examine(capsys, "status", "--offline", str(folder))
    assert found["earlier runs"]["outcome"] == Outcome.WARNING
    assert words in found["earlier runs"]["text"]
    assert "nexus-auth generate" in found["earlier runs"]["next_step"]


@pytest.mark.parametrize(
    ("name", "subject"), [("client.crt", "certificate"), ("client.key", "private key")]
)
def test_pipe_in_place_of_a_file_is_wrong(
    capsys: pytest.CaptureFixture[str], name: str, subject: str
) -> None:
    """A report does not wait for somebody to write into it."""
    save_pair(Path("certs"))
    path = Path("certs", name)
    path.unlink()
    os.mkfifo(path)
    code, found = examine(capsys, "status", "-offline")
    assert code == 1
    assert found[subject]["outcome"] == "wrong"


def test_key_that_others_can_read_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """The private key is its owner's alone."""
    save_pair(Path("certs"))
    Path("certs/client.key").chmod(0o644)
    code, found = examine(capsys, "status")
    assert code == 0
    assert found["private key"]["outcome"] == "warning"
    assert "chmod 600" in found["private key"]["next_step"]


@pytest.mark.parametrize("content", [None, b"", b"not a key"])
def test_key_that_is_missing_or_nonsense_is_wrong(
    capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    """A certificate without its key is of no use."""
    save_pair(Path("certs"))
    key = Path("certs/client.key")
    if content is None:
        key.unlink()
    else:
        key.write_bytes(content)
    code, found = examine(capsys, "status")
    assert code == 1
    assert found["private key"]["outcome"] == "wrong"


def test_next_step_for_a_lost_certificate_is_one_that_works(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Beside a key, generate makes no pair unless it is told what to do with the key."""
    folder = Path("a folder")
    save_pair(folder)
    (folder / "client.crt").unlink()
    code, found = examine(capsys, "status", str(folder))
    assert code == 1
    step = found["certificate"]["next_step"]
    command, _, _ = step.replace("ADDR", ALICE.address).partition(" makes one")
    assert main([*shlex.split(command)[1:], "-confirm-timeout-seconds", "0"]) == 0
    capsys.readouterr()
    assert examine(capsys, "status", "--offline", str(folder))[0] == 0


def test_next_step_for_a_pair_of_no_use_is_one_that_works(
    capsys: pytest.CaptureFixture[str], pylon: RunningPylon
) -> None:
    """It replaces the pair that was looked at, and not one elsewhere."""
    folder = Path("a folder")
    save_pair(folder, key="alice")
    (folder / "client.key").unlink()
    code, found = examine(capsys, "status", str(folder))
    assert code == 1
    step = found["private key"]["next_step"].partition("; ")[2]
    command, _, _ = step.replace("ADDR", pylon.hotkey.address).partition(" replaces")
    assert main(shlex.split(command)[1:]) == 0
    capsys.readouterr()
    assert examine(capsys, "status", str(folder))[0] == 0


def test_certificate_that_cannot_be_read_is_not_to_be_made_anew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What stands in its place would be in the way of generate too."""
    Path("certs/client.crt").mkdir(parents=True)
    code, found = examine(capsys, "status")
    assert code == 1
    assert "generate" not in found["certificate"]["next_step"]


def test_folder_that_cannot_be_searched_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of somebody else is a finding, not a traceback."""
    exists = Path.exists

    def refuse(path: Path, **options: bool) -> bool:
        if path.name == "client.crt":
            raise PermissionError
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", refuse)
    code, found = examine(capsys, "doctor")
    assert code == 1
    assert found["certificate"]["outcome"] == "wrong"


def test_unregistered_hotkey_is_wrong(
    capsys: pytest.CaptureFixture[str], pylon: RunningPylon
) -> None:
    """A wrong address gives a certificate that never works."""
    save_pair(Path("certs"))
    pylon.store.remove_neuron(ALICE)
    code, found = examine(capsys, "status", "certs")
    assert code == 1
    assert "no key of this hotkey" in found["on chain"]["text"]


def test_missing_folder_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing there is an answer as well."""
    code, found = examine(capsys, "status", "nowhere")
    assert code == 1
    assert found["certificate"]["outcome"] == "wrong"


@contextmanager
def a_proxy(
    folder: Path,
    *,
    open_to_all: bool = False,
    trusts_header: bool = False,
    insists: bool = False,
    ignores: bool = False,
) -> Iterator[str]:
    """A TLS listener that serves the pair and lets in whoever shows a client certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            connection = self.connection
            assert isinstance(connection, ssl.SSLSocket)
            known = connection.getpeercert(binary_form=True) is not None
            if ignores and not known:
                # Until the client gives up.
                connection.recv(1)
                return
            claimed = trusts_header and "X-Hotkey" in self.headers
            self.send_response(200 if known or open_to_all or claimed else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            """Stays quiet."""

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "client.crt"))
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    context.verify_mode = ssl.CERT_REQUIRED if insists else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def findings_of_proxy(capsys: pytest.CaptureFixture[str], url: str) -> tuple[int, list[str]]:
    """What the doctor says of a proxy."""
    code = main(["doctor", "--json", "--proxy", url])
    findings = json.loads(capsys.readouterr().out)
    return code, [
        f"{finding['outcome']}: {finding['text']}"
        for finding in findings
        if finding["subject"] in {"proxy", "server key"}
    ]


def test_good_proxy_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Strangers and forgers stay out, the owner is let in, and the key is the one to pin."""
    save_pair(Path("certs"))
    with a_proxy(Path("certs")) as url:
        code, said = findings_of_proxy(capsys, url)
    assert code == 0
    assert said == [
        "ok: refuses a client without a certificate (403)",
        "ok: refuses a client with forged headers and no certificate (403)",
        "ok: lets in the owner of the pair (200)",
        "ok: the proxy serves this pair, as callers pin it",
    ]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"open_to_all": True}, "LETS IN a client without a certificate (200)"),
        ({"trusts_header": True}, "LETS IN a client with forged headers"),
    ],
)
def test_proxy_that_lets_strangers_in_is_wrong(
    capsys: pytest.CaptureFixture[str], fault: dict[str, bool], told: str
) -> None:
    """The one finding that must never be missed."""
    save_pair(Path("certs"))
    with a_proxy(Path("certs"), **fault) as url:
        code, said = findings_of_proxy(capsys, url)
    assert code == 1
    assert any(told in line for line in said)


def test_proxy_that_refuses_strangers_in_the_handshake_passes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Somebody is there, since the owner is answered."""
    save_pair(Path("certs"))
    with a_proxy(Path("certs"), insists=True) as url:
        code, said = findings_of_proxy(capsys, url)
    assert code == 0
    assert said == [
        "ok: refuses a client without a certificate (no answer)",
        "ok: refuses a client with forged headers and no certificate (no answer)",
        "ok: lets in the owner of the pair (200)",
        "ok: the proxy serves this pair, as callers pin it",
    ]


def test_proxy_that_says_nothing_to_strangers_does_not_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be about to let them in."""
    monkeypatch.setattr(proxy_checks, "_TIMEOUT_SECONDS", 2.0)
    save_pair(Path("certs"))
    with a_proxy(Path("certs"), ignores=True) as url:
        code, said = findings_of_proxy(capsys, url)
    assert code == 3
    assert said == ["unreachable: no answer to a client without a certificate (ReadTimeout: )"]


def test_proxy_that_is_away_is_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing listens there."""
    code, said = findings_of_proxy(capsys, "https://127.0.0.1:9/")
    assert code == 3
    assert said[0].startswith("unreachable")


@pytest.mark.parametrize(
    ("fault", "shown", "advice"),
    [
        ("cache", "RemoteProtocolError", "nginx could not keep it"),
        ("application", "502", "gave no"),
    ],
)
def test_fault_behind_the_authorisation_is_told_from_a_denial(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, fault: str, shown: str, advice: str
) -> None:
    """A real nginx refuses strangers properly, and its cache or the application is broken."""
    save_pair(Path("certs"))
    certificate = x509.load_pem_x509_certificate(Path("certs/client.crt").read_bytes())
    auth = Recorder(hotkeys={to_nginx_header(certificate).decode(): ALICE.address})
    application = Recorder(answers_always=True)
    with ExitStack() as stack:
        stack.enter_context(auth.serving())
        if fault == "cache":
            stack.enter_context(application.serving())
        else:
            application.port = free_port()
        house = stack.enter_context(running_house(tmp_path, auth, application))
        if fault == "cache":
            # Not even root can write below a file.
            (tmp_path / "nexus_auth").rmdir()
            (tmp_path / "nexus_auth").touch()
        code, found = examine(capsys, "doctor", "--proxy", f"https://127.0.0.1:{house.port}/")
    assert code == 1
    assert "does not let in the owner" in found["proxy"]["text"]
    assert shown in found["proxy"]["text"]
    assert advice in found["proxy"]["next_step"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/",
        "127.0.0.1:9",
        "https://",
        "https://[::1/",
        "https://127.0.0.1:99999/",
        "https://127.0.0.1:0/",
        "https://127.0.0.1:port/",
    ],
)
def test_address_that_no_proxy_can_have_is_wrong_usage(url: str) -> None:
    """Said before anybody is asked."""
    assert main(["doctor", "--proxy", url]) == 2


@pytest.mark.parametrize(
    "date",
    [
        None,
        "",
        "yesterday",
        "Fri, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Fri, 01 Jan 2020 00:00:00 +9999999999",
    ],
)
def test_date_that_is_none_is_no_clock(date: str | None) -> None:
    """Whatever a server writes there."""
    finding = judge_clock(date, utc_now(), timedelta(minutes=5))
    assert finding.outcome is Outcome.SKIPPED
