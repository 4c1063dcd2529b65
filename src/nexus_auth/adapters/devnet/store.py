"""The development Pylon's memory: an SQLite file in the place of a chain."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack, get_type_hints

from nexus_auth.adapters.devnet.records import (
    DEFAULT_NETUID,
    Axon,
    IdentityRecord,
    NeuronRecord,
    check_netuid,
    derive_coldkey,
)
from nexus_auth.adapters.devnet.tokens import TokenDigest
from nexus_auth.domain.errors import NexusAuthError
from nexus_auth.domain.hotkey import Hotkey

IN_MEMORY: Final = ":memory:"
"""In the place of a path: everything is forgotten when the store is closed."""

PUBLIC_KEY_BYTES: Final = 32

_APPLICATION_ID: Final = 0x4E585059  # "NXPY"; SQLite keeps it at offset 68 of the file
_SCHEMA_VERSION: Final = 1
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_BUSY_TIMEOUT_SECONDS: Final = 5.0
"""How long one process waits for another that is writing to the same file."""

_FOREIGN: Final = "not a data file of the development Pylon; name another one (it was not touched)"
_DAMAGED: Final = "the data file is damaged ({}); remove it or name another one"
_OPEN_ACCESS_TOKEN: Final = "open_access_token"  # noqa: S105 - the name of a row, not a token

# There is no column for a private key: it leaves with the answer and is never written down.
_SCHEMA: Final = f"""
CREATE TABLE subnet (
    netuid INTEGER PRIMARY KEY CHECK (netuid BETWEEN 0 AND 65535),
    position INTEGER NOT NULL
);
CREATE TABLE secret (name TEXT PRIMARY KEY, digest BLOB NOT NULL);
CREATE TABLE identity (
    name TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    netuid INTEGER NOT NULL REFERENCES subnet (netuid),
    hotkey TEXT NOT NULL,
    token_digest BLOB NOT NULL
);
CREATE TABLE neuron (
    netuid INTEGER NOT NULL REFERENCES subnet (netuid),
    hotkey TEXT NOT NULL,
    uid INTEGER NOT NULL,
    coldkey TEXT NOT NULL,
    active INTEGER NOT NULL,
    validator_permit INTEGER NOT NULL,
    alpha REAL NOT NULL,
    tao REAL NOT NULL,
    total REAL NOT NULL,
    axon_ip TEXT NOT NULL,
    axon_port INTEGER NOT NULL,
    axon_protocol INTEGER NOT NULL,
    PRIMARY KEY (netuid, hotkey),
    UNIQUE (netuid, uid)
);
CREATE TABLE certificate (
    netuid INTEGER NOT NULL REFERENCES subnet (netuid),
    hotkey TEXT NOT NULL,
    public_key BLOB NOT NULL CHECK (length(public_key) = {PUBLIC_KEY_BYTES}),
    PRIMARY KEY (netuid, hotkey)
);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
"""

R = TypeVar("R", Axon, IdentityRecord, NeuronRecord)


class NeuronChanges(TypedDict, total=False):
    """What can be set of a neuron; what is left out stays as it is."""

    uid: int
    coldkey: Hotkey
    active: bool
    validator_permit: bool
    alpha: float
    tao: float
    total: float
    axon: Axon


class DevnetStoreUnusable(NexusAuthError):
    """The development Pylon's data file cannot be used.

    Attributes:
        path: The file.
        problem: What is wrong with it and what to do.
    """

    def __init__(self, *, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class DevnetStore:
    """Subnets, identities, neurons and public keys.

    Every method is one transaction: it happened completely, and outlives a killed process, or not
    at all. Methods may be called from several threads; several processes may share one file.
    Each method may raise `DevnetStoreUnusable`.

    Attributes:
        path: The file, or ":memory:".
    """

    def __init__(self, connection: sqlite3.Connection, *, path: str) -> None:
        """For `open` alone."""
        self._connection = connection
        self.path = path
        self._lock = threading.RLock()  # reentrant: a transaction reads too

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Opens a data file, and makes it where there is none.

        A file that another program made is never written to.

        Args:
            path: The file, or ":memory:".

        Raises:
            DevnetStoreUnusable: If it cannot be opened, is damaged, is not ours, or was written by
                a newer version.
        """
        name = os.fspath(path)
        if name != IN_MEMORY:
            _prepare_file(name)
        with _explained(name):
            connection = sqlite3.connect(
                name,
                timeout=_BUSY_TIMEOUT_SECONDS,
                isolation_level=None,  # transactions begin where we say, not where Python guesses
                check_same_thread=False,  # the lock takes care of that
            )
        connection.row_factory = sqlite3.Row
        store = cls(connection, path=name)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

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
        """Adds an identity, or replaces the one of that name.

        Args:
            name: Its name in paths.
            hotkey: The wallet it acts for.
            token: Its bearer token; only a digest is kept.
            netuid: Its subnet, added where it is missing.
            registered: Whether the hotkey is entered as a neuron too, where it is none yet.
                Pylon makes no key pair for a hotkey that is not registered.

        Raises:
            ValueError: If the name or the token could not be used over HTTP.
        """
        identity = IdentityRecord(name=name, netuid=netuid, hotkey=hotkey)
        digest = TokenDigest.of(token)
        with self._transaction():
            self._ensure_subnet(netuid)
            self._run(
                "INSERT INTO identity (name, position, netuid, hotkey, token_digest) "
                "VALUES (?, (SELECT coalesce(max(position), 0) + 1 FROM identity), ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET netuid = excluded.netuid, "
                "hotkey = excluded.hotkey, token_digest = excluded.token_digest",
                *(name, netuid, hotkey, digest.encoded),
            )
            if registered and self.neuron(hotkey, netuid=netuid) is None:
                self.set_neuron(hotkey, netuid=netuid)
        return identity

    def identity(self, name: str) -> IdentityRecord | None:
        """Finds an identity by its name."""
        rows = self._run("SELECT * FROM identity WHERE name = ?", name)
        return _record_from(rows[0], IdentityRecord) if rows else None

    def identities(self) -> tuple[IdentityRecord, ...]:
        """All identities, in the order in which they were added."""
        rows = self._run("SELECT * FROM identity ORDER BY position")
        return tuple(_record_from(row, IdentityRecord) for row in rows)

    def is_identity_token(self, name: str, token: str) -> bool:
        """Whether this is the token of that identity."""
        rows = self._run("SELECT token_digest FROM identity WHERE name = ?", name)
        return bool(rows) and TokenDigest(rows[0]["token_digest"]).matches(token)

    def set_open_access_token(self, token: str | None) -> None:
        """Sets the token of the open-access API; None opens it to every caller."""
        digest = None if token is None else TokenDigest.of(token)
        with self._transaction():
            self._run("DELETE FROM secret WHERE name = ?", _OPEN_ACCESS_TOKEN)
            if digest is not None:
                self._run("INSERT INTO secret VALUES (?, ?)", _OPEN_ACCESS_TOKEN, digest.encoded)

    def open_access_token(self) -> TokenDigest | None:
        """What recognises the token of the open-access API; None where the API is open."""
        rows = self._run("SELECT digest FROM secret WHERE name = ?", _OPEN_ACCESS_TOKEN)
        return TokenDigest(rows[0]["digest"]) if rows else None

    # Neurons

    def set_neuron(
        self,
        hotkey: Hotkey,
        *,
        netuid: int = DEFAULT_NETUID,
        **changes: Unpack[NeuronChanges],
    ) -> NeuronRecord:
        """Registers a neuron, or changes one.

        A new neuron gets the lowest free uid, is active, and has no stake and no permit. Where
        alpha or tao are given and total is not, total becomes their sum; a real chain weighs them.

        Raises:
            ValueError: If a value is impossible, or the uid is another neuron's.
        """
        with self._transaction():
            self._ensure_subnet(netuid)
            old = self.neuron(hotkey, netuid=netuid) or NeuronRecord(
                hotkey=hotkey, uid=self._free_uid(netuid), coldkey=derive_coldkey(hotkey)
            )
            neuron = replace(old, **changes)
            if "total" not in changes and ("alpha" in changes or "tao" in changes):
                neuron = replace(neuron, total=neuron.alpha + neuron.tao)
            if self._run(
                "SELECT 1 FROM neuron WHERE netuid = ? AND uid = ? AND hotkey != ?",
                *(netuid, neuron.uid, hotkey),
            ):
                raise ValueError(f"uid {neuron.uid} is another neuron's on subnet {netuid}")
            columns = {"netuid": netuid, **_columns_of(neuron)}
            self._run(
                f"INSERT OR REPLACE INTO neuron ({', '.join(columns)}) "  # noqa: S608 - our names
                f"VALUES ({', '.join('?' * len(columns))})",
                *columns.values(),
            )
        return neuron

    def remove_neuron(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> bool:
        """Deregisters a neuron and its key; returns whether there was one."""
        with self._transaction():
            self.remove_certificate(hotkey, netuid=netuid)
            return self._delete("neuron", netuid, hotkey)

    def neuron(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> NeuronRecord | None:
        """What is known of one neuron; None where it is not registered."""
        rows = self._run("SELECT * FROM neuron WHERE netuid = ? AND hotkey = ?", netuid, hotkey)
        return _record_from(rows[0], NeuronRecord) if rows else None

    def neurons(self, *, netuid: int = DEFAULT_NETUID) -> tuple[NeuronRecord, ...]:
        """All neurons of a subnet, by uid."""
        rows = self._run("SELECT * FROM neuron WHERE netuid = ? ORDER BY uid", netuid)
        return tuple(_record_from(row, NeuronRecord) for row in rows)

    # Certificates: the public keys

    def publish_certificate(self, hotkey: Hotkey, public_key: bytes, *, netuid: int) -> bool:
        """Publishes a public key if the chain would accept it; returns whether it did.

        This is where it is decided: a chain accepts a key for a neuron of that subnet alone.
        """
        with self._transaction():
            accepted = self.neuron(hotkey, netuid=netuid) is not None
            if accepted:
                self.set_certificate(hotkey, public_key, netuid=netuid)
        return accepted

    def set_certificate(
        self, hotkey: Hotkey, public_key: bytes, *, netuid: int = DEFAULT_NETUID
    ) -> None:
        """Sets the public key of a hotkey, whatever a chain would say; see `set_certificates`."""
        self.set_certificates({hotkey: public_key}, netuid=netuid)

    def set_certificates(
        self, keys: Mapping[Hotkey, bytes], *, netuid: int = DEFAULT_NETUID
    ) -> None:
        """Sets the public keys of many hotkeys at once, in place of those they had.

        A hotkey need not be a neuron, and a key need not be a point of the curve.

        Raises:
            ValueError: If a key has not exactly 32 bytes.
        """
        if any(len(key) != PUBLIC_KEY_BYTES for key in keys.values()):
            raise ValueError(f"a public key has exactly {PUBLIC_KEY_BYTES} bytes")
        with self._transaction():
            self._ensure_subnet(netuid)
            self._connection.executemany(
                "INSERT OR REPLACE INTO certificate (netuid, hotkey, public_key) VALUES (?, ?, ?)",
                [(netuid, hotkey.address, key) for hotkey, key in keys.items()],
            )

    def remove_certificate(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> bool:
        """Removes a hotkey's public key; returns whether there was one."""
        return self._delete("certificate", netuid, hotkey)

    def certificate(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> bytes | None:
        """The public key of one hotkey."""
        rows = self._run(
            "SELECT public_key FROM certificate WHERE netuid = ? AND hotkey = ?",
            *(netuid, hotkey),
        )
        return bytes(rows[0]["public_key"]) if rows else None

    def certificates(self, *, netuid: int = DEFAULT_NETUID) -> dict[Hotkey, bytes]:
        """All public keys of a subnet."""
        rows = self._run("SELECT * FROM certificate WHERE netuid = ? ORDER BY hotkey", netuid)
        return {Hotkey.parse(row["hotkey"]): bytes(row["public_key"]) for row in rows}

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

    def _delete(self, table: str, netuid: int, hotkey: Hotkey) -> bool:
        with self._transaction():
            statement = f"DELETE FROM {table} WHERE netuid = ? AND hotkey = ?"  # noqa: S608 - ours
            self._run(statement, netuid, hotkey)
            return bool(self._run("SELECT changes()")[0][0])

    def _ensure_subnet(self, netuid: int) -> None:
        check_netuid(netuid)
        self._run(
            "INSERT OR IGNORE INTO subnet (netuid, position) "
            "VALUES (?, (SELECT coalesce(max(position), 0) + 1 FROM subnet))",
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
            application_id, version, tables = (
                self._run(query)[0][0]
                for query in (
                    "PRAGMA application_id",
                    "PRAGMA user_version",
                    "SELECT count(*) FROM sqlite_master",
                )
            )
            if application_id == 0 and tables == 0:
                for statement in _SCHEMA.split(";"):
                    self._run(statement)
            elif application_id != _APPLICATION_ID:
                raise DevnetStoreUnusable(path=self.path, problem=_FOREIGN)
            elif version != _SCHEMA_VERSION:
                problem = f"written by another version of nexus-auth (data format {version})"
                raise DevnetStoreUnusable(path=self.path, problem=problem)
        verdict = self._run("PRAGMA quick_check(1)")[0][0]
        if verdict != "ok":
            raise DevnetStoreUnusable(path=self.path, problem=_DAMAGED.format(verdict))
        # Readers go on while another process writes, and a killed process loses nothing committed.
        # NORMAL may lose the last moments to a power cut, which is no matter for development data.
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            self._run(f"PRAGMA {setting}")


_TYPES: Final[Mapping[type, Mapping[str, Any]]] = {
    kind: get_type_hints(kind) for kind in (Axon, IdentityRecord, NeuronRecord)
}


def _columns_of(neuron: NeuronRecord) -> dict[str, object]:
    """A neuron's fields as columns, its axon's fields as `axon_...`."""
    columns = {name: getattr(neuron, name) for name in _TYPES[NeuronRecord]}
    axon = columns.pop("axon")
    return columns | {f"axon_{name}": getattr(axon, name) for name in _TYPES[Axon]}


def _record_from(row: sqlite3.Row, kind: type[R], *, prefix: str = "") -> R:
    """The record in a row: each field is made by its type from the column of its name."""
    values: dict[str, Any] = {}
    for name, wanted in _TYPES[kind].items():
        if wanted is Axon:
            values[name] = _record_from(row, Axon, prefix=f"{name}_")
        else:
            make = Hotkey.parse if wanted is Hotkey else wanted
            values[name] = make(row[prefix + name])
    return kind(**values)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns what SQLite says into our own error."""
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.ProgrammingError) as exc:
        # A full disk, no permission, a writer that does not end, or a store already closed.
        problem = f"the development Pylon's data cannot be used: {exc}"
        raise DevnetStoreUnusable(path=path, problem=problem) from exc
    except sqlite3.DatabaseError as exc:
        raise DevnetStoreUnusable(path=path, problem=_DAMAGED.format(exc)) from exc


def _prepare_file(path: str) -> None:
    """Makes the file for its owner alone; raises for one that is no SQLite file at all."""
    try:
        # Not `touch`: that would change the time stamp of a file that is not ours.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600), "rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as exc:
        raise DevnetStoreUnusable(path=path, problem=exc.strerror or str(exc)) from exc
    if head and head != _SQLITE_MAGIC:
        raise DevnetStoreUnusable(path=path, problem=_FOREIGN)
