from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.domain.errors import (
    CredentialsError,
    IssuerUnavailable,
    IssuingError,
    IssuingRefused,
    RegistryUnavailable,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuance import ABSENT_CONFIRMATIONS, Order
from nexus_auth.domain.issuing import Credentials
from nexus_auth.domain.ports import IssuedKeyPair, KeyMap
from nexus_auth.domain.server_name import names_of, parse_names
from nexus_auth.entrypoints.issuing.hook import Hook
from nexus_auth.entrypoints.issuing.issuance import Issuance, is_nothing_to_do
from nexus_auth.entrypoints.issuing.preflight import Preflight
from nexus_auth.entrypoints.reporter import Reporter
from tests.builders import a_hotkey, a_key, public_bytes
from tests.fakes import FakeClock, FakeIssuer
from tests.unit.adapters.credentials.pairs import a_pair

ALICE = a_hotkey("alice")
BOB = a_hotkey("bob")
DAY = timedelta(days=1)


class Scene:
    """A directory, an issuer for alice and a clock; `run` carries out one order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = CredentialsDirectory(path)
        self.issuer = FakeIssuer(ALICE)
        self.fetch_keys = self.issuer.fetch_keys
        self.clock = FakeClock()
        self.out, self.err = io.StringIO(), io.StringIO()
        self.preflight: Preflight | None = None

    async def run(
        self,
        *,
        hotkey: Hotkey = ALICE,
        days: int = 3650,
        force: bool = False,
        reuse_key: bool = False,
        renew_before: timedelta | None = None,
        confirm_seconds: float = 0.05,
        after_change: str | None = None,
        san: str | None = None,
    ) -> int:
        """Carries out one order, with short waits."""
        order = Order(
            hotkey=hotkey,
            algorithm=1,
            valid_for=days * DAY,
            force=force,
            reuse_key=reuse_key,
            renew_before=renew_before,
            names=None if san is None else parse_names(san),
        )
        return await Issuance(
            order=order,
            directory=CredentialsDirectory(self.path, will_notify=after_change is not None),
            issuer=self.issuer,
            fetch_keys=self.fetch_keys,
            clock=self.clock,
            reporter=Reporter(out=self.out, err=self.err),
            after_change=None if after_change is None else Hook.parse(after_change),
            preflight=self.preflight,
            confirm_seconds=confirm_seconds,
            poll_seconds=0.01,
        ).run()

    def a_preflight(self, *, hotkey: Hotkey = ALICE) -> Preflight:
        """A preflight for this hotkey; nothing is known of places."""
        return Preflight(
            order=Order(hotkey=hotkey, valid_for=DAY),
            compare=self.issuer.compare,
            fetch_keys=self.issuer.fetch_keys,
            fetch_place=AsyncMock(side_effect=RegistryUnavailable("no such question")),
            netuid=1,
            clock=self.clock,
            reporter=Reporter(out=self.out, err=self.err),
            poll_seconds=0.0,
        )

    @property
    def pair(self) -> Credentials:
        """What is on disk."""
        return self.directory.load()

    @property
    def san(self) -> str:
        """The names in the certificate on disk."""
        names = names_of(self.directory.certificate_path.read_bytes())
        assert names is not None
        return ",".join(str(each.value) for each in names)

    @property
    def is_on_chain(self) -> bool:
        """Whether the pair on disk is the one that the chain has."""
        return self.issuer.chain[ALICE] == self.pair.certificate.public_key

    @property
    def names(self) -> list[str]:
        """Every file there, hidden ones included."""
        return sorted(each.name for each in self.path.iterdir())


PAIR = ["client.crt", "client.key"]
BOTH_PAIRS = ["client.crt", "client.crt.old", "client.key", "client.key.old"]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A new scene, with nothing on disk and nothing on chain."""
    return Scene(tmp_path / "certs")


async def test_pair_is_made_written_and_confirmed(scene: Scene) -> None:
    """With the hotkey that was named and for as long as was asked."""
    assert await scene.run(days=10) == 0
    assert scene.is_on_chain
    assert scene.pair.certificate.hotkey == ALICE
    assert scene.pair.certificate.not_after == scene.clock.now + 10 * DAY
    assert scene.names == PAIR
    assert "Confirmed" in scene.out.getvalue()


async def test_pair_that_is_there_is_enough(scene: Scene) -> None:
    """No request is made."""
    await scene.run()
    asked = scene.issuer.asked
    assert await scene.run() == 0
    assert (scene.issuer.made, scene.issuer.asked) == (1, asked)


NAMED = "miner.example.com,192.0.2.7"


@pytest.mark.parametrize(
    ("how", "made"),
    [
        ({"force": True}, 2),
        ({"reuse_key": True}, 1),
        ({"renew_before": 20 * DAY}, 2),
        ({"renew_before": 20 * DAY, "reuse_key": True}, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("san", "expected"), [(None, NAMED), ("other.example", "other.example"), ("", "")]
)
async def test_new_certificate_keeps_the_names_unless_others_are_given(
    scene: Scene, how: dict[str, Any], made: int, san: str | None, expected: str
) -> None:
    """A timer's renewal would otherwise lose the name by which clients check the server."""
    assert await scene.run(days=10, san=NAMED) == 0
    assert scene.san == NAMED
    assert "valid until" in scene.out.getvalue()
    assert ", for miner.example.com, 192.0.2.7." in scene.out.getvalue()
    before = scene.pair.certificate.fingerprint
    assert await scene.run(**how, san=san) == 0
    assert (scene.san, scene.issuer.made) == (expected, made)
    assert scene.pair.certificate.fingerprint != before
    assert scene.pair.certificate.hotkey == ALICE
    assert scene.is_on_chain
    assert "WARNING" not in scene.err.getvalue()


async def test_names_are_kept_though_the_directory_goes_away_meanwhile(scene: Scene) -> None:
    """They are read before Pylon is asked, and stand in the recovery file as well."""
    await scene.run(san=NAMED)

    class MovingIssuer(FakeIssuer):
        async def generate(self, *, algorithm: int) -> IssuedKeyPair:
            scene.path.rename(scene.path.with_name("moved"))
            return await super().generate(algorithm=algorithm)

    scene.issuer = MovingIssuer(ALICE)
    with pytest.raises(CredentialsError, match="recovered"):
        await scene.run(force=True)
    [path] = scene.path.parent.glob("nexus-auth-recovered-*.pem")
    _, begin, rest = path.read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    assert names_of(begin + rest) == parse_names(NAMED)


async def test_names_that_cannot_be_read_are_warned_of(scene: Scene) -> None:
    """Where a certificate is there: what it said is lost, and clients may miss it."""
    await scene.run(san=NAMED)
    scene.directory.certificate_path.write_bytes(b"damaged")
    assert await scene.run(reuse_key=True) == 0
    assert scene.san == ""
    assert "names in" in scene.err.getvalue()
    scene.directory.certificate_path.unlink()
    shown = len(scene.err.getvalue())
    assert await scene.run(reuse_key=True, san="b.example") == 0
    assert scene.san == "b.example"
    assert "WARNING" not in scene.err.getvalue()[shown:]


async def test_certificate_that_stays_is_compared_with_the_names(scene: Scene) -> None:
    """A renewal that is not due changes nothing, and says that the names are others."""
    await scene.run(san=NAMED)
    for san, is_warned in ((None, False), (NAMED, False), ("", True), ("b.example", True)):
        shown = len(scene.err.getvalue())
        assert await scene.run(renew_before=DAY, san=san) == 0
        assert ("other names" in scene.err.getvalue()[shown:]) is is_warned
        assert scene.san == NAMED


@pytest.mark.parametrize(
    ("error", "is_recorded"),
    [
        (IssuingRefused("no"), False),
        (IssuingRefused("nonsense", key_may_have_changed=True), True),
        (IssuerUnavailable("cannot connect", key_may_have_changed=False), False),
        (IssuerUnavailable("away"), True),
    ],
)
async def test_failure_leaves_what_is_there(
    scene: Scene, error: IssuingError, *, is_recorded: bool
) -> None:
    """To the last file, and the record of a request that may have replaced the key on chain."""
    await scene.run()
    before = scene.pair.certificate.fingerprint
    scene.issuer.error = error
    for _ in range(2):  # A second request has one record more, which stands for both.
        with pytest.raises(type(error)):
            await scene.run(force=True)
    assert scene.pair.certificate.fingerprint == before
    assert scene.names[-2:] == PAIR
    assert len(scene.names) == 2 + is_recorded
    assert (scene.directory.requested_at() is not None) is is_recorded


class TestRequestWithoutAnAnswer:
    """An earlier run asked Pylon for a pair, and its answer is not on disk."""

    async def leave_request(self, scene: Scene, *, minutes_ago: float = 60) -> None:
        """A pair that was good, and a request that failed without saying whether it did a thing."""
        await scene.run()
        scene.issuer.error = IssuerUnavailable("took too long")
        with pytest.raises(IssuerUnavailable):
            await scene.run(force=True)
        scene.issuer.error = None
        [record] = scene.directory.requests()
        at = (scene.clock.now - timedelta(minutes=minutes_ago)).timestamp()
        os.utime(record, (at, at))

    async def test_replaced_key_is_named_and_nothing_else_is_done(self, scene: Scene) -> None:
        """As often as the command is run without a flag that asks for more."""
        await self.leave_request(scene)
        scene.issuer.chain[ALICE] = public_bytes(a_key("lost"))
        for _ in range(2):
            with pytest.raises(CredentialsError) as caught:
                await scene.run()
            text = str(caught.value)
            assert "the key on chain has been replaced" in text
            assert "another key" in text
            assert "lost" in text
            assert "refused" in text
            assert "-force-recreate" in text
        assert scene.issuer.made == 1
        assert await scene.run(force=True) == 0
        assert scene.is_on_chain
        assert scene.names == PAIR

    async def test_key_that_is_nowhere_is_looked_for_more_than_once(self, scene: Scene) -> None:
        """Pylon says the same when it cannot read the chain."""
        await self.leave_request(scene)
        asked = scene.issuer.asked
        del scene.issuer.chain[ALICE]
        with pytest.raises(CredentialsError, match="no key"):
            await scene.run()
        assert scene.issuer.asked == asked + ABSENT_CONFIRMATIONS

    @pytest.mark.parametrize("renew_before", [None, 30 * DAY])
    async def test_request_that_changed_nothing_is_forgotten(
        self, scene: Scene, renew_before: timedelta | None
    ) -> None:
        """Once it is old enough: from then on, the pair is enough again."""
        await self.leave_request(scene, minutes_ago=15)
        assert await scene.run(renew_before=renew_before) == 0
        assert "changed nothing" in scene.err.getvalue()
        assert scene.names == PAIR
        assert scene.issuer.made == 1
        asked = scene.issuer.asked
        assert await scene.run() == 0
        assert scene.issuer.asked == asked

    @pytest.mark.parametrize("renew_before", [None, 30 * DAY])
    async def test_request_that_may_still_take_effect_is_remembered(
        self, scene: Scene, renew_before: timedelta | None
    ) -> None:
        """Pylon may be at work on it: the pair is good now, and the next run looks again."""
        await self.leave_request(scene, minutes_ago=14)
        assert await scene.run(renew_before=renew_before) == 0
        assert "may still take effect" in scene.err.getvalue()
        assert scene.directory.requested_at() is not None
        scene.issuer.chain[ALICE] = public_bytes(a_key("lost"))
        with pytest.raises(CredentialsError, match="has been replaced"):
            await scene.run()

    async def test_chain_that_cannot_be_read_decides_nothing(self, scene: Scene) -> None:
        """The record stays; the exit code tells of Pylon."""
        await self.leave_request(scene)
        scene.issuer.error = IssuerUnavailable("away")
        with pytest.raises(IssuerUnavailable):
            await scene.run()
        assert scene.directory.requested_at() is not None
        assert scene.issuer.made == 1

    async def test_renewal_replaces_a_key_that_is_lost(self, scene: Scene) -> None:
        """As it does whenever the chain has another one: that is what it is for."""
        await self.leave_request(scene)
        scene.issuer.chain[ALICE] = public_bytes(a_key("lost"))
        assert await scene.run(renew_before=30 * DAY) == 0
        assert "its answer is lost" in scene.err.getvalue()
        assert scene.is_on_chain
        assert scene.names == PAIR

    async def test_first_pair_that_was_lost_is_named_and_made_again(self, scene: Scene) -> None:
        """There is nothing that could be compared, and nothing that a new pair could spoil."""
        scene.issuer.error = IssuerUnavailable("took too long")
        with pytest.raises(IssuerUnavailable):
            await scene.run()
        scene.issuer.error = None
        assert await scene.run() == 0
        assert "its answer is lost" in scene.err.getvalue()
        assert scene.is_on_chain
        assert scene.names == PAIR

    async def test_pair_that_cannot_be_read_is_reported(self, scene: Scene) -> None:
        """It cannot be compared with the chain, and only a flag has it replaced."""
        await self.leave_request(scene)
        scene.directory.certificate_path.write_text("damaged")
        with pytest.raises(CredentialsError, match=r"cannot be compared.*-force-recreate"):
            await scene.run()
        assert scene.issuer.made == 1

    async def test_directory_is_not_done_while_there_is_one(self, scene: Scene) -> None:
        """Else `generate` would end before it looks at anything."""
        order = Order(hotkey=ALICE, valid_for=DAY)
        await scene.run()
        assert is_nothing_to_do(order, scene.directory)
        await self.leave_request(scene)
        assert not is_nothing_to_do(order, scene.directory)


@pytest.mark.parametrize(
    ("error", "is_said"),
    [
        (IssuingRefused("no"), False),
        (IssuingRefused("nonsense", key_may_have_changed=True), True),
        (IssuerUnavailable("away"), True),
    ],
)
async def test_key_that_may_have_changed_on_chain_is_reported(
    scene: Scene, error: IssuingError, *, is_said: bool
) -> None:
    """The pair on disk would otherwise be taken for good."""
    scene.issuer.error = error
    with pytest.raises(type(error)) as caught:
        await scene.run()
    assert ("-force-recreate" in str(caught.value)) is is_said


async def test_old_pair_is_kept_until_the_new_one_is_on_chain(scene: Scene) -> None:
    """And removed by whichever run sees it there first."""
    await scene.run()
    old = scene.pair
    await scene.run(force=True, confirm_seconds=0)
    assert scene.names == BOTH_PAIRS
    assert (scene.path / "client.key.old").read_bytes() == old.key_pem
    assert await scene.run(renew_before=30 * DAY) == 0
    assert scene.names == PAIR
    assert scene.issuer.made == 2


async def test_wrong_address_is_explained(scene: Scene) -> None:
    """By the hotkey that has the key; the files are written all the same, once: a failure."""
    scene.path = scene.path.with_name("two words")
    scene.directory = CredentialsDirectory(scene.path)
    assert await scene.run(hotkey=BOB) == 1
    warning = scene.err.getvalue()
    assert f"names {BOB}" in warning
    assert f"belongs to {ALICE}" in warning
    assert f"-reuse-key -ss58-address {ALICE} -output-dir '{scene.path}'" in warning
    assert "Confirmed" not in scene.out.getvalue()
    assert await scene.run(reuse_key=True) == 0
    assert scene.pair.certificate.hotkey == ALICE
    assert scene.issuer.made == 1


async def test_wrong_address_is_suspected_where_the_holder_of_the_key_is_not_known(
    scene: Scene,
) -> None:
    """A Pylon without the bulk question knows less, and the old pair stays."""

    async def cannot_say() -> KeyMap:
        raise RegistryUnavailable("no such question")

    scene.fetch_keys = cannot_say
    await scene.run()
    scene.issuer.chain[BOB] = public_bytes(a_key("bob"))
    assert await scene.run(hotkey=BOB, force=True) == 0
    assert f"another key for {BOB}" in scene.err.getvalue()
    assert "kept beside" in scene.err.getvalue()
    assert scene.names == BOTH_PAIRS


@pytest.mark.parametrize(("is_asked", "code"), [(True, 1), (False, 0)])
async def test_wrong_address_is_a_failure_where_the_identity_itself_has_the_key(
    scene: Scene, *, is_asked: bool, code: int
) -> None:
    """A Pylon without the bulk question: the key is at `self`, and not at the address."""

    async def cannot_say() -> KeyMap:
        raise RegistryUnavailable("no such question")

    scene.fetch_keys = cannot_say
    if is_asked:
        scene.preflight = scene.a_preflight(hotkey=BOB)
    assert await scene.run(hotkey=BOB) == code
    said = "the Pylon identity, which is another hotkey" if is_asked else f"no key for {BOB}"
    assert said in scene.err.getvalue()


async def test_preflight_stops_the_run_before_anything_is_asked_or_written(scene: Scene) -> None:
    """The key that the identity has stays; no record of a request is left."""
    await scene.run()
    scene.preflight = scene.a_preflight(hotkey=BOB)
    before = dict(scene.issuer.chain)
    for force in (False, True):
        scene.path = scene.path.with_name(f"other-{force}")
        with pytest.raises(IssuingRefused, match=str(ALICE)):
            await scene.run(hotkey=BOB, force=force)
        assert scene.names == []
    assert (scene.issuer.made, scene.issuer.chain) == (1, before)


@pytest.mark.parametrize(
    ("error", "is_explained"),
    [
        (IssuingRefused("no"), True),
        (IssuerUnavailable("failed"), True),
        (IssuingRefused("no"), False),
        (IssuerUnavailable("took too long"), False),
    ],
)
async def test_refusal_of_the_chain_is_explained(
    scene: Scene, error: IssuingError, *, is_explained: bool
) -> None:
    """Where it may be one."""
    scene.preflight = scene.a_preflight()
    scene.issuer.generate = AsyncMock(side_effect=error)  # type: ignore[method-assign]  # as said
    error.chain_may_have_refused = is_explained
    with pytest.raises(type(error)) as caught:
        await scene.run()
    assert ("serves no axon" in str(caught.value)) is is_explained


async def test_confirmation_waits_for_a_slow_chain(scene: Scene) -> None:
    """The key may appear later than Pylon's answer."""
    late = scene.issuer.published_key

    async def published_key(hotkey: Hotkey) -> bytes | None:
        return None if scene.issuer.asked < 3 and not await late(BOB) else await late(hotkey)

    scene.issuer.published_key = published_key  # type: ignore[method-assign]  # a slow chain
    scene.fetch_keys = _no_keys
    assert await scene.run(confirm_seconds=5) == 0
    assert "Confirmed" in scene.out.getvalue()


async def _no_keys() -> KeyMap:
    return KeyMap(keys={}, rejected=0)


async def test_pylon_that_dies_after_issuing_is_a_warning(scene: Scene) -> None:
    """The pair is written; whether it works is what is not known, and the old one is kept."""
    await scene.run()
    make = scene.issuer.generate

    async def generate_and_die(*, algorithm: int) -> object:
        pair = await make(algorithm=algorithm)
        scene.issuer.error = IssuerUnavailable("gone")
        return pair

    scene.issuer.generate = generate_and_die  # type: ignore[assignment, method-assign]  # as said
    assert await scene.run(force=True) == 0
    assert scene.is_on_chain
    assert "could not be found out: gone\nThe old pair is kept" in scene.err.getvalue()


async def test_interrupted_run_is_finished_and_confirmed(scene: Scene) -> None:
    """Without another key."""
    await scene.run()
    pair = scene.pair
    (scene.path / ".client-pair.pending").write_bytes(pair.key_pem + pair.certificate_pem)
    scene.directory.certificate_path.unlink()
    assert await scene.run() == 0
    assert scene.pair.certificate.fingerprint == pair.certificate.fingerprint
    assert scene.issuer.made == 1
    assert "interrupted" in scene.err.getvalue()


async def test_interrupted_run_whose_pair_is_not_in_place_says_where_it_is(scene: Scene) -> None:
    """Where the files in place are newer, as after a backup was put back, and nothing is confirmed.

    Its key may be the one on chain.
    """
    await scene.run()
    journal = scene.path / ".client-pair.pending"
    other = a_pair("other")
    journal.write_bytes(other.key_pem + other.certificate_pem)
    os.utime(journal, (1, 1))
    assert await scene.run(confirm_seconds=0.0) == 0
    assert ".old" in scene.err.getvalue()
    assert (scene.path / "client.key.old").read_bytes() == other.key_pem


@pytest.mark.parametrize("renew_before", [None, 30 * DAY])
@pytest.mark.parametrize("is_away", [False, True])
async def test_hook_runs_after_an_interrupted_run_was_finished(
    scene: Scene, tmp_path: Path, renew_before: timedelta | None, *, is_away: bool
) -> None:
    """Once, also where nothing else is left to do, or where Pylon cannot be asked."""
    await scene.run()
    pair = scene.pair
    (scene.path / ".client-pair.pending").write_bytes(pair.key_pem + pair.certificate_pem)
    scene.directory.certificate_path.unlink()
    if is_away:
        scene.issuer.error = IssuerUnavailable("away")
    hook = f"sh -c 'echo x >> {tmp_path / 'ran'}'"
    with contextlib.suppress(IssuerUnavailable):
        assert await scene.run(renew_before=renew_before, after_change=hook) == 0
    assert (tmp_path / "ran").read_text() == "x\n"
    scene.issuer.error = None
    (scene.path / ".client-pair.pending").write_bytes(pair.key_pem + pair.certificate_pem)
    assert await scene.run(renew_before=renew_before, after_change="sh -c 'exit 3'") == 1


@pytest.mark.parametrize("name", PAIR)
@pytest.mark.parametrize("renew_before", [None, 30 * DAY])
async def test_half_a_pair_is_refused(
    scene: Scene, name: str, renew_before: timedelta | None
) -> None:
    """It may be the only copy of a key; force replaces it."""
    scene.path.mkdir()
    (scene.path / name).write_text("mine")
    with pytest.raises(CredentialsError, match=f"holds only {name}"):
        await scene.run(renew_before=renew_before)
    assert scene.issuer.made == 0
    assert await scene.run(force=True) == 0
    assert scene.is_on_chain


class TestRenewal:
    """`-renew-before-days`: what a timer runs every day."""

    async def test_good_pair_is_left_alone(self, scene: Scene, tmp_path: Path) -> None:
        """One question, no change, no hook."""
        await scene.run()
        before = scene.pair.certificate.fingerprint
        assert await scene.run(renew_before=30 * DAY, after_change=f"touch {tmp_path / 'ran'}") == 0
        assert scene.pair.certificate.fingerprint == before
        assert not (tmp_path / "ran").exists()
        assert "3650 more days" in scene.out.getvalue()

    async def test_missing_pair_is_made(self, scene: Scene) -> None:
        """The first run needs no other command."""
        assert await scene.run(renew_before=30 * DAY) == 0
        assert scene.is_on_chain

    @pytest.mark.parametrize(
        ("passed", "made"),
        [(timedelta(days=69, hours=23), 1), (70 * DAY, 2), (200 * DAY, 2)],
    )
    async def test_pair_is_replaced_when_its_time_has_come(
        self, scene: Scene, passed: timedelta, made: int
    ) -> None:
        """Not before; and long after its end as well."""
        await scene.run(days=100)
        scene.clock.now += passed
        assert await scene.run(days=100, renew_before=30 * DAY) == 0
        assert scene.issuer.made == made
        assert scene.is_on_chain
        assert scene.names == PAIR

    async def test_key_that_is_not_on_chain_is_replaced(self, scene: Scene) -> None:
        """Another one was made elsewhere."""
        await scene.run()
        scene.issuer.chain[ALICE] = public_bytes(a_key("elsewhere"))
        assert await scene.run(renew_before=30 * DAY) == 0
        assert scene.issuer.made == 2
        assert scene.is_on_chain

    async def test_key_that_is_nowhere_is_looked_for_more_than_once(self, scene: Scene) -> None:
        """To Pylon, "not there" and "cannot see now" are one answer."""
        await scene.run()
        key = scene.issuer.chain.pop(ALICE)
        read = scene.issuer.published_key

        async def published_key(hotkey: Hotkey) -> bytes | None:
            found = await read(hotkey)
            scene.issuer.chain[ALICE] = key  # from the second time on
            return found

        scene.issuer.published_key = published_key  # type: ignore[method-assign]  # a bad moment
        assert await scene.run(renew_before=30 * DAY) == 0
        assert scene.issuer.made == 1
        del scene.issuer.chain[ALICE]
        scene.issuer.published_key = read  # type: ignore[method-assign]
        assert await scene.run(renew_before=30 * DAY) == 0
        assert scene.issuer.made == 2

    async def test_what_is_not_known_is_no_reason_to_replace(self, scene: Scene) -> None:
        """Not even when the certificate ends soon."""
        await scene.run(days=10)
        before = scene.pair.certificate.fingerprint
        scene.issuer.error = IssuerUnavailable("away")
        with pytest.raises(IssuerUnavailable):
            await scene.run(renew_before=9 * DAY)
        assert scene.pair.certificate.fingerprint == before

    async def test_pair_that_cannot_be_read_is_replaced(self, scene: Scene) -> None:
        """Its remains are in `.old` until the new one is confirmed."""
        await scene.run()
        scene.directory.certificate_path.write_text("damaged")
        assert await scene.run(renew_before=30 * DAY, confirm_seconds=0) == 0
        assert scene.is_on_chain
        assert (scene.path / "client.crt.old").read_text() == "damaged"

    async def test_certificate_of_another_hotkey_is_refused(self, scene: Scene) -> None:
        """A timer with a wrong directory must not destroy what is there."""
        await scene.run()
        with pytest.raises(CredentialsError, match=f"certificate of {ALICE}, not of {BOB}"):
            await scene.run(hotkey=BOB, renew_before=30 * DAY)
        assert scene.issuer.made == 1


class TestReusingTheKey:
    """`-reuse-key`: a new certificate, and the chain is not touched."""

    async def test_certificate_is_new_and_key_is_not(self, scene: Scene) -> None:
        """The key file keeps its bytes."""
        await scene.run(days=10)
        old = scene.pair
        assert await scene.run(reuse_key=True) == 0
        assert scene.pair.key_pem == old.key_pem
        assert scene.pair.certificate.not_after == scene.clock.now + 3650 * DAY
        assert scene.issuer.made == 1
        assert scene.names == PAIR

    async def test_lost_certificate_is_made_again(self, scene: Scene) -> None:
        """The private key is all that cannot be."""
        await scene.run()
        scene.directory.certificate_path.unlink()
        assert await scene.run(reuse_key=True) == 0
        assert scene.is_on_chain

    async def test_renewal_keeps_the_key_where_it_is_good(self, scene: Scene) -> None:
        """Together with `-renew-before-days`."""
        await scene.run(days=10)
        old = scene.pair
        assert await scene.run(reuse_key=True, renew_before=30 * DAY) == 0
        assert scene.pair.key_pem == old.key_pem
        assert scene.pair.certificate.fingerprint != old.certificate.fingerprint
        assert await scene.run(reuse_key=True, renew_before=30 * DAY) == 0
        assert scene.issuer.made == 1

    async def test_key_that_is_not_on_chain_is_not_renewed(self, scene: Scene) -> None:
        """No certificate around it can work."""
        await scene.run()
        scene.issuer.chain[ALICE] = public_bytes(a_key("elsewhere"))
        with pytest.raises(CredentialsError, match=r"leave out -reuse-key"):
            await scene.run(reuse_key=True, renew_before=30 * DAY)

    async def test_no_key_cannot_be_reused(self, scene: Scene) -> None:
        """And none is asked for in its place."""
        with pytest.raises(CredentialsError, match=r"client\.key"):
            await scene.run(reuse_key=True)
        assert scene.issuer.made == 0


HOOKS: list[tuple[str, int, str]] = [
    ("true", 0, "Ran true"),
    ("sh -c 'exit 7'", 1, "exit code 7"),
]


@pytest.mark.parametrize(("hook", "code", "words"), HOOKS)
async def test_hook_runs_after_a_change(scene: Scene, hook: str, code: int, words: str) -> None:
    """Its failure is ours, because the proxy may still have the old pair."""
    assert await scene.run(after_change=hook) == code
    assert words in scene.err.getvalue()
    assert scene.is_on_chain


@pytest.mark.parametrize("renew_before", [None, 30 * DAY])
@pytest.mark.parametrize("is_away", [False, True])
async def test_hook_that_failed_is_run_again_until_it_succeeds(
    scene: Scene, tmp_path: Path, renew_before: timedelta | None, *, is_away: bool
) -> None:
    """Also where nothing else is left to do, or where Pylon cannot be asked; then no more."""
    assert await scene.run(after_change="false") == 1
    assert await scene.run(renew_before=renew_before, after_change="sh -c 'exit 3'") == 1
    assert await scene.run(renew_before=renew_before) == 0
    if is_away:
        scene.issuer.error = IssuerUnavailable("away")
    hook = f"sh -c 'echo x >> {tmp_path / 'ran'}'"
    for _ in range(2):
        with contextlib.suppress(IssuerUnavailable):
            assert await scene.run(renew_before=renew_before, after_change=hook) == 0
    assert (tmp_path / "ran").read_text() == "x\n"
    assert scene.issuer.made == 1
    assert scene.names == PAIR


async def test_hook_that_a_signal_kept_from_running_is_run_next_time(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pair has changed all the same, and the proxy does not know."""
    generate = scene.issuer.generate

    async def interrupted(*, algorithm: int) -> IssuedKeyPair:
        signal.raise_signal(signal.SIGTERM)
        return await generate(algorithm=algorithm)

    monkeypatch.setattr(scene.issuer, "generate", interrupted)
    hook = f"sh -c 'echo x >> {tmp_path / 'ran'}'"
    assert await scene.run(after_change=hook) == 128 + signal.SIGTERM
    assert "the next run" in scene.err.getvalue()
    assert not (tmp_path / "ran").exists()
    assert await scene.run(renew_before=30 * DAY, after_change=hook) == 0
    assert (tmp_path / "ran").read_text() == "x\n"


async def test_pair_that_could_not_be_had_is_no_change(scene: Scene) -> None:
    """No notification of a new pair where Pylon gave none."""
    scene.issuer.error = IssuerUnavailable("away")
    with pytest.raises(IssuerUnavailable):
        await scene.run(after_change="false")
    assert not scene.directory.notification_path.exists()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/dev/null")])
async def test_directory_that_is_none_is_refused_before_pylon_is_asked(
    scene: Scene, make: Callable[[Path], None]
) -> None:
    """The key on chain stays what it is."""
    make(scene.path)
    with pytest.raises(CredentialsError, match=r"not a directory"):
        await scene.run(force=True)
    assert (scene.issuer.made, scene.issuer.asked) == (0, 0)
