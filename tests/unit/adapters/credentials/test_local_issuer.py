"""Key pairs that are made here: what is on disk at which moment, and what is asked of the owner."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from nexus_auth.adapters.credentials.directory import (
    PENDING_KEY_NAME,
    CredentialsDirectory,
    CredentialsUnusable,
)
from nexus_auth.adapters.credentials.local_issuer import LocalIssuer, Publication
from nexus_auth.domain.errors import (
    IssuerUnavailable,
    IssuingError,
    IssuingRefused,
    RegistryUnavailable,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuance import PendingKey
from nexus_auth.domain.neuron import Place
from tests.builders import NOW, a_hotkey, a_key, public_bytes
from tests.fakes import FakeChain, FakeClock
from tests.unit.adapters.credentials.pairs import a_pair, save

ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
OF_ALICE: Final = a_pair("new")
"""A pair that an earlier run made for alice."""


def is_of_alice(directory: CredentialsDirectory) -> bool:
    """Tells whether the pending key is that of `OF_ALICE`."""
    pending = directory.load_pending()
    return pending is not None and pending.key_pem == OF_ALICE.key_pem


class RefusedFetch(RegistryUnavailable):
    """The source wants another token."""

    cause = "refused"


class Scene:
    """A local issuer for alice, over a chain that takes what the owner publishes."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.directory = CredentialsDirectory(path)
        self.chain = FakeChain({ALICE: Place(ip="192.0.2.7", port=8091, blocks_to_wait=0)})
        self.asked: list[Publication] = []
        self.publishes = True
        self.shown: list[str] = []

    async def publish(self, publication: Publication) -> None:
        """Plays the owner's tool; nothing is on chain before the key is on disk."""
        self.asked.append(publication)
        pending = CredentialsDirectory(self.directory.path).pending_key()
        assert pending is not None
        assert pending.public_key == publication.public_key
        if self.publishes:
            self.chain.keys[publication.hotkey] = publication.public_key

    @asynccontextmanager
    async def waiting(self, text: str) -> AsyncIterator[None]:
        """Notes what is shown."""
        self.shown.append(text)
        yield

    def issuer(self, **changes: Any) -> LocalIssuer:
        """An issuer with short waits."""
        options: dict[str, Any] = {
            "hotkey": ALICE,
            "netuid": 12,
            "directory": self.directory,
            "keys": self.chain,
            "places": self.chain,
            "publish": self.publish,
            "waiting": self.waiting,
            "clock": FakeClock(),
            "wait_seconds": 0.02,
            "poll_seconds": 0.01,
        }
        return LocalIssuer(**{**options, **changes})


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A new scene, with nothing on disk and nothing on chain."""
    return Scene(tmp_path / "certs")


async def test_pair_is_on_disk_before_it_is_published_and_stays_until_it_is_in_its_place(
    scene: Scene,
) -> None:
    """Interrupted from now on, nothing is lost."""
    pair = await scene.issuer().generate(algorithm=1)
    pending = scene.directory.pending_key()
    assert pending == PendingKey(hotkey=ALICE, public_key=pair.public_key, made_at=NOW)
    assert scene.chain.keys[ALICE] == pair.public_key
    assert [each.name for each in scene.directory.path.iterdir()] == [PENDING_KEY_NAME]
    kept = scene.directory.load_pending()
    assert kept is not None
    save(scene.directory.path, kept)
    assert scene.directory.pending_key() is None
    assert scene.directory.load().certificate.public_key == pair.public_key


async def test_what_is_to_be_published_is_the_key_and_the_axon_that_stays(scene: Scene) -> None:
    """As `serve_axon_tls` takes it: one byte for the algorithm, then the key."""
    pair = await scene.issuer().generate(algorithm=1)
    [asked] = scene.asked
    assert asked == Publication(
        hotkey=ALICE,
        netuid=12,
        ip="192.0.2.7",
        port=8091,
        serves_axon=True,
        public_key=pair.public_key,
        blocks_to_wait=0,
    )
    assert asked.certificate == "0x01" + pair.public_key.hex()
    assert pair.private_key.hex() not in repr(asked)


@pytest.mark.parametrize(
    ("place", "ip", "port", "serves_axon"),
    [
        (Place(ip="0.0.0.0", port=0), "0.0.0.0", 1, False),  # noqa: S104 - of no axon
        (Place(ip="192.0.2.7", port=0), "0.0.0.0", 1, False),  # noqa: S104 - of no axon
        (Place(ip="0.0.0.0", port=1), "0.0.0.0", 1, True),  # noqa: S104 - of no axon
        (Place(ip="2001:DB8::7", port=8091), "2001:db8::7", 8091, True),
    ],
)
async def test_neuron_without_an_axon_gets_one_that_leads_nowhere(
    scene: Scene, place: Place, ip: str, port: int, *, serves_axon: bool
) -> None:
    """The chain takes no certificate for port 0."""
    scene.chain.places[ALICE] = place
    await scene.issuer().generate(algorithm=1)
    [asked] = scene.asked
    assert (asked.ip, asked.port, asked.serves_axon) == (ip, port, serves_axon)


@pytest.mark.parametrize("ip", ["", "x; rm -rf /", "192.0.2.7\n", "fe80::1%$(id)", "192.0.2.700"])
async def test_address_that_is_none_never_gets_into_a_command(scene: Scene, ip: str) -> None:
    """What a source says may be meant for a shell."""
    scene.chain.places[ALICE] = Place(ip=ip, port=8091)
    with pytest.raises(IssuingRefused, match="axon"):
        await scene.issuer().generate(algorithm=1)
    assert scene.asked == []


@pytest.mark.parametrize(
    ("blocks", "minutes"), [(None, 0), (0, 0), (1, 1), (5, 1), (6, 2), (50, 10)]
)
def test_blocks_to_wait_are_minutes_too(blocks: int | None, minutes: int) -> None:
    """Twelve seconds each, rounded up."""
    publication = Publication(
        hotkey=ALICE,
        netuid=1,
        ip="192.0.2.7",
        port=1,
        serves_axon=True,
        public_key=bytes(32),
        blocks_to_wait=blocks,
    )
    assert publication.minutes_to_wait == minutes


async def test_hotkey_without_a_place_is_told_before_a_pair_is_made(scene: Scene) -> None:
    """The chain would take no key of it."""
    scene.chain.places.clear()
    with pytest.raises(IssuingRefused, match="no place on the subnet"):
        await scene.issuer().generate(algorithm=1)
    assert list(scene.directory.path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [(RegistryUnavailable("away"), IssuerUnavailable), (RefusedFetch("no"), IssuingRefused)],
)
async def test_source_that_cannot_answer_changes_nothing(
    scene: Scene, error: RegistryUnavailable, expected: type[IssuingError]
) -> None:
    """Exit code 3 where it is away, 1 where it says no; no pair is made, none is lost."""
    scene.chain.error = error
    with pytest.raises(expected):
        await scene.issuer().generate(algorithm=1)
    assert list(scene.directory.path.iterdir()) == []
    scene.directory.save_pending(OF_ALICE)
    with pytest.raises(expected):
        await scene.issuer().generate(algorithm=1)
    assert is_of_alice(scene.directory)


async def test_pending_key_on_chain_is_not_published_again(scene: Scene) -> None:
    """The run before was interrupted after the owner published it."""
    scene.directory.save_pending(OF_ALICE)
    scene.chain.keys[ALICE] = OF_ALICE.certificate.public_key
    pair = await scene.issuer().generate(algorithm=1)
    assert pair.public_key == OF_ALICE.certificate.public_key
    assert pair.private_key == a_key("new").private_bytes_raw()
    assert scene.asked == []


async def test_pending_key_that_is_not_on_chain_is_gone_on_with(scene: Scene) -> None:
    """Another one would make the first worthless, which may be on its way."""
    scene.publishes = False
    for _ in range(2):
        with pytest.raises(IssuingRefused, match="so far"):
            await scene.issuer().generate(algorithm=1)
    first, second = scene.asked
    assert first == second
    scene.publishes = True
    pair = await scene.issuer().generate(algorithm=1)
    assert pair.public_key == first.public_key


async def test_pending_key_of_another_hotkey_is_refused(scene: Scene) -> None:
    """It stays: it may be on chain for that one."""
    scene.directory.save_pending(OF_ALICE)
    scene.chain.places[BOB] = scene.chain.places[ALICE]
    with pytest.raises(IssuingRefused, match=str(ALICE)):
        await scene.issuer(hotkey=BOB).generate(algorithm=1)
    assert is_of_alice(scene.directory)
    assert scene.asked == []


async def test_wait_ends_with_the_first_lookup_that_finds_the_key(scene: Scene) -> None:
    """A lookup that fails meanwhile decides nothing, nor one that finds another key."""
    scene.publishes = False

    async def answers() -> AsyncIterator[bytes | None]:
        yield None
        scene.chain.error = RegistryUnavailable("away")
        yield None
        scene.chain.error = None
        yield public_bytes(a_key("another"))
        yield scene.asked[0].public_key

    script = answers()

    class Scripted(FakeChain):
        async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
            answer = await anext(script)
            await super().fetch_key(hotkey)
            return answer

    scene.chain = Scripted(scene.chain.places)
    pair = await scene.issuer(wait_seconds=3600).generate(algorithm=1)
    assert pair.public_key == scene.asked[0].public_key
    assert scene.chain.asked == 5  # with the one for the place
    assert len(scene.asked) == len(scene.shown) == 1


async def test_wait_that_ends_says_whether_the_chain_could_be_read(scene: Scene) -> None:
    """Exit code 3 and 1: it is not known, or the chain has another key."""
    scene.publishes = False
    scene.chain.keys[ALICE] = public_bytes(a_key("another"))
    with pytest.raises(IssuingRefused, match="so far"):
        await scene.issuer(wait_seconds=0).generate(algorithm=1)

    async def publish(_: Publication) -> None:
        scene.chain.error = RegistryUnavailable("away")

    with pytest.raises(IssuerUnavailable, match="away"):
        await scene.issuer(wait_seconds=0, publish=publish).generate(algorithm=1)
    assert scene.directory.pending_key() is not None


async def test_publishing_that_fails_keeps_the_key(scene: Scene) -> None:
    """It may have been published all the same: the next run looks first."""

    async def publish(_: Publication) -> None:
        raise IssuingRefused("the tool failed")

    with pytest.raises(IssuingRefused, match="the tool failed"):
        await scene.issuer(publish=publish).generate(algorithm=1)
    pending = scene.directory.load_pending()
    assert pending is not None
    scene.chain.keys[ALICE] = pending.certificate.public_key
    pair = await scene.issuer(publish=publish).generate(algorithm=1)
    assert pair.public_key == pending.certificate.public_key


# The file of the pending key


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_pending_key_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    """Whatever the umask."""
    directory = CredentialsDirectory(tmp_path)
    before = os.umask(umask)
    try:
        directory.save_pending(OF_ALICE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.pending_key_path.stat().st_mode) == 0o600
    assert is_of_alice(directory)
    assert [each.name for each in tmp_path.iterdir()] == ["client.key.pending"]


def _link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(OF_ALICE.key_pem + OF_ALICE.certificate_pem)
    path.symlink_to(target)


def _garbage(path: Path) -> None:
    path.write_bytes(OF_ALICE.key_pem)


UNUSABLE: Final[dict[str, Callable[[Path], None]]] = {
    "link": _link,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "pipe": os.mkfifo,
    "directory": Path.mkdir,
    "key alone": _garbage,
    "empty": Path.touch,
}


@pytest.fixture(params=UNUSABLE)
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CredentialsDirectory]:
    """A directory in which something else has the name of the pending key."""
    UNUSABLE[request.param](tmp_path / PENDING_KEY_NAME)
    yield CredentialsDirectory(tmp_path)
    assert os.path.lexists(tmp_path / PENDING_KEY_NAME)


def test_what_is_no_file_of_ours_is_refused_and_stays(unusable: CredentialsDirectory) -> None:
    """Neither a link is followed nor a pipe waited for, and nothing is written over it."""
    for read in (unusable.load_pending, unusable.pending_key):
        with pytest.raises(CredentialsUnusable, match=r"client\.key\.pending") as caught:
            read()
        assert "PRIVATE" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Who may write the directory may have put it there; the directory's owner may."""
    directory = CredentialsDirectory(tmp_path)
    directory.save_pending(OF_ALICE)
    os.chown(directory.pending_key_path, 12345, -1)
    with pytest.raises(CredentialsUnusable, match="user 12345"):
        directory.load_pending()
    os.chown(tmp_path, 12345, -1)
    assert is_of_alice(directory)


def test_pending_key_of_another_pair_stays_where_a_pair_is_saved(tmp_path: Path) -> None:
    """It goes with its own pair only."""
    directory = CredentialsDirectory(tmp_path)
    directory.save_pending(OF_ALICE)
    save(tmp_path, a_pair("other"))
    assert is_of_alice(directory)
    save(tmp_path, OF_ALICE)
    assert directory.load_pending() is None


def test_no_directory_has_no_pending_key(tmp_path: Path) -> None:
    """Nor has a file."""
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        assert CredentialsDirectory(tmp_path / name).pending_key() is None


def test_hotkey_is_that_of_the_run_before(tmp_path: Path) -> None:
    """It is in the file, with the moment at which the pair was made."""
    directory = CredentialsDirectory(tmp_path)
    directory.save_pending(OF_ALICE)
    expected: Hotkey = OF_ALICE.certificate.hotkey
    pending = directory.pending_key()
    assert pending is not None
    assert (pending.hotkey, pending.made_at) == (expected, NOW)
