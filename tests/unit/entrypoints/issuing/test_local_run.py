"""A whole run of `generate -local`: what is on disk and on chain at its end, and after a kill."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.credentials.local_issuer import LocalIssuer, Publication
from nexus_auth.domain.errors import CredentialsError, IssuingRefused, RegistryUnavailable
from nexus_auth.domain.issuance import Order
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import CertIssuer
from nexus_auth.domain.server_name import names_of, parse_names
from nexus_auth.entrypoints.issuing.hook import Hook
from nexus_auth.entrypoints.issuing.issuance import Issuance, is_nothing_to_do
from nexus_auth.entrypoints.reporter import Reporter
from tests.builders import a_hotkey, a_key, public_bytes
from tests.fakes import FakeChain, FakeClock, FakeIssuer
from tests.unit.adapters.credentials.pairs import a_pair, save

ROOT: Final = Path(__file__).parents[4]
ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
DAY: Final = timedelta(days=1)
PAIR: Final = ["client.crt", "client.key"]
PENDING: Final = ["client.key.pending"]


class Scene:
    """A directory, a chain and a clock; `run` carries out one order of alice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = CredentialsDirectory(path)
        self.chain = FakeChain({ALICE: Place(ip="192.0.2.7", port=8091)})
        self.clock = FakeClock()
        self.out, self.err = io.StringIO(), io.StringIO()
        self.published: list[Publication] = []
        self.publish: Callable[[Publication], Awaitable[None]] = self.obey

    async def obey(self, publication: Publication) -> None:
        """Plays an owner who does what is asked, at once."""
        self.published.append(publication)
        self.chain.keys[publication.hotkey] = publication.public_key

    async def forget(self, publication: Publication) -> None:
        """Plays an owner who does it later."""
        self.published.append(publication)

    async def run(
        self, *, issuer: CertIssuer | None = None, after_change: str | None = None, **flags: Any
    ) -> int:
        """Carries out one order; with the local issuer where no other is given."""
        flags = {"hotkey": ALICE, "valid_for": 365 * DAY, "local": issuer is None, **flags}
        order = Order(**flags)
        reporter = Reporter(out=self.out, err=self.err)
        directory = CredentialsDirectory(self.path, will_notify=after_change is not None)
        local = LocalIssuer(
            hotkey=order.hotkey,
            netuid=1,
            directory=directory,
            keys=self.chain,
            places=self.chain,
            publish=self.publish,
            waiting=reporter.waiting,
            clock=self.clock,
            wait_seconds=0,
        )
        return await Issuance(
            order=order,
            directory=directory,
            issuer=issuer or local,
            fetch_keys=self.chain.fetch_keys,
            clock=self.clock,
            reporter=reporter,
            after_change=None if after_change is None else Hook.parse(after_change),
            confirm_seconds=0.05,
            poll_seconds=0.01,
        ).run()

    @property
    def names(self) -> list[str]:
        """Every file there, hidden ones included."""
        return sorted(each.name for each in self.path.iterdir())

    @property
    def is_on_chain(self) -> bool:
        """Whether the pair on disk is the one that the chain has."""
        return self.chain.keys[ALICE] == self.directory.load().certificate.public_key

    def order(self, **flags: Any) -> Order:
        """An order as `run` makes it."""
        return Order(hotkey=ALICE, valid_for=365 * DAY, **flags)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A new scene, with nothing on disk and nothing on chain."""
    return Scene(tmp_path / "certs")


async def test_pair_is_in_its_place_once_the_chain_has_it(scene: Scene) -> None:
    """And nothing else is left."""
    assert await scene.run() == 0
    assert scene.is_on_chain
    assert scene.names == PAIR
    assert "Confirmed" in scene.out.getvalue()
    assert scene.directory.load().certificate.hotkey == ALICE


async def test_pair_that_is_there_is_enough(scene: Scene) -> None:
    """No request is made, and nothing is published."""
    await scene.run()
    asked = scene.chain.asked
    assert await scene.run() == 0
    assert (scene.chain.asked, len(scene.published)) == (asked, 1)


async def test_run_that_waits_in_vain_is_taken_up_again(scene: Scene) -> None:
    """With the same key; its certificate is as the last order wants it."""
    scene.publish = scene.forget
    for _ in range(2):
        with pytest.raises(IssuingRefused, match="so far"):
            await scene.run()
        assert scene.names == PENDING
        assert "client.key.pending" in scene.err.getvalue()
    first, second = scene.published
    assert first.public_key == second.public_key
    await scene.obey(first)
    scene.clock.now += DAY
    assert await scene.run(valid_for=10 * DAY) == 0
    assert scene.is_on_chain
    assert scene.directory.load().certificate.not_after == scene.clock.now + 10 * DAY
    assert scene.names == PAIR
    assert len(scene.published) == 3


@pytest.mark.parametrize("flags", [{}, {"force": True}, {"renew_before": 30 * DAY}])
async def test_old_pair_stays_until_the_chain_has_the_new_key(
    scene: Scene, flags: dict[str, Any]
) -> None:
    """Callers with it are granted until then; any local order goes on with the new one."""
    await scene.run()
    old = scene.directory.load()
    scene.publish = scene.forget
    with pytest.raises(IssuingRefused):
        await scene.run(force=True)
    assert scene.directory.load().key_pem == old.key_pem
    assert not is_nothing_to_do(scene.order(local=True), scene.directory)
    with pytest.raises(IssuingRefused):
        await scene.run(**flags)
    assert scene.directory.load().key_pem == old.key_pem
    _, first, second = scene.published
    assert first.public_key == second.public_key
    await scene.obey(first)
    assert await scene.run(**flags) == 0
    assert scene.is_on_chain
    assert scene.directory.load().key_pem != old.key_pem
    assert scene.names == PAIR


async def test_run_without_local_places_a_published_key_and_makes_no_other(scene: Scene) -> None:
    """The key on chain has its private half here; Pylon is not asked for another."""
    scene.path.mkdir()
    scene.directory.save_pending(a_pair("new"))
    issuer = FakeIssuer(ALICE)
    with pytest.raises(CredentialsError, match="-local goes on"):
        await scene.run(issuer=issuer, force=True)
    issuer.chain[ALICE] = public_bytes(a_key("new"))
    assert await scene.run(issuer=issuer, force=True) == 0
    assert issuer.made == 0
    assert scene.directory.load().certificate.public_key == issuer.chain[ALICE]
    assert scene.names == PAIR


async def test_published_key_is_never_called_lost(scene: Scene) -> None:
    """Though a request to Pylon is without an answer, and the pair's key is not on chain."""
    save(scene.path, a_pair("old"))
    with scene.directory.opened_for_writing(), scene.directory.reserved() as reservation:
        reservation.note_request()
    scene.directory.save_pending(a_pair("new"))
    scene.chain.keys[ALICE] = public_bytes(a_key("new"))
    assert await scene.run() == 0
    assert scene.is_on_chain
    assert scene.directory.load().key_pem == a_pair("new").key_pem
    # The request may still take effect.
    assert scene.directory.requested_at() is not None


@pytest.mark.parametrize("force", [False, True])
async def test_pending_key_of_another_hotkey_is_refused_and_stays(
    scene: Scene, *, force: bool
) -> None:
    """It says whose it is, and what to do."""
    scene.path.mkdir()
    scene.directory.save_pending(a_pair("new"))
    with pytest.raises(CredentialsError, match=f"was made for {ALICE}, not for {BOB}"):
        await scene.run(hotkey=BOB, force=force)
    assert scene.names == PENDING
    assert scene.published == []


async def test_key_that_is_reused_is_not_kept_waiting_by_a_pending_one(scene: Scene) -> None:
    """Neither is touched on chain."""
    await scene.run()
    key_pem = scene.directory.load().key_pem
    scene.directory.save_pending(a_pair("new"))
    assert await scene.run(local=False, reuse_key=True) == 0
    assert scene.directory.load().key_pem == key_pem
    assert scene.names == [*PAIR, *PENDING]


async def test_interrupt_ends_a_run_at_once(scene: Scene) -> None:
    """Nothing can be lost; where the key is, is said."""
    reached = asyncio.Event()

    async def publish(_: Publication) -> None:
        reached.set()
        await asyncio.Event().wait()

    scene.publish = publish
    run = asyncio.create_task(scene.run())
    await reached.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert scene.names == PENDING
    assert "client.key.pending" in scene.err.getvalue()
    scene.publish = scene.obey
    assert await scene.run() == 0


async def test_command_after_a_change_runs_once_the_pair_is_in_its_place(
    scene: Scene, tmp_path: Path
) -> None:
    """Not while the key waits."""
    hook = f"sh -c 'echo x >> {tmp_path / 'ran'}'"
    scene.publish = scene.forget
    with pytest.raises(IssuingRefused):
        await scene.run(after_change=hook)
    assert not (tmp_path / "ran").exists()
    await scene.obey(scene.published[0])
    assert await scene.run(after_change=hook) == 0
    assert (tmp_path / "ran").read_text() == "x\n"


async def test_names_are_those_of_the_order_or_of_the_certificate_before(scene: Scene) -> None:
    """Also where an earlier run made the key."""
    names = parse_names("miner.example,192.0.2.7")
    assert await scene.run(names=names) == 0
    assert names_of(scene.directory.load().certificate_pem) == names
    scene.directory.save_pending(a_pair("new"))
    scene.chain.keys[ALICE] = public_bytes(a_key("new"))
    assert await scene.run() == 0
    assert scene.is_on_chain
    assert names_of(scene.directory.load().certificate_pem) == names


async def test_source_that_is_away_changes_nothing(scene: Scene) -> None:
    """Not even where only the pending key is to be compared with the chain."""
    scene.path.mkdir()
    scene.directory.save_pending(a_pair("new"))
    scene.chain.error = RegistryUnavailable("away")
    with pytest.raises(Exception, match="away"):
        await scene.run()
    assert scene.names == PENDING


async def test_disk_that_takes_no_pair_is_found_before_anything_is_published(scene: Scene) -> None:
    """A name that is taken, here."""
    scene.path.mkdir()
    (scene.path / "client.key").mkdir()
    with pytest.raises(CredentialsError, match="no regular file"):
        await scene.run()
    assert scene.published == []


async def test_key_is_in_no_output(scene: Scene) -> None:
    """Only its public half is."""
    scene.publish = scene.forget
    with pytest.raises(IssuingRefused) as caught:
        await scene.run()
    pending = scene.directory.load_pending()
    assert pending is not None
    said = scene.out.getvalue() + scene.err.getvalue() + str(caught.value)
    assert pending.key_pem.splitlines()[1].decode() not in said


@pytest.mark.parametrize("arguments", [[], ["force"]])
def test_kill_at_any_moment_loses_no_key(tmp_path: Path, arguments: list[str]) -> None:
    """The chain's key is on disk at every moment, and the next run finishes with that key."""
    # What these tests import comes first, and then the checkout, before whatever is installed.
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT), str(ROOT / "src")]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.unit.entrypoints.issuing.kill_local", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(tmp_path)},
        check=True,
        capture_output=True,
        timeout=50,
    )
    moments = json.loads(finished.stdout)
    assert len(moments) > 60
    assert {each["code"] for each in moments[:-1]} == {9}
    assert moments[-1]["code"] == 0
    # The blow fell before the publication and after it.
    assert {each["was_published"] for each in moments[:-1]} == {True, False}
    for each in moments:
        assert each["was_kept"], each
        assert each["modes"] in ([], ["0o600"]), each
        assert each["next_code"] == 0, each
        assert each["is_on_chain"], each
        # One key alone; asked for anew only where the chain did not have it.
        assert each["published"] == each["keys"] <= 1, each
        assert set(PAIR) <= set(each["names"]) <= {*PAIR, *(f"{name}.old" for name in PAIR)}, each
