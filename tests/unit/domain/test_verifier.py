from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from nexus_auth.domain import verifier as module
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.errors import (
    CertificateRejected,
    RegistryAnswerInvalid,
    RegistryError,
    RegistryUnavailable,
)
from nexus_auth.domain.evaluate import DEFAULT_LEEWAY, evaluate
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.policy import AccessPolicy, NotHotkeys
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.verifier import MAX_REMEMBERED_BYTES, CertificateVerifier
from tests import der
from tests.builders import NOW, a_certificate, a_hotkey, a_key, public_bytes, to_der, to_pem
from tests.der import Parts, attribute, extension, name, tlv
from tests.fakes import FakeClock, FakeRegistry

ALICE = a_hotkey()
ALICE_KEY = public_bytes(a_key())
BOB_KEY = public_bytes(a_key("bob"))
NOT_ALICE = AccessPolicy(name="not-alice", rules=(NotHotkeys(frozenset({ALICE})),))
SECOND = timedelta(seconds=1)


def reason_of(decision: Decision) -> DenialReason | None:
    """The code of a denial, None for a grant."""
    return decision.reason if isinstance(decision, Denied) else None


def kept(verifier: CertificateVerifier) -> tuple[int, int]:
    """How many granted certificates are remembered, and how many others."""
    return verifier.remembered, len(verifier._cache._others)


@pytest.fixture
def clock() -> FakeClock:
    """Stands at NOW."""
    return FakeClock()


@pytest.fixture
def registry() -> FakeRegistry:
    """Knows alice."""
    return FakeRegistry({ALICE: ALICE_KEY})


@pytest.fixture
def verifier(registry: FakeRegistry, clock: FakeClock) -> CertificateVerifier:
    """Asks that registry, at that time."""
    return CertificateVerifier(registry=registry, clock=clock)


# Who is granted


async def test_registered_holder_is_granted(
    verifier: CertificateVerifier, registry: FakeRegistry
) -> None:
    """The one way in."""
    certificate = a_certificate()
    decision = await verifier.verify(to_pem(certificate))
    assert decision == Granted(
        hotkey=ALICE,
        fingerprint=ClientCertificate.from_der(to_der(certificate)).fingerprint,
        expires_at=registry.expires_at,
    )


@pytest.mark.parametrize(
    "write",
    [
        to_pem,
        lambda certificate: to_pem(certificate).decode(),
        to_der,
        lambda certificate: bytearray(to_der(certificate)),
        lambda certificate: memoryview(to_pem(certificate)),
    ],
    ids=["PEM", "PEM text", "DER", "DER in a bytearray", "PEM in a memoryview"],
)
async def test_verdict_does_not_depend_on_the_encoding(
    verifier: CertificateVerifier, write: Callable[[object], bytes]
) -> None:
    """The same certificate is the same caller, and the same stranger."""
    assert reason_of(await verifier.verify(write(a_certificate()))) is None
    refused = await verifier.verify(write(a_certificate(key=a_key("bob"))))
    assert reason_of(refused) is DenialReason.KEY_MISMATCH


async def test_grant_ends_with_the_certificate_or_the_registration(
    registry: FakeRegistry, verifier: CertificateVerifier
) -> None:
    """`expires_at` is the earlier of both ends."""
    early, late = NOW + timedelta(minutes=1), NOW + timedelta(days=400)
    for certificate_end, registry_end in ((early, late), (late, early)):
        registry.expires_at = registry_end
        decision = await verifier.verify(to_der(a_certificate(not_after=certificate_end)))
        assert isinstance(decision, Granted)
        assert decision.expires_at == early


async def test_grant_carries_the_neuron(verifier: CertificateVerifier) -> None:
    """What the registry knows of the neuron reaches the application."""
    neuron = Neuron(uid=7, validator_permit=True, active=True, alpha=1.0, tao=2.0, total=3.0)
    certificate = ClientCertificate.from_der(to_der(a_certificate()))
    registration = Registration(public_key=ALICE_KEY, expires_at=NOW, neuron=neuron)
    decision = evaluate(certificate, registration, NOW)
    assert isinstance(decision, Granted)
    assert decision.neuron == neuron


# The order of the checks: a certificate with several defects gets the code of the first

DEFECTS: list[tuple[DenialReason, dict[str, object]]] = [
    (DenialReason.MALFORMED_CERTIFICATE, {"serial": der.integer(0)}),
    (DenialReason.NO_ORGANIZATION, {"subject": name()}),
    (DenialReason.INVALID_HOTKEY, {"subject": name(attribute(der.O_OID, b"x"))}),
    (DenialReason.UNSUPPORTED_KEY, {"key_info": der.ed25519_key_info(bytes(32))}),
    (
        DenialReason.EXPIRED,
        {"validity": tlv(der.SEQUENCE, *[der.time(NOW - timedelta(days=9))] * 2)},
    ),
    (
        DenialReason.NOT_YET_VALID,
        {"validity": tlv(der.SEQUENCE, *[der.time(NOW + timedelta(days=9))] * 2)},
    ),
    (
        DenialReason.WRONG_USAGE,
        {"extensions": tlv(der.SEQUENCE, der.extended_key_usage(der.SERVER_AUTH_OID))},
    ),
    (
        DenialReason.NOT_REGISTERED,
        {"subject": name(attribute(der.O_OID, a_hotkey("bob").address.encode()))},
    ),
    (DenialReason.KEY_MISMATCH, {"key_info": der.ed25519_key_info(BOB_KEY)}),
    (DenialReason.BAD_SIGNATURE, {"outer_algorithm": tlv(der.SEQUENCE, der.oid("1.2.3"))}),
    (DenialReason.NOT_PERMITTED, {}),
]


@pytest.mark.parametrize("first", range(len(DEFECTS)))
async def test_first_defect_decides_the_code(first: int, verifier: CertificateVerifier) -> None:
    """Every certificate that has this defect and any later one besides gets this code."""
    expected, defect = DEFECTS[first]
    for _, other in DEFECTS[first:]:
        certificate = Parts(**{**other, **defect}).certificate()  # type: ignore[arg-type] # Mixed.
        decision = await verifier.verify(certificate, policy=NOT_ALICE)
        assert reason_of(decision) is expected
    everything: dict[str, object] = {}
    for _, other in reversed(DEFECTS[first:]):
        everything |= other
    certificate = Parts(**everything).certificate()  # type: ignore[arg-type] # As above.
    assert reason_of(await verifier.verify(certificate, policy=NOT_ALICE)) is expected


@pytest.mark.parametrize("first", range(len(DEFECTS)))
async def test_denial_says_who_was_claimed_once_that_is_known(
    first: int, verifier: CertificateVerifier
) -> None:
    """From the registry's point of view on, a log line can name the claimed hotkey."""
    _, defect = DEFECTS[first]
    decision = await verifier.verify(
        Parts(**defect).certificate(),  # type: ignore[arg-type] # Mixed.
        policy=NOT_ALICE,
    )
    assert isinstance(decision, Denied)
    assert decision.detail
    parsed = first > [reason for reason, _ in DEFECTS].index(DenialReason.UNSUPPORTED_KEY)
    assert (decision.hotkey is not None) is parsed
    assert (decision.fingerprint is not None) is parsed


@pytest.mark.parametrize("nothing", [None, b"", "", bytearray(), memoryview(b"")])
async def test_nothing_is_no_certificate(
    verifier: CertificateVerifier, nothing: bytes | str | None
) -> None:
    """What an environment without a client certificate hands over."""
    assert reason_of(await verifier.verify(nothing)) is DenialReason.NO_CERTIFICATE


@pytest.mark.parametrize("text", ["é", "\ud800", "\x00", "-----BEGIN CERTIFICATE-----", " "])
async def test_odd_text_is_malformed(verifier: CertificateVerifier, text: str) -> None:
    """Any text gets a decision, lone surrogates included."""
    assert reason_of(await verifier.verify(text)) is DenialReason.MALFORMED_CERTIFICATE


@pytest.mark.parametrize("reason", [DenialReason.BAD_ENCODING, DenialReason.NO_CERTIFICATE])
async def test_decoders_refusal_is_the_decision(
    verifier: CertificateVerifier, reason: DenialReason
) -> None:
    """A wrapping that does not decode is denied with the decoder's code and words."""

    def refuse(value: bytes) -> ClientCertificate:
        raise CertificateRejected(reason, "why")

    decision = await verifier.verify_encoded(b"x", decode=refuse)
    assert decision == Denied(reason=reason, detail="why")


# Check 7, to the second


@pytest.mark.parametrize("leeway", [timedelta(0), SECOND, DEFAULT_LEEWAY])
@pytest.mark.parametrize("reason", [DenialReason.NOT_YET_VALID, DenialReason.EXPIRED])
async def test_validity_counts_to_the_second(
    registry: FakeRegistry, clock: FakeClock, leeway: timedelta, reason: DenialReason
) -> None:
    """The end has no leeway, the beginning has: one microsecond more, and it is denied."""
    registry.expires_at = NOW + timedelta(days=9)
    verifier = CertificateVerifier(registry=registry, clock=clock, leeway=leeway)
    certificate = to_der(a_certificate(not_before=NOW, not_after=NOW))
    away, last = (1, NOW) if reason is DenialReason.EXPIRED else (-1, NOW - leeway)
    for _ in range(2):  # Parsed, then remembered.
        clock.now = last
        assert reason_of(await verifier.verify(certificate)) is None
        assert verifier.verify_remembered(certificate) is not None
        clock.now += away * timedelta(microseconds=1)
        assert reason_of(await verifier.verify(certificate)) is reason
        assert verifier.verify_remembered(certificate) is None


@pytest.mark.parametrize(
    ("leeway", "reason"),
    [(400, None), (399, DenialReason.NOT_YET_VALID), (0, DenialReason.NOT_YET_VALID)],
)
async def test_leeway_of_the_verifier_counts_on_every_way(
    registry: FakeRegistry, clock: FakeClock, leeway: int, reason: DenialReason | None
) -> None:
    """Not the default one: at hand, after a fetch, and where the grant is remembered."""
    begin = NOW + timedelta(seconds=400)
    verifier = CertificateVerifier(registry=registry, clock=clock, leeway=timedelta(seconds=leeway))
    certificate = to_der(a_certificate(not_before=begin))
    for registry.at_hand in (False, True):
        assert reason_of(await verifier.verify(certificate)) is reason
    clock.now = begin
    assert reason_of(await verifier.verify(certificate)) is None
    for registry.expires_at in (NOW + timedelta(hours=1), NOW + timedelta(hours=2)):
        clock.now = begin
        assert verifier.verify_remembered(certificate) is not None
        for early in (400, 200, 0):
            clock.now = begin - timedelta(seconds=early)
            assert (verifier.verify_remembered(certificate) is None) is (early > leeway)


async def test_certificate_that_ends_before_it_begins_is_never_valid(
    verifier: CertificateVerifier,
) -> None:
    """Not even where the leeway would cover the gap."""
    validity = tlv(der.SEQUENCE, der.time(NOW + SECOND), der.time(NOW - SECOND))
    decision = await verifier.verify(Parts(validity=validity).certificate())
    assert reason_of(decision) is DenialReason.EXPIRED


async def test_certificate_for_all_time_is_valid(verifier: CertificateVerifier) -> None:
    """The ends of what a date can hold overflow nothing."""
    validity = tlv(
        der.SEQUENCE,
        tlv(der.GENERALIZED_TIME, b"00010101000000Z"),
        tlv(der.GENERALIZED_TIME, b"99991231235959Z"),
    )
    assert reason_of(await verifier.verify(Parts(validity=validity).certificate())) is None


# The registry


@pytest.mark.parametrize(
    "claimed",
    [b"self", b"latest", b"../latest", b"x" * 48, ALICE.address.encode() + b" ", b"\0"],
)
async def test_hotkey_that_cannot_exist_never_reaches_the_registry(
    verifier: CertificateVerifier, registry: FakeRegistry, claimed: bytes
) -> None:
    """Names that mean something to an API among them."""
    registry.at_hand = False
    await verifier.verify(Parts(subject=name(attribute(der.O_OID, claimed))).certificate())
    assert registry.lookups == []


@pytest.mark.parametrize("first", range(7))
async def test_cheap_refusal_asks_no_registry(
    first: int, verifier: CertificateVerifier, registry: FakeRegistry
) -> None:
    """Checks 3 to 8 need the certificate alone."""
    registry.at_hand = False
    _, defect = DEFECTS[first]
    await verifier.verify(Parts(**defect).certificate())  # type: ignore[arg-type] # Mixed.
    assert registry.lookups == []


async def test_what_is_at_hand_is_not_looked_up(
    verifier: CertificateVerifier, registry: FakeRegistry
) -> None:
    """A known caller costs the registry nothing."""
    await verifier.verify(to_der(a_certificate()))
    assert registry.lookups == []


@pytest.mark.parametrize(
    "certificate",
    [a_certificate(hotkey=a_hotkey("bob")), a_certificate(key=a_key("bob"))],
    ids=["unknown", "another key"],
)
async def test_unknown_or_mismatched_is_looked_up_once(
    verifier: CertificateVerifier, registry: FakeRegistry, certificate: object
) -> None:
    """The registry may know news; it limits by itself how often it asks."""
    await verifier.verify(to_der(certificate))  # type: ignore[arg-type] # A certificate.
    assert len(registry.lookups) == 1


async def test_registry_learns_which_key_was_shown(clock: FakeClock) -> None:
    """A key that is known to be another one may be out of date."""
    presented_keys: list[bytes] = []

    class Registry(FakeRegistry):
        async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
            presented_keys.append(presented)
            return await super().lookup(hotkey, presented=presented)

    verifier = CertificateVerifier(registry=Registry(), clock=clock)
    await verifier.verify(to_der(a_certificate()))
    assert presented_keys == [ALICE_KEY]


async def test_news_from_the_lookup_decide(
    verifier: CertificateVerifier, registry: FakeRegistry
) -> None:
    """Nothing at hand, but registered: granted after asking."""
    registry.at_hand = False
    assert reason_of(await verifier.verify(to_der(a_certificate()))) is None
    assert registry.lookups == [ALICE]


async def test_what_is_too_old_is_asked_for_again(
    verifier: CertificateVerifier, registry: FakeRegistry, clock: FakeClock
) -> None:
    """A registration is used until the moment it expires and not beyond, whatever `peek` says."""
    certificate = to_der(a_certificate())
    clock.now = registry.expires_at
    assert reason_of(await verifier.verify(certificate)) is None
    assert verifier.verify_remembered(certificate) is not None
    assert registry.lookups == []
    clock.advance(microseconds=1)
    registry.available = False
    assert verifier.verify_remembered(certificate) is None
    decision = await verifier.verify(certificate)
    assert reason_of(decision) is DenialReason.REGISTRY_UNAVAILABLE


@pytest.mark.parametrize("error", [RegistryUnavailable, RegistryAnswerInvalid, RegistryError])
async def test_registry_error_is_a_denial(clock: FakeClock, error: type[RegistryError]) -> None:
    """Not knowing is not granting."""

    class Registry(FakeRegistry):
        async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
            raise error("why")

    decision = await CertificateVerifier(registry=Registry(), clock=clock).verify(
        to_der(a_certificate())
    )
    assert isinstance(decision, Denied)
    assert decision.reason is DenialReason.REGISTRY_UNAVAILABLE
    assert decision.detail == "why"
    assert decision.hotkey == ALICE


@pytest.mark.parametrize(
    ("away", "expected"),
    [(timedelta(days=500), DenialReason.EXPIRED), (timedelta(0), None)],
)
async def test_time_that_passes_during_the_lookup_counts(
    clock: FakeClock, away: timedelta, expected: DenialReason | None
) -> None:
    """A certificate that expires while the registry is asked is refused."""

    class Slow(FakeRegistry):
        async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
            await asyncio.sleep(0)
            clock.now += away
            return await super().lookup(hotkey, presented=presented)

    registry = Slow({ALICE: ALICE_KEY})
    registry.at_hand = False
    verifier = CertificateVerifier(registry=registry, clock=clock)
    assert reason_of(await verifier.verify(to_der(a_certificate()))) is expected


async def test_rotated_key_takes_over_at_once(
    verifier: CertificateVerifier, registry: FakeRegistry
) -> None:
    """The old key ends in the instant in which the new one is known, remembered or not."""
    old, new = to_der(a_certificate()), to_der(a_certificate(key=a_key("alice 2")))
    assert reason_of(await verifier.verify(old)) is None
    assert reason_of(await verifier.verify(new)) is DenialReason.KEY_MISMATCH
    registry.keys[ALICE] = public_bytes(a_key("alice 2"))
    assert verifier.verify_remembered(old) is None
    assert reason_of(await verifier.verify(old)) is DenialReason.KEY_MISMATCH
    assert reason_of(await verifier.verify(new)) is None


# What is remembered


async def test_granted_certificate_is_not_parsed_or_proven_again(
    verifier: CertificateVerifier, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time, neither parser nor signature is needed."""
    certificate = to_pem(a_certificate())
    first = await verifier.verify(certificate)
    monkeypatch.setattr(module, "_parse_pem_or_der", None)
    monkeypatch.setattr(ClientCertificate, "is_self_signed", None)
    assert await verifier.verify(certificate) == first
    assert verifier.verify_remembered(certificate) == first
    # Nor where there is news of the registration.
    registry.expires_at += SECOND
    assert verifier.verify_remembered(certificate) != first
    assert isinstance(await verifier.verify(certificate), Granted)
    assert verifier.remembered == 1


async def test_grant_is_not_made_anew_while_nothing_has_changed(
    registry: FakeRegistry, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same registration object, the same grant; an equal one is looked at."""
    found = Registration(public_key=ALICE_KEY, expires_at=NOW + timedelta(hours=1))
    monkeypatch.setattr(registry, "peek", lambda _hotkey: found)
    verifier = CertificateVerifier(registry=registry, clock=clock)
    built = a_certificate()
    certificate = to_pem(built)
    await verifier.verify(certificate)
    first = verifier.verify_remembered(certificate)
    assert first is not None
    assert verifier.verify_remembered(certificate) is first
    # The policy is asked all the same.
    assert verifier.verify_remembered(certificate, policy=NOT_ALICE) is None
    assert verifier.verify_remembered(certificate) is first
    later = dataclasses.replace(found, expires_at=NOW + timedelta(minutes=1))
    found = later
    second = verifier.verify_remembered(certificate)
    assert second is not None
    assert second.expires_at == later.expires_at
    # So is the clock, by the registration's end and by the certificate's.
    clock.now = later.expires_at + timedelta(microseconds=1)
    assert verifier.verify_remembered(certificate) is None
    found = dataclasses.replace(found, expires_at=datetime.max.replace(tzinfo=UTC))
    end = built.not_valid_after_utc
    begin = built.not_valid_before_utc - DEFAULT_LEEWAY
    for clock.now, is_granted in (
        (end, True),
        (end + timedelta(microseconds=1), False),
        (begin, True),
        (begin - timedelta(microseconds=1), False),
        (begin, True),
    ):
        assert (verifier.verify_remembered(certificate) is not None) is is_granted


@pytest.mark.parametrize("first", range(len(DEFECTS)))
async def test_refused_certificate_is_not_remembered(
    first: int, verifier: CertificateVerifier
) -> None:
    """So that strangers cannot push callers out."""
    _, defect = DEFECTS[first]
    certificate = Parts(**defect).certificate()  # type: ignore[arg-type] # Mixed.
    decision = await verifier.verify(certificate, policy=NOT_ALICE)
    assert verifier.remembered == 0
    others = verifier._cache._others
    assert len(others) == int(reason_of(decision) is DenialReason.NOT_PERMITTED)
    assert verifier.verify_remembered(certificate) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("unregistered", DenialReason.NOT_REGISTERED),
        ("away", DenialReason.REGISTRY_UNAVAILABLE),
    ],
)
async def test_remembered_certificate_is_no_remembered_decision(
    verifier: CertificateVerifier, registry: FakeRegistry, change: str, expected: DenialReason
) -> None:
    """The registry is asked every time."""
    certificate = to_der(a_certificate())
    assert reason_of(await verifier.verify(certificate)) is None
    if change == "unregistered":
        del registry.keys[ALICE]
    else:
        registry.at_hand = registry.available = False
    assert verifier.verify_remembered(certificate) is None
    assert reason_of(await verifier.verify(certificate)) is expected
    registry.keys[ALICE], registry.at_hand, registry.available = ALICE_KEY, True, True
    assert verifier.verify_remembered(certificate) is not None


async def test_policy_is_asked_every_time(verifier: CertificateVerifier) -> None:
    """A remembered certificate gets in where the policy admits it, and nowhere else."""
    certificate = to_der(a_certificate())
    await verifier.verify(certificate)
    assert verifier.verify_remembered(certificate, policy=NOT_ALICE) is None
    decision = await verifier.verify(certificate, policy=NOT_ALICE)
    assert reason_of(decision) is DenialReason.NOT_PERMITTED
    assert verifier.verify_remembered(certificate) is not None


async def test_certificate_that_the_policy_alone_denies_is_not_proven_again(
    verifier: CertificateVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The costly signature is checked once, and a policy that changes its mind counts at once."""
    certificate = to_der(a_certificate())
    for _ in range(2):
        assert (
            reason_of(await verifier.verify(certificate, policy=NOT_ALICE))
            is DenialReason.NOT_PERMITTED
        )
        assert kept(verifier) == (0, 1)
        monkeypatch.delattr(ClientCertificate, "is_self_signed", raising=False)
    assert verifier.verify_remembered(certificate) is None
    assert reason_of(await verifier.verify(certificate)) is None
    assert kept(verifier) == (1, 0)
    assert (
        reason_of(await verifier.verify(certificate, policy=NOT_ALICE))
        is DenialReason.NOT_PERMITTED
    )
    assert kept(verifier) == (1, 0)


async def test_certificates_that_were_not_granted_take_no_room_from_callers(
    registry: FakeRegistry, clock: FakeClock
) -> None:
    """One that is registered can make any number of certificates."""
    verifier = CertificateVerifier(registry=registry, clock=clock, remember=2)
    bob = a_hotkey("bob")
    registry.keys[bob] = BOB_KEY
    certificate = to_der(a_certificate(hotkey=bob, key=a_key("bob")))
    assert reason_of(await verifier.verify(certificate, policy=NOT_ALICE)) is None
    for serial_number in range(1, 6):
        another = to_der(a_certificate(serial_number=serial_number))
        await verifier.verify(another, policy=NOT_ALICE)
    assert kept(verifier) == (1, 5)
    assert verifier.verify_remembered(certificate, policy=NOT_ALICE) is not None


async def test_memory_is_bounded_and_the_least_recently_used_goes(
    registry: FakeRegistry, clock: FakeClock
) -> None:
    """Only as many as agreed; callers that come often stay."""
    verifier = CertificateVerifier(registry=registry, clock=clock, remember=2)
    one, two, three = (to_der(a_certificate(serial_number=number)) for number in (1, 2, 3))
    await verifier.verify(one)
    await verifier.verify(two)
    assert verifier.verify_remembered(one) is not None
    await verifier.verify(three)
    assert verifier.remembered == 2
    kept = [ClientCertificate.from_der(data).fingerprint for data in (one, three)]
    assert [certificate.fingerprint for certificate in verifier.remembered_certificates()] == kept
    assert verifier.verify_remembered(two) is None
    assert verifier.verify_remembered(one) is not None
    assert verifier.verify_remembered(three) is not None
    await verifier.verify(one)
    await verifier.verify(two)
    assert verifier.verify_remembered(three) is None


async def test_nothing_is_remembered_where_that_is_wished(
    registry: FakeRegistry, clock: FakeClock
) -> None:
    """`remember=0`."""
    verifier = CertificateVerifier(registry=registry, clock=clock, remember=0)
    certificate = to_der(a_certificate())
    assert reason_of(await verifier.verify(certificate)) is None
    await verifier.verify(certificate, policy=NOT_ALICE)
    assert kept(verifier) == (0, 0)


@pytest.mark.parametrize(("excess", "remembered"), [(0, 1), (1, 0)])
async def test_padded_certificate_is_granted_and_not_remembered(
    verifier: CertificateVerifier, excess: int, remembered: int
) -> None:
    """A registered caller cannot fill the memory with padding."""
    client = der.extended_key_usage(der.CLIENT_AUTH_OID)

    def padded(size: int) -> bytes:
        filler = extension("1.2.3", bytes(size))
        return Parts(extensions=tlv(der.SEQUENCE, client, filler)).certificate()

    certificate = padded(2000 + MAX_REMEMBERED_BYTES + excess - len(padded(2000)))
    assert len(certificate) == MAX_REMEMBERED_BYTES + excess
    assert reason_of(await verifier.verify(certificate)) is None
    assert verifier.remembered == remembered


async def test_padded_certificate_that_the_policy_denies_is_proven_every_time(
    verifier: CertificateVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound, what is known of it is what stands in it, and no proof."""
    proofs: list[ClientCertificate] = []
    prove = ClientCertificate.is_self_signed

    def counted(certificate: ClientCertificate) -> bool:
        proofs.append(certificate)
        return prove(certificate)

    monkeypatch.setattr(ClientCertificate, "is_self_signed", counted)
    for excess, expected in ((0, 1), (1, 2)):
        pem = to_pem(a_certificate())
        value = pem + b" " * (MAX_REMEMBERED_BYTES + excess - len(pem))
        proofs.clear()
        for _ in range(2):
            decision = await verifier.verify(value, policy=NOT_ALICE)
            assert reason_of(decision) is DenialReason.NOT_PERMITTED
        assert len(proofs) == expected
        sizes = [size for _, size in verifier._cache._others.values()]
        assert verifier._cache._bytes == sum(sizes)


@pytest.mark.parametrize(("excess", "others"), [(0, 0), (1, 1)])
async def test_ordinary_certificate_that_was_not_granted_is_forgotten(
    clock: FakeClock, excess: int, others: int
) -> None:
    """Up to the size of an ordinary one, parsing it again costs less than keeping it."""
    verifier = CertificateVerifier(registry=FakeRegistry(), clock=clock)
    pem = to_pem(a_certificate())
    value = pem + b" " * (module.ORDINARY_BYTES + excess - len(pem))
    assert reason_of(await verifier.verify(value)) is DenialReason.NOT_REGISTERED
    assert kept(verifier) == (0, others)


async def test_oversized_certificate_is_parsed_once(clock: FakeClock) -> None:
    """Whoever shows milliseconds' worth of parsing again and again makes us spend them once."""
    parsed: list[bytes] = []

    def decode(value: bytes) -> ClientCertificate:
        parsed.append(value)
        if value.endswith(b"x"):
            raise CertificateRejected(DenialReason.MALFORMED_CERTIFICATE, "oversized")
        return ClientCertificate.from_pem(value)

    verifier = CertificateVerifier(registry=FakeRegistry(), clock=clock)
    nonsense = b"-" * module.ORDINARY_BYTES + b"x"
    unregistered = to_pem(a_certificate()) + b" " * module.ORDINARY_BYTES
    for value, reason in (
        (nonsense, DenialReason.MALFORMED_CERTIFICATE),
        (unregistered, DenialReason.NOT_REGISTERED),
    ):
        for _ in range(3):
            assert reason_of(await verifier.verify_encoded(value, decode=decode)) is reason
    assert parsed == [nonsense, unregistered]
    # Another function may read the same bytes differently.
    refused = await verifier.verify_encoded(nonsense, decode=functools.partial(decode))
    assert reason_of(refused) is DenialReason.MALFORMED_CERTIFICATE
    assert len(parsed) == 3


async def test_oversized_certificate_is_no_remembered_decision(
    registry: FakeRegistry, clock: FakeClock
) -> None:
    """What is known of it is what stands in it; time and registry are asked every time."""
    verifier = CertificateVerifier(registry=registry, clock=clock)
    value = to_pem(a_certificate()) + b" " * module.ORDINARY_BYTES
    assert reason_of(await verifier.verify(value)) is None
    registry.keys[ALICE] = BOB_KEY
    assert reason_of(await verifier.verify(value)) is DenialReason.KEY_MISMATCH
    registry.keys.clear()
    assert reason_of(await verifier.verify(value)) is DenialReason.NOT_REGISTERED
    clock.advance(days=4000)
    assert reason_of(await verifier.verify(value)) is DenialReason.EXPIRED


async def test_others_take_bounded_room(clock: FakeClock) -> None:
    """In number and in bytes: the oldest ones go when there are too many, or too large ones."""
    verifier = CertificateVerifier(registry=FakeRegistry(), clock=clock)
    cache = verifier._cache
    small, large = b"-" * module.ORDINARY_BYTES, b"-" * 40_000
    for number in range(module._OTHERS_KEPT + 10):
        await verifier.verify(small + str(number).encode())
    assert len(cache._others) == module._OTHERS_KEPT
    for number in range(200):
        await verifier.verify(large + str(number).encode())
        assert cache._bytes == sum(size for _, size in cache._others.values())
        assert cache._bytes <= module._OTHERS_BYTES
    assert len(cache._others) == module._OTHERS_BYTES // (len(large) + 3)


async def test_room_for_others_is_used_to_the_byte(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both bounds are the largest that is kept."""
    value = b"-" * (module.ORDINARY_BYTES + 1)
    monkeypatch.setattr(module, "_OTHERS_BYTES", 2 * len(value) + 2)
    verifier = CertificateVerifier(registry=FakeRegistry(), clock=clock)
    for number in range(2):
        await verifier.verify(value + str(number).encode())
    assert kept(verifier) == (0, 2)
    await verifier.verify(value + b"2")
    assert kept(verifier) == (0, 2)


async def test_concurrent_calls_agree(
    verifier: CertificateVerifier, registry: FakeRegistry
) -> None:
    """Many at once, known and unknown, each get their own answer."""
    registry.at_hand = False
    known, unknown = to_der(a_certificate()), to_der(a_certificate(hotkey=a_hotkey("bob")))
    decisions = await asyncio.gather(*(verifier.verify(one) for one in [known, unknown] * 20))
    assert [reason_of(one) for one in decisions] == [None, DenialReason.NOT_REGISTERED] * 20


@pytest.mark.parametrize("wrong", [{"leeway": -SECOND}, {"remember": -1}])
def test_negative_bounds_are_refused(
    registry: FakeRegistry, clock: FakeClock, wrong: dict[str, object]
) -> None:
    """A negative leeway would deny by surprise, a negative bound keep nothing by accident."""
    with pytest.raises(ValueError, match="not negative"):
        CertificateVerifier(registry=registry, clock=clock, **wrong)  # type: ignore[arg-type] # The point.
