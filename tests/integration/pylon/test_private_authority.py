"""A Pylon over TLS, and what is said where its certificate is refused."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from nexus_auth.adapters.pylon.api import IdentityApi, PylonUnreachable
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.entrypoints.cli import main
from tests.builders import a_hotkey
from tests.integration.authority import PrivateAuthority, strict_python
from tests.integration.pylon.running import IDENTITY_NAME, TOKEN, RunningPylon, running_pylon
from tests.integration.real import wait_until_ready
from tests.integration.service.running import a_header, register, running_service

__all__ = ["strict_python"]

API = IdentityApi(netuid=1, name=IDENTITY_NAME, token=TOKEN)


@pytest.fixture
def authority(tmp_path: Path) -> PrivateAuthority:
    """An authority that no machine knows by itself."""
    return PrivateAuthority(tmp_path)


@pytest.fixture
def serve() -> Iterator[Callable[[tuple[Path, Path]], RunningPylon]]:
    """Starts a Pylon with a server's certificate and key; it knows alice."""
    with ExitStack() as stack:

        def start(tls: tuple[Path, Path]) -> RunningPylon:
            pylon = stack.enter_context(running_pylon(tls=tls))
            register(pylon, "alice")
            return pylon

        yield start


Serve = Callable[[tuple[Path, Path]], RunningPylon]


async def test_authority_of_the_operator_counts_whatever_its_form(
    authority: PrivateAuthority,
    serve: Serve,
    strict_python: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says nothing of its key usage. A strict context refuses it, as curl does not."""
    pylon = serve(authority.issue())
    strict = ssl.create_default_context(cafile=str(authority.file))
    async with httpx.AsyncClient(verify=strict, trust_env=False) as plain:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await plain.get(pylon.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with PylonClient(endpoint=pylon.url, api=API) as client:
        assert a_hotkey("alice") in (await client.fetch_keys()).keys


async def test_named_certificate_of_the_server_counts_by_itself(
    authority: PrivateAuthority, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with curl, and with Python 3.13 by default; the authority need not be at hand."""
    certificate, key = authority.issue()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with PylonClient(endpoint=serve((certificate, key)).url, api=API) as client:
        assert a_hotkey("alice") in (await client.fetch_keys()).keys


REFUSED = [
    pytest.param(
        *("localhost", 2, "", "unable to get local issuer certificate"),
        "name the file of the authority that signed it in SSL_CERT_FILE",
        id="authority is not known",
    ),
    pytest.param(
        *("localhost", 2, "missing.pem", "unable to get local issuer certificate"),
        "SSL_CERT_FILE names 'missing.pem', which cannot be read",
        id="file is missing",
    ),
    pytest.param(
        *("elsewhere", 2, "authority.pem"),
        "Hostname mismatch, certificate is not valid for 'localhost'",
        "name the server in NEXUS_PYLON_ENDPOINT as its certificate does, or give it another one",
        id="name is another",
    ),
    pytest.param(
        *("localhost", -1, "authority.pem", "certificate has expired"),
        "renew it, or correct the clock that is wrong",
        id="expired",
    ),
]


@pytest.mark.parametrize(("name", "days", "trusted", "problem", "remedy"), REFUSED)
async def test_refused_certificate_has_cause_and_remedy(
    authority: PrivateAuthority,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    name: str,
    days: int,
    trusted: str,
    problem: str,
    remedy: str,
) -> None:
    """In one line; nothing was sent, so that a key on chain did not change."""
    pylon = serve(authority.issue(name, days=days))
    monkeypatch.chdir(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", trusted)
    async with PylonClient(endpoint=pylon.url, api=API) as client:
        with pytest.raises(PylonUnreachable) as caught:
            await client.fetch_keys()
    assert str(caught.value) == (
        f"Pylon at {pylon.url} is not trusted: its certificate is refused: {problem}; {remedy}"
    )
    assert (caught.value.was_sent, caught.value.remedy) == (False, remedy)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_commands_and_the_log_of_the_service_say_what_to_do(
    authority: PrivateAuthority,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Each of them in a line of its own, with exit code 3; the service serves on."""
    pylon = serve(authority.issue())
    remedy = "name the file of the authority that signed it in SSL_CERT_FILE"
    monkeypatch.chdir(tmp_path)
    for setting, value in {
        "NEXUS_PYLON_ENDPOINT": pylon.url,
        "NEXUS_PYLON_NETUID": "1",
        "NEXUS_PYLON_IDENTITY_NAME": IDENTITY_NAME,
        "NEXUS_PYLON_IDENTITY_TOKEN": TOKEN,
    }.items():
        monkeypatch.setenv(setting, value)
    assert main(["doctor"]) == 3
    assert f"-> {remedy}" in capsys.readouterr().out
    assert main(["generate", "-ss58-address", pylon.hotkey.address]) == 3
    assert capsys.readouterr().err.rstrip().endswith(f"; {remedy}")
    with running_service(tmp_path, pylon.url, wait=False) as service:
        wait_until_ready(lambda: bool(service.lines("source_failed")), what="the log")
        assert service.lines("source_failed")[0]["error"].endswith(f"; {remedy}")
        assert service.ask(a_header()).reason == "registry-unavailable"
