"""The verifier as a library, in one process: what is timed, by kind of certificate.

`test_verifier.py` times it with pytest-benchmark.
"""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote_from_bytes

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from bench.callers import a_caller, callers
from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.headers.formats import MAX_HEADER_BYTES, der_from_percent_encoded_pem
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.verifier import CertificateVerifier

_FOREVER: Final = datetime(9000, 1, 1, tzinfo=UTC)


YARDSTICK: Final = "one Ed25519 verification"
REGISTERED: Final = (2, 1_000, 100_000)

Work = Callable[[], object]


class _Registry:
    """Everything at hand, as the snapshot has it."""

    def __init__(self, keys: dict[Hotkey, bytes]) -> None:
        self._known = {
            hotkey.account_id: Registration(public_key=key, expires_at=_FOREVER)
            for hotkey, key in keys.items()
        }

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """See `KeyRegistry`."""
        return self._known.get(hotkey.account_id)

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:  # noqa: ARG002 - the port
        """See `KeyRegistry`."""
        return self._known.get(hotkey.account_id)


def _decode(value: bytes) -> ClientCertificate:
    return ClientCertificate.from_der(der_from_percent_encoded_pem(value))


def _verifier(registered: int) -> CertificateVerifier:
    keys = {caller.hotkey: caller.public_key for caller in callers(2)}
    for number in range(registered - len(keys)):
        keys[Hotkey(number.to_bytes(32, "big"))] = b"\x07" * 32
    return CertificateVerifier(registry=_Registry(keys), clock=utc_now)


def _bare_verification() -> Work:
    certificate = x509.load_pem_x509_certificate(a_caller(0).pem)
    key, signature = certificate.public_key(), certificate.signature
    signed = certificate.tbs_certificate_bytes
    assert isinstance(key, Ed25519PublicKey)  # noqa: S101 - tells the type checker
    return lambda: key.verify(signature, signed)


def decisions() -> dict[str, Callable[[], Work]]:
    """Everything to be timed that ends in a grant, and the yardstick; each is made when called."""
    kinds: dict[str, Callable[[], Work]] = {YARDSTICK: _bare_verification}
    for registered in REGISTERED:
        name = f"a remembered caller, {registered} registered"
        kinds[name] = functools.partial(_remembered_caller, registered)
    kinds["a new caller"] = _new_caller
    return kinds


def _remembered_caller(registered: int) -> Work:
    verifier, header = _verifier(registered), a_caller(0).header.encode()
    granted = asyncio.run(verifier.verify_encoded(header, decode=_decode))
    if not isinstance(granted, Granted):
        raise TypeError(granted)
    return lambda: verifier.verify_remembered(header)


def _new_caller() -> Work:
    caller = a_caller(0)
    registry = _Registry({caller.hotkey: caller.public_key})
    forgetful = CertificateVerifier(registry=registry, clock=utc_now, remember=0)
    return _awaited(forgetful, caller.header.encode())


def _awaited(verifier: CertificateVerifier, header: bytes) -> Work:
    def once() -> object:
        # Nothing in here really waits, so that the coroutine can be driven by hand.
        coroutine = verifier.verify_encoded(header, decode=_decode)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise TypeError("the decision waited")

    return once


def _certificate(
    key: Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    organization: str,
    *,
    signed_by: Ed25519PrivateKey | None = None,
    days: int = 30,
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
    )
    if signed_by is not None or isinstance(key, Ed25519PrivateKey):
        signer = signed_by if signed_by is not None else key
        assert isinstance(signer, Ed25519PrivateKey)  # noqa: S101 - tells the type checker
        signed = builder.sign(signer, None)
    else:
        signed = builder.sign(key, hashes.SHA256())
    return quote_from_bytes(signed.public_bytes(Encoding.PEM), safe="").encode()


def bad_certificates() -> dict[str, bytes]:
    """What a stranger can send, by kind."""
    key = Ed25519PrivateKey.generate()
    stranger = Hotkey(b"\x05" * 32)
    known = a_caller(0)
    return {
        "the longest text that is read": b"A" * MAX_HEADER_BYTES,
        "wrong percent-escapes": b"%zz" * 300,
        "16 KiB of base64 that is no certificate": b"MIIB" + b"A" * 21_000,
        "no organization that is a hotkey": _certificate(key, "somebody"),
        "a hotkey with a wrong checksum": _certificate(key, "5" + "F" * 47),
        "an RSA key": _certificate(rsa.generate_private_key(65537, 2048), stranger.address),
        "an elliptic-curve key": _certificate(
            ec.generate_private_key(ec.SECP256R1()), stranger.address
        ),
        "expired": _certificate(key, stranger.address, days=-30),
        "a hotkey that is not registered": _certificate(key, stranger.address),
        "somebody else's hotkey, own key": _certificate(key, known.hotkey.address),
        "the right key, a broken signature": _broken_signature(known.pem),
    }


def _broken_signature(pem: bytes) -> bytes:
    """The costliest refusal: anybody can make it of a certificate that somebody has shown."""
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    broken = der[:-1] + bytes([der[-1] ^ 1])
    body = base64.encodebytes(broken).decode("ascii")
    text = f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
    return quote_from_bytes(text.encode("ascii"), safe="").encode("ascii")


def refusal(header: bytes) -> Work:
    """Refusing what a stranger sent, as often as it is asked."""
    verifier = _verifier(256)
    decision = asyncio.run(verifier.verify_encoded(header, decode=_decode))
    if not isinstance(decision, Denied):
        raise TypeError(decision)
    return _awaited(verifier, header)
