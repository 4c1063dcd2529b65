"""The development Pylon's memory."""

from __future__ import annotations

import inspect
import re
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nexus_auth.adapters.devnet.records import Axon, ChainRefusal, IdentityRecord
from nexus_auth.adapters.devnet.store import DevnetStore, DevnetStoreUnusable
from tests.builders import a_hotkey, a_key, public_bytes

ALICE = a_hotkey("alice")
BOB = a_hotkey("bob")
KEY = public_bytes(a_key("alice"))
OTHER = public_bytes(a_key("other"))
AXON = Axon(ip="192.0.2.1", port=8091)


@pytest.fixture
def store() -> Iterator[DevnetStore]:
    """An empty store in memory."""
    with DevnetStore(":memory:") as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a data file may be."""
    return tmp_path / "pylon.sqlite"


def as_version_1(path: Path) -> None:
    """Makes a file as version 1 left it: an identity and a neuron, of whom neither serves."""
    with DevnetStore(path) as store:
        store.add_identity("dev", hotkey=ALICE, token="t")
        store.set_neuron(ALICE, axon=Axon())
        store.set_neuron(BOB)
        store.set_certificate(BOB, KEY)
    connection = sqlite3.connect(path)
    connection.executescript(
        "ALTER TABLE neuron DROP COLUMN axon_block; DROP TABLE weights; PRAGMA user_version = 1;"
    )
    connection.close()


class TestIdentities:
    """Names, tokens and the neurons that come with them."""

    def test_is_found_by_its_name_with_its_token(self, store: DevnetStore) -> None:
        """The token is recognised, and no other one."""
        added = store.add_identity("dev", hotkey=ALICE, token="right", netuid=3)
        assert store.identity("dev") == added == IdentityRecord(name="dev", netuid=3, hotkey=ALICE)
        assert store.is_identity_token("dev", "right")
        assert not store.is_identity_token("dev", "wrong")
        assert not store.is_identity_token("nobody", "right")

    def test_keeps_its_place_when_it_is_replaced(self, store: DevnetStore) -> None:
        """The first identity stays the first; its old token is worthless."""
        store.add_identity("dev", hotkey=ALICE, token="old")
        store.add_identity("other", hotkey=BOB, token="t")
        store.add_identity("dev", hotkey=BOB, token="new", netuid=2)
        assert [each.name for each in store.identities()] == ["dev", "other"]
        assert not store.is_identity_token("dev", "old")

    def test_registers_its_hotkey_by_default(self, store: DevnetStore) -> None:
        """An identity's hotkey is a neuron, without losing what was said of it."""
        store.set_neuron(ALICE, uid=9, total=5)
        store.add_identity("dev", hotkey=ALICE, token="t")
        store.add_identity("stranger", hotkey=BOB, token="t", registered=False)
        assert [(each.hotkey, each.uid) for each in store.neurons()] == [(ALICE, 9)]

    @pytest.mark.parametrize("name", ["", "a/b", "a\nb", "x" * 129])
    def test_name_must_fit_into_a_path(self, store: DevnetStore, name: str) -> None:
        """A name that no path can hold is refused."""
        with pytest.raises(ValueError, match="identity's name"):
            store.add_identity(name, hotkey=ALICE, token="t")

    @pytest.mark.parametrize("token", ["", "two words", "\N{SNOWMAN}", "line\n"])
    def test_token_must_fit_into_a_header(self, store: DevnetStore, token: str) -> None:
        """A token that no header can hold is refused, and nothing is written."""
        with pytest.raises(ValueError, match="printable ASCII"):
            store.add_identity("dev", hotkey=ALICE, token=token)
        assert store.identities() == ()

    def test_tokens_are_nowhere_in_the_file(self, path: Path) -> None:
        """Only digests are kept."""
        with DevnetStore(path) as store:
            store.add_identity("dev", hotkey=ALICE, token="hidden-of-dev")
            store.set_open_access_token("hidden-of-all")
            written = b"".join(each.read_bytes() for each in path.parent.iterdir())
            assert b"hidden" not in written
            assert "hidden" not in repr(store)
            assert "hidden" not in repr(store.open_access_token())


class TestNeurons:
    """Stake, permits and addresses can be set one by one."""

    def test_new_one_has_the_lowest_free_uid_and_nothing_else(self, store: DevnetStore) -> None:
        """No stake, no permit, active, not serving."""
        store.set_neuron(a_hotkey("zero"))
        store.set_neuron(a_hotkey("two"), uid=2)
        neuron = store.set_neuron(ALICE)
        assert (neuron.uid, neuron.active, neuron.validator_permit) == (1, True, False)
        assert (neuron.alpha, neuron.tao, neuron.total, neuron.axon) == (0, 0, 0, Axon())
        assert store.set_neuron(BOB).uid == 3

    def test_update_leaves_the_rest_as_it_was(self, store: DevnetStore) -> None:
        """None means: as before."""
        axon = Axon(ip="2001:db8::1", port=9)
        store.set_neuron(ALICE, uid=7, coldkey=BOB, active=False, tao=2, alpha=1, axon=axon)
        neuron = store.set_neuron(ALICE, validator_permit=True)
        assert neuron == store.neuron(ALICE)
        assert (neuron.uid, neuron.coldkey, neuron.active) == (7, BOB, False)
        assert (neuron.alpha, neuron.tao, neuron.total, neuron.axon) == (1, 2, 3, axon)
        assert store.set_neuron(ALICE, active=True, validator_permit=False).uid == 7

    def test_total_may_be_said_or_follows(self, store: DevnetStore) -> None:
        """Without a total of its own it is the sum of what is staked."""
        assert store.set_neuron(ALICE, alpha=10, tao=5, total=10.9).total == 10.9
        assert store.set_neuron(ALICE, tao=0).total == 10

    @pytest.mark.parametrize(
        "impossible",
        [
            {"uid": 0},
            {"uid": -1},
            {"uid": 65_536},
            {"alpha": -1.0},
            {"total": float("nan")},
            {"tao": float("inf")},
            {"netuid": 65_536},
            {"netuid": -1},
        ],
    )
    def test_impossible_values_change_nothing(
        self, store: DevnetStore, impossible: dict[str, Any]
    ) -> None:
        """A uid that is taken is impossible too."""
        store.set_neuron(BOB, uid=0)
        before = store.set_neuron(ALICE, uid=1, total=3)
        with pytest.raises(ValueError, match=r"uid|stake"):
            store.set_neuron(ALICE, **impossible)
        assert store.neuron(ALICE) == before
        assert store.subnets() == (1,)

    @pytest.mark.parametrize("axon", [{"ip": "no"}, {"port": 65_536}, {"protocol": -1}])
    def test_impossible_axons_do_not_exist(self, axon: dict[str, Any]) -> None:
        """An axon that exists is valid."""
        with pytest.raises(ValueError, match=r"IPv4|port|protocol"):
            Axon(**axon)

    def test_belong_to_one_subnet(self, store: DevnetStore) -> None:
        """The same hotkey may be on several, with another uid on each."""
        store.set_neuron(ALICE, uid=4)
        store.set_neuron(ALICE, netuid=2, uid=5)
        assert [each.uid for each in store.neurons()] == [4]
        assert [each.uid for each in store.neurons(netuid=2)] == [5]
        assert store.neurons(netuid=3) == ()

    def test_deregistered_one_loses_its_key(self, store: DevnetStore) -> None:
        """As on chain."""
        store.set_neuron(ALICE)
        store.set_certificate(ALICE, KEY)
        store.set_certificate(BOB, KEY)
        store.remove_neuron(ALICE)
        store.remove_neuron(ALICE)
        assert (store.neuron(ALICE), store.certificate(ALICE)) == (None, None)
        assert store.certificates() == {BOB: KEY}


class TestCertificates:
    """One public key for each hotkey of a subnet."""

    def test_newest_key_counts(self, store: DevnetStore) -> None:
        """Publishing replaces."""
        store.set_certificate(ALICE, b"\x01" * 32)
        store.set_certificate(ALICE, KEY)
        assert store.certificate(ALICE) == KEY
        assert store.certificates() == {ALICE: KEY}

    @pytest.mark.parametrize("length", [0, 31, 33, 64])
    def test_has_exactly_32_bytes(self, store: DevnetStore, length: int) -> None:
        """Whatever else is no key, and is not published."""
        with pytest.raises(ValueError, match="32 bytes"):
            store.set_certificate(ALICE, bytes(length))
        assert store.certificates() == {}

    def test_generated_one_needs_a_neuron(self, store: DevnetStore) -> None:
        """The chain takes a key from its own neurons alone."""
        refused = ChainRefusal.NOT_REGISTERED
        assert store.publish_certificate(ALICE, KEY, netuid=1) is refused
        store.set_neuron(ALICE, netuid=1, axon=AXON)
        assert store.publish_certificate(ALICE, KEY, netuid=2) is refused
        assert store.publish_certificate(ALICE, KEY, netuid=1) is None
        assert store.certificates() == {ALICE: KEY}

    def test_generated_one_needs_an_axon(self, store: DevnetStore) -> None:
        """The chain stores a key with the axon, and takes no port 0; any address will do."""
        store.set_neuron(ALICE)
        assert store.publish_certificate(ALICE, KEY, netuid=1) is ChainRefusal.NO_AXON
        store.set_neuron(ALICE, axon=Axon(ip="192.0.2.1", port=0))
        assert store.publish_certificate(ALICE, KEY, netuid=1) is ChainRefusal.NO_AXON
        assert store.certificates() == {}
        store.set_neuron(ALICE, axon=Axon(port=1, protocol=0))
        assert store.publish_certificate(ALICE, KEY, netuid=1) is None
        neuron = store.neuron(ALICE)
        assert neuron is not None
        assert neuron.axon == Axon(port=1, protocol=4)  # Pylon sends HTTP, whatever it was

    def test_an_identity_has_what_publishing_needs(self, store: DevnetStore) -> None:
        """It gets the least of an axon, in place of none only, and may publish at once."""
        store.set_neuron(BOB, axon=AXON)
        store.set_neuron(a_hotkey("carol"), uid=9)
        for name, hotkey in {"a": ALICE, "b": BOB, "c": a_hotkey("carol")}.items():
            store.add_identity(name, hotkey=hotkey, token="t")
        served = {each.uid: (each.axon, each.axon_block) for each in store.neurons()}
        assert served[1] == served[9] == (Axon(port=1), 0)
        assert served[0][0] == AXON

    def test_serving_an_axon_keeps_the_key(self, store: DevnetStore) -> None:
        """`serve_axon` without a certificate leaves the one that is there."""
        store.set_neuron(ALICE, axon=AXON)
        assert store.publish_certificate(ALICE, KEY, netuid=1) is None
        store.set_neuron(ALICE, axon=Axon(ip="192.0.2.2", port=2))
        assert store.certificates() == {ALICE: KEY}

    def test_rate_limit_counts_blocks_since_the_last_axon_or_key(self) -> None:
        """The same axon again, and other facts of a neuron, do not count."""
        now = 1_000_000.0
        with DevnetStore(":memory:", serving_rate_limit=50, clock=lambda: now) as store:
            store.add_identity("dev", hotkey=ALICE, token="t")
            assert store.publish_certificate(ALICE, KEY, netuid=1) is None
            now += 49 * 12
            assert store.publish_certificate(ALICE, OTHER, netuid=1) is ChainRefusal.RATE_LIMIT
            assert store.certificate(ALICE) == KEY
            store.set_neuron(ALICE, axon=Axon(port=1), tao=5)
            now += 12
            assert store.publish_certificate(ALICE, OTHER, netuid=1) is None
            store.set_neuron(BOB, axon=AXON)
            assert store.publish_certificate(BOB, KEY, netuid=1) is ChainRefusal.RATE_LIMIT
            now += 50 * 12
            assert store.publish_certificate(BOB, KEY, netuid=1) is None

    def test_is_cleared_where_the_place_is_given_to_another(self, store: DevnetStore) -> None:
        """A new neuron with the uid of another one; what is known already keeps its own uid."""
        store.set_neuron(ALICE, uid=7, axon=AXON)
        store.set_certificate(ALICE, KEY)
        store.set_neuron(BOB, uid=7)
        assert [(each.uid, each.hotkey) for each in store.neurons()] == [(7, BOB)]
        assert store.certificates() == {}
        store.set_neuron(ALICE, uid=8)
        assert store.neuron(ALICE).axon == Axon()  # type: ignore[union-attr] # just registered
        with pytest.raises(ValueError, match="another neuron's"):
            store.set_neuron(ALICE, uid=7)


class TestWeights:
    """When they were set is all that is kept."""

    def test_are_set_once_in_an_epoch(self) -> None:
        """361 blocks on subnet 1 begin where (block + 3) is a multiple of that."""
        begin = 361 * 400 - 3
        now = begin * 12.0
        with DevnetStore(":memory:", clock=lambda: now) as store:
            store.set_neuron(ALICE)

            def is_set(block: int, mechanism: int = 0) -> bool:
                where = {"netuid": 1, "mechanism": mechanism, "block": block}
                return store.has_set_weights(ALICE, **where)

            assert not is_set(begin)
            store.set_weights(ALICE, netuid=1, mechanism=0)
            assert [is_set(begin + each) for each in (-1, 0, 360, 361)] == [0, 1, 1, 0]
            assert not is_set(begin, mechanism=1)
            now += 361 * 12
            store.set_weights(ALICE, netuid=1, mechanism=0)
            assert is_set(begin + 361)

    def test_are_taken_from_neurons_alone(self, store: DevnetStore) -> None:
        """And forgotten with the place."""
        store.set_weights(ALICE, netuid=1, mechanism=0)
        now = store.block()
        assert not store.has_set_weights(ALICE, netuid=1, mechanism=0, block=now)
        store.set_neuron(ALICE)
        store.set_weights(ALICE, netuid=1, mechanism=0)
        store.remove_neuron(ALICE)
        store.set_neuron(ALICE)
        assert not store.has_set_weights(ALICE, netuid=1, mechanism=0, block=now)


class TestFile:
    """What is on disk."""

    def test_everything_is_there_again(self, path: Path) -> None:
        """Closing and opening changes nothing."""
        with DevnetStore(path) as store:
            assert store.open_access_token() is None
            identity = store.add_identity("dev", hotkey=ALICE, token="t", netuid=5)
            neuron = store.set_neuron(BOB, netuid=5, total=1.5, validator_permit=True)
            store.set_certificate(BOB, KEY, netuid=5)
            store.set_open_access_token("open")
        with DevnetStore(path) as store:
            assert store.identities() == (identity,)
            assert store.is_identity_token("dev", "t")
            assert store.neuron(BOB, netuid=5) == neuron
            assert store.certificates(netuid=5) == {BOB: KEY}
            token = store.open_access_token()
            assert token is not None
            assert token.matches("open")

    def test_is_its_owners_alone(self, path: Path) -> None:
        """Nobody else reads the digests."""
        with DevnetStore(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_two_may_use_it_at_once(self, path: Path) -> None:
        """What one process writes, the other reads at once."""
        with DevnetStore(path) as one, DevnetStore(path) as other:
            one.set_certificate(ALICE, KEY)
            assert other.certificates() == {ALICE: KEY}

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_threads_do_not_disturb_each_other(self, path: Path, *, in_memory: bool) -> None:
        """Parallel requests read and write whole states."""
        with DevnetStore(":memory:" if in_memory else path) as store:

            def work(number: int) -> int:
                hotkey = a_hotkey(f"n{number}")
                store.set_neuron(hotkey, total=number)
                store.set_certificate(hotkey, KEY)
                return len(store.neurons()) + len(store.certificates())

            with ThreadPoolExecutor(8) as threads:
                list(threads.map(work, range(40)))
            assert {each.uid for each in store.neurons()} == set(range(40))
            assert len(store.certificates()) == 40

    @pytest.mark.parametrize(
        "content", [b"hello\n", b"x" * 5000, b"\0" * 4096, b"SQLite format 2\0" + b"\0" * 100]
    )
    def test_a_foreign_file_is_refused_untouched(self, path: Path, content: bytes) -> None:
        """The message says so; the file keeps its content and time stamp."""
        path.write_bytes(content)
        before = path.stat()
        with pytest.raises(DevnetStoreUnusable, match="not a data file") as refusal:
            DevnetStore(path)
        assert refusal.value.path == str(path)
        assert path.read_bytes() == content
        assert path.stat().st_mtime_ns == before.st_mtime_ns

    def test_another_programs_database_is_refused_untouched(self, path: Path) -> None:
        """SQLite is used by many."""
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE bookmark (url TEXT)")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(DevnetStoreUnusable, match="not a data file"):
            DevnetStore(path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("version", [0, 3, 99])
    def test_another_versions_file_is_refused(self, path: Path, version: int) -> None:
        """No guessing about a format of the future."""
        DevnetStore(path).close()
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        with pytest.raises(DevnetStoreUnusable, match="another version"):
            DevnetStore(path)

    def test_a_file_of_version_1_goes_on_as_version_2(self, path: Path) -> None:
        """All is kept; its identities may publish as before, whatever else served no axon."""
        as_version_1(path)
        with DevnetStore(path) as store:
            axons = {each.hotkey: each.axon for each in store.neurons()}
            assert axons == {ALICE: Axon(port=1), BOB: Axon()}
            assert store.certificates() == {BOB: KEY}
            assert store.publish_certificate(ALICE, KEY, netuid=1) is None
            store.set_weights(BOB, netuid=1, mechanism=0)
        with DevnetStore(path) as store:
            assert store.certificates() == {ALICE: KEY, BOB: KEY}
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        upgraded = {each[:5] for each in connection.execute("PRAGMA table_xinfo(neuron)")}
        connection.close()
        DevnetStore(fresh := path.with_name("fresh")).close()
        connection = sqlite3.connect(fresh)
        made = {each[:5] for each in connection.execute("PRAGMA table_xinfo(neuron)")}
        connection.close()
        assert {each[1:] for each in upgraded} == {each[1:] for each in made}

    def test_an_upgrade_that_fails_changes_nothing(self, path: Path) -> None:
        """The older version still reads the file."""
        as_version_1(path)
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE weights (in_the_way TEXT)")
        connection.close()
        with pytest.raises(DevnetStoreUnusable, match="already exists"):
            DevnetStore(path)
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        columns = [each[1] for each in connection.execute("PRAGMA table_info(neuron)")]
        connection.close()
        assert "axon_block" not in columns

    @pytest.mark.parametrize("where", ["cut short", "overwritten"])
    def test_a_damaged_file_is_refused(self, path: Path, where: str) -> None:
        """One clear error, none of SQLite's own."""
        with DevnetStore(path) as store:
            for number in range(200):
                store.set_certificate(a_hotkey(str(number)), KEY)
        content = path.read_bytes()
        half = len(content) // 2
        damage = b"" if where == "cut short" else b"\xa5" * half
        path.write_bytes(content[:half] + damage)
        with pytest.raises(DevnetStoreUnusable, match="damaged"):
            DevnetStore(path)

    def test_an_empty_file_is_a_new_one(self, path: Path) -> None:
        """As `touch` or a mounted volume leaves it."""
        path.touch()
        with DevnetStore(path) as store:
            assert store.subnets() == ()

    @pytest.mark.parametrize("name", [".", "missing/pylon.sqlite"])
    def test_what_is_no_file_is_refused(self, tmp_path: Path, name: str) -> None:
        """A folder, or a file in a folder that is not there."""
        with pytest.raises(DevnetStoreUnusable, match="directory"):
            DevnetStore(tmp_path / name)

    def test_a_closed_store_says_so(self, store: DevnetStore) -> None:
        """With an error of our own."""
        store.close()
        with pytest.raises(DevnetStoreUnusable, match="closed"):
            store.neurons()


def test_no_statement_has_numbered_placeholders() -> None:
    """Python 3.12 warns of them with a sequence of values, and 3.14 refuses them."""
    source = Path(inspect.getfile(DevnetStore)).read_text(encoding="utf-8")
    assert re.findall(r"\?[0-9]", source) == []
