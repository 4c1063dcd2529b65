"""For tests of applications that need hotkeys: callers with certificates, without a Pylon.

    # conftest.py
    pytest_plugins = ["nexus_auth.testing.pytest_plugin"]

    # test_app.py
    def test_only_registered_callers_enter(subnet):
        client = TestClient(make_app(subnet.verifier), client=("127.0.0.1", 50000))
        alice, mallory = subnet.register("alice"), subnet.stranger("mallory")
        assert client.get("/", headers=alice.headers).status_code == 200
        assert client.get("/", headers=mallory.headers).status_code == 403

Nothing here touches network, disk or settings. Keys made from names are public: never
register one on a chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.headers.names import X_CLIENT_CERT
from nexus_auth.domain.errors import RegistryUnavailable
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import CLIENT_AND_SERVER, DIGITAL_SIGNATURE
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.verifier import CertificateVerifier

if TYPE_CHECKING:
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.ports import Clock

__all__ = [
    "CLIENT_AND_SERVER",
    "DIGITAL_SIGNATURE",
    "Caller",
    "InMemoryRegistry",
    "SubjectKey",
    "Subnet",
    "build_certificate",
    "hotkey_named",
    "key_named",
]

SubjectKey = (
    Ed25519PrivateKey | ed448.Ed448PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
)
"""Kinds of keys that a test may put into a certificate; only the first is any good."""

_USABLE_FOR: Final = timedelta(minutes=15)


def hotkey_named(name: str) -> Hotkey:
    """Makes the hotkey that goes with a name, always the same one."""
    return Hotkey(hashlib.sha256(b"hotkey " + name.encode()).digest())


def key_named(name: str) -> Ed25519PrivateKey:
    """Makes the private key that goes with a name, always the same one."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key " + name.encode()).digest())


def build_certificate(
    *,
    hotkey: Hotkey,
    key: SubjectKey,
    signed_by: Ed25519PrivateKey | None = None,
    subject: x509.Name | None = None,
    issuer: x509.Name | None = None,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (
        (DIGITAL_SIGNATURE, True),
        (CLIENT_AND_SERVER, False),
    ),
    serial_number: int = 0x1234567890,
) -> x509.Certificate:
    """Builds a client certificate: valid as it is, each further argument one way to spoil it.

    Args:
        hotkey: Whom it names.
        key: Whose public half it carries.
        signed_by: Who signs it; the holder of `key` by default.
        subject: Replaces the subject that names the hotkey.
        issuer: Replaces the issuer, which is the subject.
        not_before: Start of validity; yesterday by default.
        not_after: End of validity; in a year by default.
        extensions: Each with whether it is critical.
        serial_number: A positive number.
    """
    name = (
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, hotkey.address)])
        if subject is None
        else subject
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer)
        .public_key(key.public_key())
        .serial_number(serial_number)
        .not_valid_before(utc_now() - timedelta(days=1) if not_before is None else not_before)
        .not_valid_after(utc_now() + timedelta(days=365) if not_after is None else not_after)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    if signed_by is not None:
        return builder.sign(signed_by, None)
    if isinstance(key, Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return builder.sign(key, None)
    return builder.sign(key, hashes.SHA256())


class InMemoryRegistry:
    """A `KeyRegistry` in memory.

    Attributes:
        available: While False, it is not known who is registered, as when Pylon cannot be
            reached for longer than keys may be used.
    """

    def __init__(self, *, clock: Clock = utc_now) -> None:
        """Starts empty."""
        self.available = True
        self._clock = clock
        self._known: dict[Hotkey, tuple[bytes, Neuron | None]] = {}

    def register(self, hotkey: Hotkey, public_key: bytes, *, neuron: Neuron | None = None) -> None:
        """Registers a key (32 bytes) for a hotkey, or replaces it."""
        Registration(public_key=public_key, expires_at=self._clock())  # Refuses unusable keys.
        self._known[hotkey] = (public_key, neuron)

    def unregister(self, hotkey: Hotkey) -> None:
        """Forgets a hotkey, known or not."""
        self._known.pop(hotkey, None)

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """See `KeyRegistry.peek`."""
        known = self._known.get(hotkey) if self.available else None
        if known is None:
            return None
        key, neuron = known
        return Registration(public_key=key, expires_at=self._clock() + _USABLE_FOR, neuron=neuron)

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:  # noqa: ARG002 - the port
        """See `KeyRegistry.lookup`."""
        if not self.available:
            raise RegistryUnavailable("the registry is set to be away")
        return self.peek(hotkey)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A caller with a hotkey, a private key and a certificate.

    Attributes:
        hotkey: Whom the certificate names.
        key: The private key to it.
        certificate: What is presented to servers.
    """

    hotkey: Hotkey
    key: Ed25519PrivateKey = field(repr=False)
    certificate: x509.Certificate = field(repr=False)

    @property
    def public_key(self) -> bytes:
        """The raw public key."""
        return self.key.public_key().public_bytes_raw()

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The certificate as DER."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def headers(self) -> dict[str, str]:
        """The header in which nginx hands the certificate on."""
        return {X_CLIENT_CERT: quote_from_bytes(self.pem, safe="")}


class Subnet:
    """Callers with certificates, a registry that knows some of them, and a verifier that uses it.

    Attributes:
        registry: Who is registered.
        verifier: What the application under test is given.
    """

    def __init__(self, *, clock: Clock = utc_now) -> None:
        """Starts without any registration."""
        self.registry: InMemoryRegistry = InMemoryRegistry(clock=clock)
        self.verifier: CertificateVerifier = CertificateVerifier(
            registry=self.registry, clock=clock
        )

    def register(self, name: str, *, neuron: Neuron | None = None) -> Caller:
        """Makes a caller of that name whose key is registered."""
        caller = self.stranger(name)
        self.registry.register(caller.hotkey, caller.public_key, neuron=neuron)
        return caller

    def stranger(self, name: str) -> Caller:
        """Makes a caller of that name who is not registered by this."""
        return self._caller(hotkey_named(name), key_named(name))

    def impostor(self, victim: Caller, name: str = "impostor") -> Caller:
        """Makes a caller whose certificate names another's hotkey around a key of its own."""
        return self._caller(victim.hotkey, key_named(name))

    def rotate(self, caller: Caller) -> Caller:
        """Registers a new key for a caller; its former certificate is denied from now on."""
        key = Ed25519PrivateKey.generate()
        renewed = self._caller(caller.hotkey, key)
        self.registry.register(renewed.hotkey, renewed.public_key)
        return renewed

    @staticmethod
    def _caller(hotkey: Hotkey, key: Ed25519PrivateKey) -> Caller:
        certificate = build_certificate(hotkey=hotkey, key=key)
        return Caller(hotkey=hotkey, key=key, certificate=certificate)
