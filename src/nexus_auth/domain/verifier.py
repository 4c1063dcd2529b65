"""Decides who a certificate belongs to."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.errors import CertificateRejected, RegistryError
from nexus_auth.domain.evaluate import (
    DEFAULT_LEEWAY,
    denied,
    evaluate,
    evaluate_alone,
    evaluate_registered,
)
from nexus_auth.domain.policy import ADMIT_REGISTERED
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from nexus_auth.domain.policy import AccessPolicy
    from nexus_auth.domain.ports import Clock, KeyRegistry, Registration

_Kept = TypeVar("_Kept")

Decode = Callable[[bytes], ClientCertificate]
"""Unwraps and parses a certificate; raises `CertificateRejected` and nothing else."""

DEFAULT_REMEMBERED: Final = 4096
"""Certificates remembered: sixteen times the 256 neurons of a subnet, about 2 KB each."""

MAX_REMEMBERED_BYTES: Final = 4096
"""A presented certificate longer than this is verified every time. An honest one has some 700
bytes in a header, and a registered caller must not be able to fill the memory with padding."""


ORDINARY_BYTES: Final = 1536
"""What is longer than this is parsed once and then known by its digest: an honest certificate has
some 700 bytes in a header, and one that is stuffed with thousands of names takes milliseconds."""

_STUFFED_KEPT: Final = 256
"""How many of those are known, 16 KiB each at the most. To have another one looked at, a client
must make another TLS handshake."""


_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True, kw_only=True, eq=False)
class _Proven:
    """A certificate that was granted, and what the last grant looked like.

    That is no decision: it only spares making an equal object where every check passes again. It
    was made of the certificate and of a registration, neither of which can change; another
    registration object, equal or not, makes another grant.
    """

    certificate: ClientCertificate
    valid_from: datetime
    valid_until: datetime
    granted: Granted | None = None
    registration: Registration | None = None


class CertificateVerifier:
    """Decides whether a presented certificate belongs to a registered hotkey.

    Remembers the parsed form and the signature proof of certificates it has granted, in a bounded
    store keyed by the presented bytes; time, registry and policy are asked every time. Only what
    was granted once is remembered there, so strangers cannot push callers out. Those who proved
    who they are and were refused by the policy alone have a store of their own, which spares the
    signature when they come again and again, and takes no room from callers. A third one spares
    the parsing of certificates so large that they can only be meant to cost time.

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
            clock: Tells the time (aware, UTC).
            leeway: Tolerance on both ends of a certificate's validity.
            remember: How many certificates are remembered at most; 0 remembers none.
        """
        if leeway < timedelta(0) or remember < 0:
            raise ValueError("leeway and remember are not negative")
        self._registry = registry
        self._clock = clock
        self._leeway = leeway
        self._remember = remember
        self._proven: OrderedDict[bytes, _Proven] = OrderedDict()
        self._shut_out: OrderedDict[bytes, ClientCertificate] = OrderedDict()
        self._stuffed: OrderedDict[tuple[Decode, bytes], ClientCertificate | Denied] = OrderedDict()

    @property
    def remembered(self) -> int:
        """How many certificates that were granted are remembered now."""
        return len(self._proven)

    def remembered_certificates(self) -> tuple[ClientCertificate, ...]:
        """The certificates that are remembered now, the one not seen for longest first."""
        return tuple(proven.certificate for proven in self._proven.values())

    @property
    def remembered_shut_out(self) -> int:
        """How many certificates that the policy alone refused are remembered now."""
        return len(self._shut_out)

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
            # A buffer could change while the registry is asked.
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
        known = self._proven.get(value)
        certificate = self._shut_out.get(value) if known is None else known.certificate
        proven = certificate
        if certificate is None:
            parsed = self._parse(value, decode)
            if isinstance(parsed, Denied):
                return parsed
            certificate = parsed
        now = self._clock()
        refused = evaluate_alone(certificate, now, leeway=self._leeway)
        if refused is not None:
            return refused
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
            # Time has passed meanwhile.
            refused = evaluate_alone(certificate, self._clock(), leeway=self._leeway)
            if refused is not None:
                return refused
        decision = evaluate_registered(
            certificate, registration, policy, already_proven=proven is not None
        )
        if isinstance(decision, Granted):
            self._shut_out.pop(value, None)
            self._keep(self._proven, value, known or self._provable(certificate))
        elif decision.reason is DenialReason.NOT_PERMITTED and value not in self._proven:
            # Another policy may have granted it: then it stays where it is.
            self._keep(self._shut_out, value, certificate)
        return decision

    def verify_remembered(
        self, value: bytes, *, policy: AccessPolicy = ADMIT_REGISTERED
    ) -> Granted | None:
        """Decides at once on a certificate granted before, where nobody need be asked.

        Takes every check but the parsing and the signature, whose outcome cannot change.

        Returns:
            A grant that holds now, or None: then ask `verify_encoded`. None is no denial.
        """
        proven = self._proven.get(value)
        if proven is None:
            return None
        certificate = proven.certificate
        now = self._clock()
        registration = self._registry.peek(certificate.hotkey)
        if registration is None or registration.expires_at < now:
            return None
        if (
            # 9 to 11. The very registration that held this certificate's key last time.
            registration is proven.registration
            # 7. Valid now. (8 cannot change.)
            and proven.valid_from <= now <= proven.valid_until
            # 12. The policy admits the hotkey.
            and policy.objection(certificate.hotkey, registration.neuron) is None
        ):
            self._proven.move_to_end(value)
            return proven.granted
        decision = evaluate(
            certificate,
            registration,
            now,
            leeway=self._leeway,
            policy=policy,
            already_proven=True,
        )
        if not isinstance(decision, Granted):
            return None
        proven.granted, proven.registration = decision, registration
        self._proven.move_to_end(value)
        return decision

    def _provable(self, certificate: ClientCertificate) -> _Proven:
        """What is remembered of a certificate: its dates with the leeway, where they can have it.

        Those that would not fit a datetime have none, and are decided on the long way.
        """
        begin, end, leeway = certificate.not_before, certificate.not_after, self._leeway
        return _Proven(
            certificate=certificate,
            valid_from=begin - leeway if begin - _EARLIEST > leeway else begin,
            valid_until=end + leeway if _LATEST - end > leeway else end,
        )

    def _parse(self, value: bytes, decode: Decode) -> ClientCertificate | Denied:
        if len(value) <= ORDINARY_BYTES:
            return _parsed(value, decode)
        key = decode, hashlib.sha256(value).digest()
        known = self._stuffed.get(key)
        if known is None:
            known = self._stuffed[key] = _parsed(value, decode)
            if len(self._stuffed) > _STUFFED_KEPT:
                self._stuffed.popitem(last=False)
        return known

    def _keep(self, store: OrderedDict[bytes, _Kept], value: bytes, certificate: _Kept) -> None:
        if not self._remember or len(value) > MAX_REMEMBERED_BYTES:
            return
        store[value] = certificate
        store.move_to_end(value)
        if len(store) > self._remember:
            store.popitem(last=False)


def _parsed(value: bytes, decode: Decode) -> ClientCertificate | Denied:
    try:
        return decode(value)
    except CertificateRejected as exc:
        return Denied(reason=exc.reason, detail=exc.detail)


def _parse_pem_or_der(value: bytes) -> ClientCertificate:
    # DER begins with a SEQUENCE (0x30, the digit zero), which PEM never does.
    if value[:1] == b"\x30":
        return ClientCertificate.from_der(value)
    return ClientCertificate.from_pem(value)
