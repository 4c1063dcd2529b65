"""What is found out, and said, before Pylon is asked for a key pair."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Final

import pytest

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.errors import (
    BulkNotOffered,
    IssuerUnavailable,
    IssuingRefused,
    RegistryError,
    RegistryUnavailable,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuance import ABSENT_CONFIRMATIONS, Order
from nexus_auth.domain.issuing import BACKDATING
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import KeyMap
from nexus_auth.domain.prospect import Comparison
from nexus_auth.entrypoints.issuing.preflight import Preflight
from nexus_auth.entrypoints.reporter import Reporter
from tests.builders import NOW, a_certificate, a_hotkey, a_key, public_bytes, to_der
from tests.fakes import FakeClock, FakeIssuer

ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
KEY: Final = public_bytes(a_key("alice"))
OTHER_KEY: Final = public_bytes(a_key("bob"))
AXON: Final = Place(ip="192.0.2.7", port=8091)
NO_AXON: Final = Place(ip="::", port=0)


class Scene:
    """A chain on which alice, for whom the identity speaks, serves an axon and has no key."""

    def __init__(self) -> None:
        self.issuer = FakeIssuer(ALICE)
        self.places: dict[Hotkey, Place] = {ALICE: AXON, BOB: AXON}
        self.place_error: RegistryError | None = None
        self.bulk_error: RegistryError | None = None
        self.comparisons = 0
        self.err = io.StringIO()
        self.preflight = self.a_preflight()

    def a_preflight(
        self, hotkey: Hotkey = ALICE, *, force: bool = False, netuid: int | None = 12
    ) -> Preflight:
        """Becomes the one that `check` runs."""
        self.preflight = Preflight(
            order=Order(hotkey=hotkey, valid_for=timedelta(days=1), force=force),
            compare=self.compare,
            fetch_keys=self.fetch_keys,
            fetch_place=self.fetch_place,
            netuid=netuid,
            clock=FakeClock(),
            reporter=Reporter(out=io.StringIO(), err=self.err),
            poll_seconds=0.0,
        )
        return self.preflight

    async def compare(self, hotkey: Hotkey) -> Comparison:
        """Counts how often it is asked."""
        self.comparisons += 1
        return await self.issuer.compare(hotkey)

    async def fetch_keys(self) -> KeyMap:
        """Fails while `bulk_error` is set."""
        if self.bulk_error is not None:
            raise self.bulk_error
        return await self.issuer.fetch_keys()

    async def fetch_place(self, hotkey: Hotkey) -> Place | None:
        """Fails while `place_error` is set."""
        if self.place_error is not None:
            raise self.place_error
        return self.places.get(hotkey)

    async def refusal(self) -> str:
        """Runs the preflight, which has to stop; returns what it says."""
        with pytest.raises(IssuingRefused) as caught:
            await self.preflight.check(None)
        assert not caught.value.key_may_have_changed
        assert "Nothing was changed" in str(caught.value)
        return str(caught.value)


@pytest.fixture
def scene() -> Scene:
    """A new scene."""
    return Scene()


async def test_first_key_of_a_bare_subnet_is_not_waited_for(scene: Scene) -> None:
    """There is none that could be replaced."""
    await scene.preflight.check(None)
    assert scene.comparisons == 1
    assert "WARNING" not in scene.err.getvalue()


@pytest.mark.parametrize("bulk_error", [None, BulkNotOffered("old"), RegistryUnavailable("busy")])
async def test_missing_key_is_believed_when_it_is_missing_often(
    scene: Scene, bulk_error: RegistryError | None
) -> None:
    """To Pylon, "no key" and "cannot read the chain" are one answer."""
    scene.issuer.chain[BOB] = OTHER_KEY
    scene.bulk_error = bulk_error
    await scene.preflight.check(None)
    assert scene.comparisons == ABSENT_CONFIRMATIONS


async def test_identity_with_the_key_of_the_address_is_good_at_once(scene: Scene) -> None:
    """One comparison says all."""
    scene.issuer.chain = {ALICE: KEY, BOB: OTHER_KEY}
    await scene.preflight.check(None)
    assert scene.comparisons == 1


@pytest.mark.parametrize("force", [False, True])
async def test_mixed_up_address_is_stopped_and_the_right_one_named(
    scene: Scene, *, force: bool
) -> None:
    """Whether the address has a key of its own or none."""
    for chain in ({ALICE: KEY}, {ALICE: KEY, BOB: OTHER_KEY}):
        scene.issuer.chain = chain
        scene.comparisons = 0
        scene.a_preflight(BOB, force=force)
        said = await scene.refusal()
        assert f"-ss58-address is {BOB}, but the Pylon identity is {ALICE}" in said
        assert "would replace its key" in said
        assert f"name {ALICE} as -ss58-address" in said
        assert f"identity of {BOB}" in said
        assert scene.comparisons == ABSENT_CONFIRMATIONS


async def test_mixed_up_address_is_stopped_where_the_right_one_cannot_be_named(
    scene: Scene,
) -> None:
    """A Pylon that does not give all keys at once."""
    scene.bulk_error = BulkNotOffered("old")
    scene.issuer.chain = {ALICE: KEY}
    scene.a_preflight(BOB)
    said = await scene.refusal()
    assert "the Pylon identity is another hotkey (a new pair would replace its key)" in said
    assert f"use the endpoint, name and token of the identity of {BOB}" in said


async def test_identity_without_a_key_is_not_the_address_that_has_one(scene: Scene) -> None:
    """The pair would never work."""
    scene.issuer.chain = {BOB: OTHER_KEY}
    scene.a_preflight(BOB)
    said = await scene.refusal()
    assert "the Pylon identity is another hotkey (it has no key, unlike that)" in said


async def test_key_of_two_hotkeys_is_replaced_by_force_alone(scene: Scene) -> None:
    """Which of them the identity is cannot be seen."""
    scene.issuer.chain = {ALICE: KEY, BOB: KEY}
    said = await scene.refusal()
    assert f"{ALICE} has the same key on chain as {BOB}" in said
    assert "-force-recreate" in said
    await scene.a_preflight(force=True).check(None)


async def test_chain_that_cannot_be_read_decides_nothing(scene: Scene) -> None:
    """Its error comes as it is: exit code 3."""
    scene.issuer.error = IssuerUnavailable("away")
    with pytest.raises(IssuerUnavailable):
        await scene.preflight.check(None)


async def test_hotkey_without_a_place_is_stopped(scene: Scene) -> None:
    """The subnet is named, and what may be wrong."""
    del scene.places[ALICE]
    said = await scene.refusal()
    for words in (f"{ALICE} has no place on subnet 12", "register", "NEXUS_PYLON_NETUID"):
        assert words in said


@pytest.mark.parametrize(("netuid", "shown"), [(12, "12"), (None, "NETUID")])
@pytest.mark.parametrize("force", [False, True])
async def test_hotkey_without_an_axon_is_stopped(
    scene: Scene, netuid: int | None, shown: str, *, force: bool
) -> None:
    """Both remedies are shown, and the wait that comes after the first."""
    scene.places[ALICE] = NO_AXON
    scene.a_preflight(force=force, netuid=netuid)
    said = await scene.refusal()
    assert f"{ALICE} serves no axon" in said
    assert f"btcli axon set --netuid {shown} --ip 0.0.0.0 --port 1" in said
    assert "generate -local" in said
    assert "10 minutes" in said


@pytest.mark.parametrize(
    ("blocks", "wait", "at"),
    [(1, "1 minute,", 12), (25, "5 minutes,", 300), (26, "6 minutes", 312)],
)
async def test_rate_limit_that_is_known_is_waited_for(
    scene: Scene, blocks: int, wait: str, at: int
) -> None:
    """In minutes, rounded up, and as a time of day."""
    scene.places[ALICE] = Place(ip="192.0.2.7", port=8091, blocks_to_wait=blocks)
    said = await scene.refusal()
    assert f"for {blocks} blocks" in said
    assert f"in {wait}" in said
    assert f"after {NOW + timedelta(seconds=at):%H:%M:%S} UTC" in said


async def test_place_that_cannot_be_read_stops_nothing(scene: Scene) -> None:
    """A Pylon of the first generation before November 2025 has no neurons."""
    scene.place_error = RegistryUnavailable("no neurons")
    await scene.preflight.check(None)


def made(minutes_ago: float) -> ClientCertificate:
    """Alice's certificate, made so long ago."""
    made_at = NOW - timedelta(minutes=minutes_ago)
    return ClientCertificate.from_der(to_der(a_certificate(not_before=made_at - BACKDATING)))


@pytest.mark.parametrize(("minutes_ago", "is_warned"), [(0, True), (3, True), (10, False)])
async def test_young_pair_is_warned_of(
    scene: Scene, minutes_ago: float, *, is_warned: bool
) -> None:
    """The guess stops nothing: the subnet's limit may be shorter, and a leaked key must go."""
    scene.issuer.chain = {ALICE: KEY}
    await scene.preflight.check(made(minutes_ago))
    until = f"after {NOW + timedelta(minutes=10 - minutes_ago):%H:%M:%S} UTC"
    assert (f"If it refuses, run this again {until}" in scene.err.getvalue()) is is_warned
    assert (until in scene.preflight.likely_refusals()) is is_warned


async def test_refusal_is_explained_by_what_was_read(scene: Scene) -> None:
    """What was ruled out is not named; where nothing is known, the likeliest comes first."""
    await scene.preflight.check(None)
    said = scene.preflight.likely_refusals()
    assert said.index("rate limit") < said.index("serves no axon") < said.index("not registered")
    scene.issuer.chain = {ALICE: KEY}
    await scene.a_preflight().check(None)
    said = scene.preflight.likely_refusals()
    assert f"{ALICE} served its axon" in said
    assert "serves no axon" not in said
    scene.issuer.chain = {}
    scene.place_error = RegistryUnavailable("no neurons")
    await scene.a_preflight().check(None)
    said = scene.preflight.likely_refusals()
    assert said.index("the identity's hotkey serves no axon") < said.index("served its axon")
