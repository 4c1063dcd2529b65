"""Decides who a certificate belongs to."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.errors import CertificateRejected, RegistryError
from nexus_auth.domain.evaluate import (
    DEFAULT_LEEWAY,
    StandingGrant,
    build_standing_grant,
    denied,
    evaluate_alone,
    evaluate_registered,
)
from nexus_auth.domain.policy import ADMIT_REGISTERED
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from nexus_auth.domain.policy import AccessPolicy
    from nexus_auth.domain.ports import Clock, KeyRegistry, Registration

Decode = Callable[[bytes], ClientCertificate]
"""Unwraps and parses a certificate; raises `CertificateRejected` and nothing else."""

DEFAULT_REMEMBERED: Final = 4096
"""Granted certificates remembered: sixteen times the 256 neurons of a subnet, 2 KB each."""

MAX_REMEMBERED_BYTES: Final = 4096
"""A presented certificate longer than this is verified every time. An ordinary one has some 700
bytes in a header, and a registered caller must not be able to fill the memory with padding."""

ORDINARY_BYTES: Final = 1536
"""What is longer than this is parsed once and then known by its digest: an ordinary certificate has
some 700 bytes in a header, and one with thousands of names in it takes milliseconds to parse."""

_OTHERS_KEPT: Final = 1024
_OTHERS_BYTES: Final = 4 * 1024 * 1024
"""Bounds of what is remembered of certificates that were not granted. To have another one parsed,
a client must make another TLS handshake."""


class CertificateVerifier:
    """Decides whether a presented certificate belongs to a registered hotkey.

    Remembers the parsed form and the signature proof of certificates, in a bounded cache keyed by
    the presented bytes; time, registry and policy are looked at every time. See `_Cache`.

    Safe for concurrent use within one event loop.
    """

    def __init__(
        self,
        *,
        registry: KeyRegistry,
        clock: Clock,
        leeway: timedelta = DEFAULT_LEEWAY,
        remember: int = DEFAULT_REMEMBERED,
    ) -> None:
        """Wires the verifier; the registry stays its creator's to close.

        Args:
            registry: Who is registered.
            clock: Gives the time (aware, UTC).
            leeway: By how much a certificate's validity may begin later than now, since its
                issuer's clock may be ahead; the end of its validity has no leeway.
            remember: How many granted certificates are remembered at most; 0 remembers none.
        """
        if leeway < timedelta(0) or remember < 0:
            raise ValueError("leeway and remember are not negative")
        self._registry = registry
        self._clock = clock
        self._leeway = leeway
        self._cache = _Cache(remember)

    @property
    def remembered(self) -> int:
        """How many certificates that were granted are remembered now."""
        return len(self._cache.granted)

    def remembered_certificates(self) -> tuple[ClientCertificate, ...]:
        """The certificates that are remembered now, the one not seen for longest first."""
        return tuple(standing.certificate for standing in self._cache.granted.values())

    async def verify(
        self,
        certificate: bytes | bytearray | memoryview | str | None,
        *,
        policy: AccessPolicy = ADMIT_REGISTERED,
    ) -> Decision:
        """Decides on one certificate, PEM (text or bytes) or DER (bytes).

        Args:
            certificate: What the caller presented; None or nothing is no certificate.
            policy: Who among the registered may enter this time.

        Returns:
            `Granted` or `Denied`; match on them, they have no truth value. Raises nothing,
            whatever the certificate, as long as the registry keeps to its contract.
        """
        if certificate is None:
            certificate = b""
        elif isinstance(certificate, str):
            try:
                certificate = certificate.encode("ascii")
            except UnicodeEncodeError:
                return Denied(reason=DenialReason.MALFORMED_CERTIFICATE, detail="PEM is ASCII text")
        elif type(certificate) is not bytes:
            # A buffer could change during a fetch.
            certificate = bytes(memoryview(certificate))
        return await self.verify_encoded(certificate, decode=_parse_pem_or_der, policy=policy)

    async def verify_encoded(
        self,
        value: bytes,
        *,
        decode: Decode,
        policy: AccessPolicy = ADMIT_REGISTERED,
    ) -> Decision:
        """Decides on a certificate in some wrapping, such as a proxy's header.

        Args:
            value: The bytes as they came; the key under which a granted certificate is
                remembered.
            decode: Unwraps and parses it; raises `CertificateRejected` and nothing else. The
                same bytes must always mean the same to it: use one function per verifier.
            policy: Who among the registered may enter this time.
        """
        if not value:
            return Denied(reason=DenialReason.NO_CERTIFICATE, detail="no certificate was presented")
        # 1 to 6. What the bytes say, which never changes.
        known = self._cache.find(value, decode)
        if known is None:
            known = _Known(_parse(value, decode), is_proven=False)
            self._cache.keep_oversized(value, decode, known)
        certificate = known.certificate
        if isinstance(certificate, Denied):
            return certificate
        # 7 and 8, before anything is fetched.
        now = self._clock()
        denial = evaluate_alone(certificate, now, leeway=self._leeway)
        if denial is not None:
            return denial
        registration = self._registry.peek(certificate.hotkey)
        if (
            registration is None
            or registration.public_key != certificate.public_key
            or registration.expires_at < now
        ):
            try:
                registration = await self._registry.lookup(
                    certificate.hotkey, presented=certificate.public_key
                )
            except RegistryError as exc:
                return denied(certificate, DenialReason.REGISTRY_UNAVAILABLE, str(exc))
            # 7 and 8 again: time has passed meanwhile.
            denial = evaluate_alone(certificate, self._clock(), leeway=self._leeway)
            if denial is not None:
                return denial
        # 9 to 12.
        decision = evaluate_registered(
            certificate, registration, policy, already_proven=known.is_proven
        )
        self._remember(value, decode, certificate, registration, decision)
        return decision

    def _remember(
        self,
        value: bytes,
        decode: Decode,
        certificate: ClientCertificate,
        registration: Registration | None,
        decision: Decision,
    ) -> None:
        if isinstance(decision, Denied):
            if decision.reason is DenialReason.NOT_PERMITTED:
                self._cache.keep_proven(value, decode, certificate)
        elif registration is not None:  # always, where it is granted
            standing = build_standing_grant(
                decision, certificate, registration, leeway=self._leeway
            )
            self._cache.keep_granted(value, decode, standing)

    def verify_remembered(
        self, value: bytes, *, policy: AccessPolicy = ADMIT_REGISTERED
    ) -> Granted | None:
        """Decides at once on a certificate granted before, where no fetch is needed.

        Takes every check but the parsing and the signature, whose outcome cannot change.

        Returns:
            A grant that holds now, or None: then call `verify_encoded`. None is no denial.
        """
        standing = self._cache.granted.get(value)
        if standing is None:
            return None
        now = self._clock()
        registration = self._registry.peek(standing.granted.hotkey)
        if registration is None or registration.expires_at < now:
            return None
        if not standing.holds(registration, now, policy):
            certificate = standing.certificate
            if evaluate_alone(certificate, now, leeway=self._leeway) is not None:
                return None
            decision = evaluate_registered(certificate, registration, policy, already_proven=True)
            if not isinstance(decision, Granted):
                return None
            standing = build_standing_grant(
                decision, certificate, registration, leeway=self._leeway
            )
            self._cache.granted[value] = standing
        self._cache.granted.move_to_end(value)
        return standing.granted


@dataclass(frozen=True, slots=True)
class _Known:
    """What a certificate's bytes say, and whether its signature was seen to verify."""

    certificate: ClientCertificate | Denied
    is_proven: bool


class _Cache:
    """What is remembered of certificates between requests: immutable facts, never a decision.

    `granted` holds certificates that were granted, so that unknown callers cannot push known ones
    out. It saves the parsing and the signature: a decision takes 0.8 µs with it, and 117 without
    (docs/benchmarks.md).

    The others are known by the same bytes, and take no room from callers: certificates that the
    policy alone denied (the signature is saved, 93 µs), and oversized ones, good or bad (parsing
    is saved, up to milliseconds). The oldest go, by number and by size.
    """

    __slots__ = ("_bytes", "_others", "_remember", "granted")

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self.granted: OrderedDict[bytes, StandingGrant] = OrderedDict()
        self._others: OrderedDict[bytes | tuple[Decode, bytes], tuple[_Known, int]] = OrderedDict()
        self._bytes = 0

    def find(self, value: bytes, decode: Decode) -> _Known | None:
        """What is known of a certificate; None when it must be parsed."""
        standing = self.granted.get(value)
        if standing is not None:
            return _Known(standing.certificate, is_proven=True)
        found = self._others.get(_key(value, decode))
        return None if found is None else found[0]

    def keep_granted(self, value: bytes, decode: Decode, standing: StandingGrant) -> None:
        """Remembers a certificate that was granted just now."""
        if not self._remember or len(value) > MAX_REMEMBERED_BYTES:
            return
        self._drop(_key(value, decode))
        self.granted[value] = standing
        self.granted.move_to_end(value)
        if len(self.granted) > self._remember:
            self.granted.popitem(last=False)

    def keep_proven(self, value: bytes, decode: Decode, certificate: ClientCertificate) -> None:
        """Remembers a certificate that the policy alone denied."""
        # Another policy may have granted it: then it stays where it is.
        if self._remember and len(value) <= MAX_REMEMBERED_BYTES and value not in self.granted:
            self._keep(_key(value, decode), _Known(certificate, is_proven=True), len(value))

    def keep_oversized(self, value: bytes, decode: Decode, known: _Known) -> None:
        """Remembers what was parsed at some expense."""
        if len(value) > ORDINARY_BYTES:
            self._keep(_key(value, decode), known, len(value))

    def _keep(self, key: bytes | tuple[Decode, bytes], known: _Known, size: int) -> None:
        self._drop(key)
        self._others[key] = known, size
        self._bytes += size
        while len(self._others) > _OTHERS_KEPT or self._bytes > _OTHERS_BYTES:
            self._drop(next(iter(self._others)))

    def _drop(self, key: bytes | tuple[Decode, bytes]) -> None:
        found = self._others.pop(key, None)
        if found is not None:
            self._bytes -= found[1]


def _key(value: bytes, decode: Decode) -> bytes | tuple[Decode, bytes]:
    """The bytes themselves, or for oversized ones their digest, beside who decodes them."""
    if len(value) <= ORDINARY_BYTES:
        return value
    return decode, hashlib.sha256(value).digest()


def _parse(value: bytes, decode: Decode) -> ClientCertificate | Denied:
    try:
        return decode(value)
    except CertificateRejected as exc:
        return Denied(reason=exc.reason, detail=exc.detail)


def _parse_pem_or_der(value: bytes) -> ClientCertificate:
    # DER begins with a SEQUENCE (0x30, the digit zero), which PEM never does.
    if value[:1] == b"\x30":
        return ClientCertificate.from_der(value)
    return ClientCertificate.from_pem(value)
