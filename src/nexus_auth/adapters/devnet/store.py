"""The development Pylon's memory: an SQLite file in the place of a chain."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from importlib.resources import files
from typing import Any, Final, Self

from nexus_auth.adapters.devnet.records import (
    DEFAULT_NETUID,
    HTTP_AXON,
    PLACEHOLDER_AXON,
    Axon,
    ChainRefusal,
    IdentityRecord,
    NeuronRecord,
    TokenDigest,
    check_netuid,
)
from nexus_auth.domain.errors import NexusAuthError
from nexus_auth.domain.hotkey import Hotkey

IN_MEMORY: Final = ":memory:"
"""In the place of a path: everything is forgotten when the store is closed."""

PUBLIC_KEY_BYTES: Final = 32

_APPLICATION_ID: Final = 0x4E585059  # "NXPY"; both stand at the end of schema.sql too
_SCHEMA_VERSION: Final = 2
_UPGRADE_FROM_1: Final = (
    "ALTER TABLE neuron ADD COLUMN axon_block INTEGER NOT NULL DEFAULT 0",
    # An axon meant nothing then: what could publish a key goes on to do so.
    # This is the placeholder that an identity gets now.
    (
        "UPDATE neuron SET axon_port = 1 WHERE axon_port = 0 "
        "AND (netuid, hotkey) IN (SELECT netuid, hotkey FROM identity)"
    ),
)
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_BUSY_TIMEOUT_SECONDS: Final = 5.0
"""How long one process waits for another that is writing to the same file."""

_BLOCK_SECONDS: Final = 12
"""A block of the chain; here it is the clock alone that makes them."""
_EPOCH_BLOCKS: Final = 361
"""The chain's default tempo of 360, and one (`blocks_until_next_epoch` in subtensor)."""

_FOREIGN: Final = "not a data file of the development Pylon; name another one (it was not touched)"
_DAMAGED: Final = "the data file is damaged ({}); remove it or name another one"
_OPEN_ACCESS_TOKEN: Final = "open_access_token"  # noqa: S105 - the name of a row, not a token


class DevnetStoreUnusable(NexusAuthError):
    """The data file at `path` cannot be used: what is wrong with it, and what to do."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class DevnetStore:
    """Subnets, identities, neurons and public keys, under the rules of the chain.

    Every method is one transaction: it happened completely, and outlives a killed process, or not
    at all. Methods may be called from several threads; several processes may share one file.
    Each method may raise `DevnetStoreUnusable`.

    Attributes:
        path: The file, or ":memory:".
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        serving_rate_limit: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens a data file, and makes it where there is none.

        A file that another program made is never written to; one of version 1 becomes version 2.

        Args:
            path: The file, or ":memory:".
            serving_rate_limit: How many blocks a neuron has to wait between two axons or keys; 0
                for none. The chain's own default is 50.
            clock: The wall clock, in seconds, which makes the blocks.

        Raises:
            DevnetStoreUnusable: If it cannot be opened, is damaged, is not ours, or was written by
                a newer version.
        """
        self.path = os.fspath(path)
        self._serving_rate_limit = serving_rate_limit
        self._clock = clock
        self._lock = threading.RLock()  # reentrant: a transaction reads too
        if self.path != IN_MEMORY:
            _prepare_file(self.path)
        with _explained(self.path):
            self._connection = sqlite3.connect(
                self.path,
                timeout=_BUSY_TIMEOUT_SECONDS,
                isolation_level=None,  # transactions begin where we say, not where Python guesses
                check_same_thread=False,  # the lock takes care of that
            )
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; every later call raises."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DevnetStore({self.path!r})"

    def block(self) -> int:
        """The number of the latest block."""
        return int(self._clock()) // _BLOCK_SECONDS

    def block_time(self, number: int) -> int:
        """When a block was made, in seconds since 1970."""
        return number * _BLOCK_SECONDS

    def subnets(self) -> tuple[int, ...]:
        """All subnets, in the order in which they were added."""
        return tuple(row["netuid"] for row in self._run("SELECT * FROM subnet ORDER BY position"))

    # Identities and tokens

    def add_identity(
        self,
        name: str,
        *,
        hotkey: Hotkey,
        token: str,
        netuid: int = DEFAULT_NETUID,
        registered: bool = True,
    ) -> IdentityRecord:
        """Adds an identity with its subnet, or replaces the one of that name.

        Of the token only a digest is kept. With `registered` the hotkey becomes a neuron too, where
        it is none yet, and gets a placeholder of an axon, where it serves none: the chain takes
        its key then.

        Raises:
            ValueError: If the name or the token could not be used over HTTP.
        """
        identity = IdentityRecord(name=name, netuid=netuid, hotkey=hotkey)
        digest = TokenDigest.of(token)
        with self._transaction():
            self._ensure_subnet(netuid)
            places = self._run(
                "SELECT coalesce((SELECT position FROM identity WHERE name = ?), "
                "max(position) + 1, 1) FROM identity",
                name,
            )
            columns = {"netuid": netuid, "hotkey": hotkey, "token_digest": digest.encoded}
            self._write("identity", name=name, position=places[0][0], **columns)
            neuron = self.neuron(hotkey, netuid=netuid)
            if registered and (neuron is None or neuron.axon.port == 0):
                self.set_neuron(hotkey, netuid=netuid, axon=PLACEHOLDER_AXON, axon_block=0)
        return identity

    def identity(self, name: str) -> IdentityRecord | None:
        """Finds an identity by its name."""
        return next((each for each in self.identities() if each.name == name), None)

    def identities(self) -> tuple[IdentityRecord, ...]:
        """All identities, in the order in which they were added."""
        rows = self._run("SELECT name, netuid, hotkey FROM identity ORDER BY position")
        return tuple(
            IdentityRecord(name=name, netuid=netuid, hotkey=Hotkey.parse(hotkey))
            for name, netuid, hotkey in rows
        )

    def is_identity_token(self, name: str, token: str) -> bool:
        """Whether this is the token of that identity."""
        rows = self._run("SELECT token_digest FROM identity WHERE name = ?", name)
        return bool(rows) and TokenDigest(rows[0]["token_digest"]).matches(token)

    def set_open_access_token(self, token: str) -> None:
        """Sets the token of the open-access API, which is open until then."""
        self._write("secret", name=_OPEN_ACCESS_TOKEN, digest=TokenDigest.of(token).encoded)

    def open_access_token(self) -> TokenDigest | None:
        """What recognises the token of the open-access API; None where the API is open."""
        rows = self._run("SELECT digest FROM secret WHERE name = ?", _OPEN_ACCESS_TOKEN)
        return TokenDigest(rows[0]["digest"]) if rows else None

    # Neurons

    def set_neuron(
        self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID, **changes: Any
    ) -> NeuronRecord:
        """Registers a neuron, or changes the fields of one that are named; the others stay.

        A new neuron gets the lowest free uid, is active, and has no stake and no permit. Where
        alpha or tao are given and total is not, total becomes their sum; a real chain weighs them.

        As on chain, a new neuron may take the uid of another one, which loses its place and its
        key then; an axon other than the one before counts for the rate limit, and leaves the key
        as it is.

        Raises:
            ValueError: If a value is impossible, or a neuron wants to move to another one's uid.
        """
        with self._transaction():
            self._ensure_subnet(netuid)
            known = self.neuron(hotkey, netuid=netuid)
            old = known or NeuronRecord(
                hotkey=hotkey,
                uid=self._free_uid(netuid),
                coldkey=Hotkey(hashlib.sha256(b"coldkey of " + hotkey.account_id).digest()),
            )
            neuron = replace(old, **changes)
            if "total" not in changes and ("alpha" in changes or "tao" in changes):
                neuron = replace(neuron, total=neuron.alpha + neuron.tao)
            if neuron.axon != old.axon and "axon_block" not in changes:
                neuron = replace(neuron, axon_block=self.block())
            others = "SELECT hotkey FROM neuron WHERE netuid = ? AND uid = ? AND hotkey != ?"
            for other in self._run(others, netuid, neuron.uid, hotkey):
                if known:
                    raise ValueError(f"uid {neuron.uid} is another neuron's on subnet {netuid}")
                self.remove_neuron(Hotkey.parse(other["hotkey"]), netuid=netuid)
            columns = {each.name: getattr(neuron, each.name) for each in fields(neuron)}
            axon = asdict(columns.pop("axon"))
            columns |= {f"axon_{name}": value for name, value in axon.items()}
            self._write("neuron", netuid=netuid, **columns)
        return neuron

    def remove_neuron(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> None:
        """Deregisters a hotkey, which loses its key too, as on chain."""
        with self._transaction():
            for table in ("certificate", "weights", "neuron"):
                statement = f"DELETE FROM {table} WHERE netuid = ? AND hotkey = ?"  # noqa: S608
                self._run(statement, netuid, hotkey)

    def neuron(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> NeuronRecord | None:
        """What is known of one neuron; None where it is not registered."""
        rows = self._run("SELECT * FROM neuron WHERE netuid = ? AND hotkey = ?", netuid, hotkey)
        return _neuron_from(rows[0]) if rows else None

    def neurons(self, *, netuid: int = DEFAULT_NETUID) -> tuple[NeuronRecord, ...]:
        """All neurons of a subnet, by uid."""
        rows = self._run("SELECT * FROM neuron WHERE netuid = ? ORDER BY uid", netuid)
        return tuple(_neuron_from(row) for row in rows)

    # Certificates: the public keys

    def publish_certificate(
        self, hotkey: Hotkey, public_key: bytes, *, netuid: int
    ) -> ChainRefusal | None:
        """Publishes a public key if the chain would take it; returns why not where it would not.

        The checks are those of `serve_axon_tls` in subtensor's pallet `serving.rs`, in its order,
        with the axon that Pylon sends: the neuron's own, and HTTP as its protocol. The address of
        the axon is not checked: the chain takes none on the loopback, which trials need.
        """
        with self._transaction():
            neuron, block = self.neuron(hotkey, netuid=netuid), self.block()
            if neuron is None:
                return ChainRefusal.NOT_REGISTERED
            if neuron.axon_block and block - neuron.axon_block < self._serving_rate_limit:
                return ChainRefusal.RATE_LIMIT
            if neuron.axon.port == 0:
                return ChainRefusal.NO_AXON
            axon = replace(neuron.axon, protocol=HTTP_AXON)
            self.set_neuron(hotkey, netuid=netuid, axon=axon, axon_block=block)
            self.set_certificate(hotkey, public_key, netuid=netuid)
        return None

    def set_certificate(
        self, hotkey: Hotkey, public_key: bytes, *, netuid: int = DEFAULT_NETUID
    ) -> None:
        """Sets the public key of a hotkey, in place of the one it had.

        The hotkey need not be a neuron, and the key need not be a point of the curve.

        Raises:
            ValueError: If the key has not exactly 32 bytes.
        """
        if len(public_key) != PUBLIC_KEY_BYTES:
            raise ValueError(f"a public key has exactly {PUBLIC_KEY_BYTES} bytes")
        with self._transaction():
            self._ensure_subnet(netuid)
            self._write("certificate", netuid=netuid, hotkey=hotkey, public_key=public_key)

    def certificate(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> bytes | None:
        """The public key of one hotkey."""
        query = "SELECT public_key FROM certificate WHERE netuid = ? AND hotkey = ?"
        rows = self._run(query, netuid, hotkey)
        return bytes(rows[0]["public_key"]) if rows else None

    def certificates(self, *, netuid: int = DEFAULT_NETUID) -> dict[Hotkey, bytes]:
        """All public keys of a subnet."""
        rows = self._run("SELECT * FROM certificate WHERE netuid = ? ORDER BY hotkey", netuid)
        return {Hotkey.parse(row["hotkey"]): bytes(row["public_key"]) for row in rows}

    # Weights: only when they were set

    def set_weights(self, hotkey: Hotkey, *, netuid: int, mechanism: int) -> None:
        """Notes that a neuron sets its weights now; the chain takes none of another hotkey."""
        with self._transaction():
            if self.neuron(hotkey, netuid=netuid) is not None:
                columns = {"netuid": netuid, "hotkey": hotkey, "mechanism": mechanism}
                self._write("weights", **columns, block=self.block())

    def has_set_weights(self, hotkey: Hotkey, *, netuid: int, mechanism: int, block: int) -> bool:
        """Whether the last weights were set in the epoch that has this block in it."""
        query = "SELECT block FROM weights WHERE netuid = ? AND hotkey = ? AND mechanism = ?"
        rows = self._run(query, netuid, hotkey, mechanism)
        epochs = {(each + netuid + 2) // _EPOCH_BLOCKS for each in (block, *(r[0] for r in rows))}
        return bool(rows) and len(epochs) == 1

    # Statements

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Keeps all that is written in the block, or nothing; may stand within another one."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._run("BEGIN IMMEDIATE")
            try:
                with _explained(self.path):
                    yield
            except BaseException:
                # SQLite may have rolled back by itself, on a full disk for one.
                with suppress(DevnetStoreUnusable):
                    self._run("ROLLBACK")
                raise
            self._run("COMMIT")

    def _run(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """Executes one statement and returns all of its rows; a hotkey is bound as its address."""
        bound = [value.address if isinstance(value, Hotkey) else value for value in values]
        with self._lock, _explained(self.path):
            return self._connection.execute(statement, bound).fetchall()

    def _write(self, table: str, **columns: object) -> None:
        """Writes a row, in place of the one with the same key."""
        names, places = ", ".join(columns), ", ".join("?" * len(columns))
        statement = f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({places})"  # noqa: S608
        self._run(statement, *columns.values())

    def _ensure_subnet(self, netuid: int) -> None:
        check_netuid(netuid)
        self._run(
            "INSERT OR IGNORE INTO subnet (netuid, position) "
            "SELECT ?, coalesce(max(position), 0) + 1 FROM subnet",
            netuid,
        )

    def _free_uid(self, netuid: int) -> int:
        # The first gap: 0 where it is free, otherwise one above a uid that has no neighbour.
        rows = self._run(
            "SELECT min(candidate) FROM ("
            "SELECT 0 AS candidate UNION ALL SELECT uid + 1 FROM neuron WHERE netuid = ?) "
            "WHERE candidate NOT IN (SELECT uid FROM neuron WHERE netuid = ?)",
            *(netuid, netuid),
        )
        return int(rows[0][0])

    def _prepare(self) -> None:
        """Checks that the file is ours and whole, and fills an empty one."""
        with self._transaction():
            application_id = self._run("PRAGMA application_id")[0][0]
            version = self._run("PRAGMA user_version")[0][0]
            tables = self._run("SELECT count(*) FROM sqlite_master")[0][0]
            if application_id == 0 and tables == 0:
                for statement in _schema():
                    self._run(statement)
            elif application_id != _APPLICATION_ID:
                raise DevnetStoreUnusable(self.path, _FOREIGN)
            elif not 1 <= version <= _SCHEMA_VERSION:
                problem = f"written by another version of nexus-auth (data format {version})"
                raise DevnetStoreUnusable(self.path, problem)
            verdict = self._run("PRAGMA quick_check(1)")[0][0]
            if verdict != "ok":
                raise DevnetStoreUnusable(self.path, _DAMAGED.format(verdict))
            if version == 1:
                weights = [each for each in _schema() if "CREATE TABLE weights" in each]
                for statement in (*_UPGRADE_FROM_1, *weights, "PRAGMA user_version = 2"):
                    self._run(statement)
        # Readers go on while another process writes, and a killed process loses nothing committed.
        # NORMAL may lose the last moments to a power cut, which is no matter for development data.
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            self._run(f"PRAGMA {setting}")


def _neuron_from(row: sqlite3.Row) -> NeuronRecord:
    return NeuronRecord(
        uid=row["uid"],
        hotkey=Hotkey.parse(row["hotkey"]),
        coldkey=Hotkey.parse(row["coldkey"]),
        active=bool(row["active"]),
        validator_permit=bool(row["validator_permit"]),
        alpha=row["alpha"],
        tao=row["tao"],
        total=row["total"],
        axon=Axon(ip=row["axon_ip"], port=row["axon_port"], protocol=row["axon_protocol"]),
        axon_block=row["axon_block"],
    )


def _schema() -> list[str]:
    return files(__package__).joinpath("schema.sql").read_text("utf-8").split(";")


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns what SQLite says into our own error."""
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.ProgrammingError) as exc:
        # A full disk, no permission, a writer that does not end, or a store already closed.
        problem = f"the development Pylon's data cannot be used: {exc}"
        raise DevnetStoreUnusable(path, problem) from exc
    except sqlite3.DatabaseError as exc:
        raise DevnetStoreUnusable(path, _DAMAGED.format(exc)) from exc


def _prepare_file(path: str) -> None:
    """Makes the file for its owner alone; raises for one that is no SQLite file at all."""
    try:
        # Not `touch`: that would change the time stamp of a file that is not ours.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600), "rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as exc:
        raise DevnetStoreUnusable(path, exc.strerror or str(exc)) from exc
    if head and head != _SQLITE_MAGIC:
        raise DevnetStoreUnusable(path, _FOREIGN)
