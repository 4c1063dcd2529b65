"""Servers that cheat: certificates without their keys, malformed ones, none, giants."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from nexus_auth.domain.errors import ServerKeyMismatch, ServerNotProven
from nexus_auth.domain.server import ServerCertificate, fingerprint_of
from tests.builders import SubjectKey, a_key, public_bytes, to_der, to_pem
from tests.integration.real import require_program
from tests.integration.tls.callers import CALLS
from tests.integration.tls.handmade import HandmadeServer, signing_with
from tests.tls_pairs import pinned_context, today_certificate, write_pair

MINERS = to_der(today_certificate("miner"))
ALERT, HANDSHAKE = 21, 22
BOTH_WAYS = pytest.mark.parametrize("library", ["asyncio", "uvloop", "http.client"])
"""Over the buffers of two event loops, and over our socket."""


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """The caller's context, for the miner."""
    return pinned_context(write_pair(tmp_path / "caller", "caller"))


def refusal(library: str, server: HandmadeServer, context: ssl.SSLContext) -> BaseException:
    """Calls, and gives what the library raises."""
    with server, pytest.raises(Exception) as raised:  # noqa: PT011 - each has errors of its own
        CALLS[library](f"https://127.0.0.1:{server.port}/", context)
    return raised.value


def test_hand_made_server_is_a_server(context: ssl.SSLContext) -> None:
    """With the right key it gets the caller's certificate: what follows is about the check."""
    server = HandmadeServer(MINERS, sign=signing_with(a_key("miner")))
    with server:
        bare = socket.create_connection(("127.0.0.1", server.port), 20)
        context.wrap_socket(bare).close()
    kind, flight = server.after[0]
    assert kind == HANDSHAKE
    assert to_der(today_certificate("caller")) in flight


@BOTH_WAYS
@pytest.mark.parametrize("proof", ["another's", "nonsense", "none"])
def test_certificate_without_its_key_proves_nothing(
    library: str, context: ssl.SSLContext, proof: str
) -> None:
    """The miner's own certificate is public; CertificateVerify (RFC 8446 §4.4.3) is the proof.

    What comes back is an alert, decrypted with the keys of the handshake; asyncio sends none.
    """
    signs = {"another's": signing_with(a_key("impostor")), "nonsense": lambda _: bytes(64)}
    server = HandmadeServer(MINERS, sign=signs.get(proof))
    error = refusal(library, server, context)
    assert ServerNotProven.find(error) is None
    assert [kind for kind, _ in server.after] == ([ALERT] if library == "http.client" else [])


@BOTH_WAYS
@pytest.mark.parametrize(
    "certificates",
    [(), (b"",), (b"no certificate",), (MINERS[:-1],), (MINERS + b"\0",), (bytes(200_000),)],
    ids=["none", "empty", "text", "short", "long", "giant"],
)
def test_malformed_certificate_gets_an_alert_at_most(
    library: str, context: ssl.SSLContext, certificates: tuple[bytes, ...]
) -> None:
    """OpenSSL refuses these by itself; nothing of the caller's leaves."""
    server = HandmadeServer(*certificates, sign=signing_with(a_key("miner")))
    refusal(library, server, context)
    assert [kind for kind, _ in server.after] in ([ALERT], [])


@BOTH_WAYS
def test_large_certificate_is_refused(library: str, context: ssl.SSLContext) -> None:
    """Around the right key, too: OpenSSL takes it, and it is too large to be read here."""
    filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(20_000))
    large = to_der(today_certificate("miner", extensions=((filler, False),)))
    server = HandmadeServer(large, sign=signing_with(a_key("miner")))
    error = ServerNotProven.find(refusal(library, server, context))
    assert isinstance(error, ServerKeyMismatch)
    assert error.found is None
    assert server.after == []


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_fingerprint_is_that_of_openssl(tmp_path: Path, kind: str) -> None:
    """Of a key of any kind, so that `found` can be looked up with other tools."""
    openssl = require_program("openssl", "apt-get install openssl")
    key: SubjectKey = (
        a_key("miner") if kind == "ed25519" else ec.generate_private_key(ec.SECP384R1())
    )
    certificate = today_certificate("miner", key, signed_by=a_key("miner"))
    file = tmp_path / "certificate.pem"
    file.write_bytes(to_pem(certificate))
    pem = _output(openssl, "x509", "-in", file, "-pubkey", "-noout")
    der = _output(openssl, "pkey", "-pubin", "-outform", "der", given=pem)
    digest = _output(openssl, "dgst", "-sha256", "-binary", given=der)
    expected = "sha256//" + base64.b64encode(digest).decode()
    assert ServerCertificate.from_der(to_der(certificate)).fingerprint == expected
    if kind == "ed25519":
        assert fingerprint_of(public_bytes(a_key("miner"))) == expected


def _output(*command: str | Path, given: bytes = b"") -> bytes:
    return subprocess.run(command, input=given, capture_output=True, check=True, timeout=20).stdout
