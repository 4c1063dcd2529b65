"""A pair with names, as `generate -san` makes it: served, and checked as ordinary clients do."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from tests.integration.proxies.client import Answer, connect, exchange, http1_request
from tests.integration.proxies.stack import PROGRAMS, open_folder
from tests.integration.real import require_program
from tests.integration.tls.miner import Miner, running_miner


@pytest.fixture(scope="module", params=PROGRAMS)
def miner(request: pytest.FixtureRequest) -> Iterator[Miner]:
    """One miner a proxy, whose two pairs have names."""
    names = ("-san", "localhost,*.miner.example.com", "-san", "127.0.0.1")
    with (
        open_folder() as folder,
        running_miner(folder, proxy=request.param, arguments=names) as running,
    ):
        yield running


def _pair(miner: Miner, name: str) -> CredentialsDirectory:
    return CredentialsDirectory(miner.directory / name)


def _ask_checking_names(miner: Miner, anchor: Path, host: str) -> Answer:
    """As a validator that trusts one certificate, and checks the name that it calls."""
    context = ssl.create_default_context(cafile=str(anchor))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    caller = _pair(miner, "validator")
    context.load_cert_chain(caller.certificate_path, caller.key_path)
    with connect(miner.port, context, server_hostname=host) as connection:
        return exchange(connection, http1_request())


@pytest.mark.parametrize("host", ["localhost", "a.miner.example.com", "127.0.0.1"])
def test_client_that_checks_the_name_is_let_in(miner: Miner, host: str) -> None:
    """The certificate is the trust anchor; the caller's own has names too, and one O."""
    answer = _ask_checking_names(miner, _pair(miner, "miner").certificate_path, host)
    assert answer.status == 200
    assert f"{miner.hotkey('validator')}" in answer.body.decode()


@pytest.mark.parametrize(
    ("anchor", "host", "error"),
    [
        ("miner", "other.example.com", "Hostname mismatch"),
        ("miner", "miner.example.com", "Hostname mismatch"),
        ("miner", "127.0.0.2", "IP address mismatch"),
        ("validator", "localhost", "self.signed certificate"),
    ],
)
def test_client_that_checks_the_name_refuses_another(
    miner: Miner, anchor: str, host: str, error: str
) -> None:
    """Another name, or another certificate as the anchor: no call."""
    reached = miner.backend.requests
    with pytest.raises(ssl.SSLCertVerificationError, match=error):
        _ask_checking_names(miner, _pair(miner, anchor).certificate_path, host)
    assert miner.backend.requests == reached


@pytest.mark.parametrize(("host", "code"), [("localhost", 0), ("other.example.com", 60)])
def test_curl_agrees(miner: Miner, host: str, code: int) -> None:
    """With the certificate as its only authority, as `docs/issuing.md` shows it."""
    curl = require_program("curl", "apt-get install curl")
    caller, server = _pair(miner, "validator"), _pair(miner, "miner")
    finished = subprocess.run(
        [
            *(curl, "--silent", "--cacert", server.certificate_path),
            *("--cert", caller.certificate_path, "--key", caller.key_path),
            *("--connect-to", f"::127.0.0.1:{miner.port}", f"https://{host}/"),
        ],
        env={},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert finished.returncode == code
    assert (str(miner.hotkey("validator")).encode() in finished.stdout) is (code == 0)


def test_renewed_certificate_keeps_its_names_and_is_an_anchor_of_its_own(
    miner: Miner, tmp_path: Path
) -> None:
    """The one before does not vouch for it, though the key is the same: clients need the new one.

    OpenSSL says so with and without `X509_V_FLAG_PARTIAL_CHAIN`.
    """
    openssl = require_program("openssl", "apt-get install openssl")
    old = tmp_path / "old.crt"
    shutil.copy(_pair(miner, "validator").certificate_path, old)
    new = miner.generate("validator", "-reuse-key") / "client.crt"
    partial = ("-partial_chain",)
    for anchor, flags, is_right in ((new, (), True), (old, (), False), (old, partial, False)):
        finished = subprocess.run(
            [
                *(openssl, "verify", *flags, "-verify_hostname", "x.miner.example.com"),
                *("-CAfile", anchor, new),
            ],
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (finished.returncode == 0) is is_right
