"""The development Pylon's memory: an SQLite file in the place of a chain."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

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

_REPLACE_NEURON: Final = """
INSERT OR REPLACE INTO neuron (
    netuid, hotkey, uid, coldkey, active, validator_permit,
    alpha, tao, total, axon_ip, axon_port, axon_protocol
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class PylonStoreUnusable(NexusAuthError):
    """The development Pylon's data file cannot be used.

    Attributes:
        path: The file.
        problem: What is wrong with it and what to do.
    """

    def __init__(self, *, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class EmbeddedPylonStore:
    """Subnets, identities, neurons and public keys.

    Every method is one transaction: it happened completely, and outlives a killed process, or not
    at all. Methods may be called from several threads; several processes may share one file.
    Each method may raise `PylonStoreUnusable`.
    """

    def __init__(self, connection: sqlite3.Connection, *, path: str) -> None:
        """For `open` alone."""
        self._connection = connection
        self._path = path
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Opens a data file, and makes it where there is none.

        A file that somebody else made is never written to.

        Args:
            path: The file, or ":memory:".

        Raises:
            PylonStoreUnusable: If it cannot be opened, is damaged, is not ours, or was written by
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
            try:
                _prepare_schema(connection, name)
            except BaseException:
                connection.close()
                raise
        return cls(connection, path=name)

    def close(self) -> None:
        """Closes the file; nothing can be asked afterwards."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EmbeddedPylonStore({self._path!r})"

    # Subnets

    def add_subnet(self, netuid: int) -> None:
        """Adds a subnet; one that is there already stays as it is."""
        with self._writing() as connection:
            _ensure_subnet(connection, netuid)

    def subnets(self) -> tuple[int, ...]:
        """All subnets, in the order in which they were added."""
        return tuple(
            netuid for (netuid,) in self._rows("SELECT netuid FROM subnet ORDER BY position")
        )

    # Identities

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
        with self._writing() as connection:
            _ensure_subnet(connection, netuid)
            connection.execute(
                "INSERT INTO identity (name, position, netuid, hotkey, token_digest) "
                "VALUES (?, (SELECT coalesce(max(position), 0) + 1 FROM identity), ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET netuid = excluded.netuid, "
                "hotkey = excluded.hotkey, token_digest = excluded.token_digest",
                (name, netuid, hotkey.address, digest.encoded),
            )
            if registered and _find_neuron(connection, netuid, hotkey) is None:
                _put_neuron(connection, netuid, _new_neuron(connection, netuid, hotkey, uid=None))
        return identity

    def remove_identity(self, name: str) -> bool:
        """Removes an identity and tells whether there was one; its neuron and key stay."""
        with self._writing() as connection:
            return connection.execute("DELETE FROM identity WHERE name = ?", (name,)).rowcount > 0

    def identity(self, name: str) -> IdentityRecord | None:
        """Finds an identity by its name."""
        rows = self._rows("SELECT name, netuid, hotkey FROM identity WHERE name = ?", name)
        return _identity_from(rows[0]) if rows else None

    def identities(self) -> tuple[IdentityRecord, ...]:
        """All identities, in the order in which they were added."""
        rows = self._rows("SELECT name, netuid, hotkey FROM identity ORDER BY position")
        return tuple(_identity_from(row) for row in rows)

    def is_identity_token(self, name: str, token: str) -> bool:
        """Tells whether this is the token of that identity."""
        rows = self._rows("SELECT token_digest FROM identity WHERE name = ?", name)
        return bool(rows) and TokenDigest(rows[0][0]).matches(token)

    # Open access

    def set_open_access_token(self, token: str | None) -> None:
        """Sets the token of the open-access API; None opens it to everybody."""
        digest = None if token is None else TokenDigest.of(token)
        with self._writing() as connection:
            connection.execute("DELETE FROM secret WHERE name = ?", (_OPEN_ACCESS_TOKEN,))
            if digest is not None:
                connection.execute(
                    "INSERT INTO secret (name, digest) VALUES (?, ?)",
                    (_OPEN_ACCESS_TOKEN, digest.encoded),
                )

    def open_access_token(self) -> TokenDigest | None:
        """What recognises the token of the open-access API; None where it is open to everybody."""
        rows = self._rows("SELECT digest FROM secret WHERE name = ?", _OPEN_ACCESS_TOKEN)
        return TokenDigest(rows[0][0]) if rows else None

    # Neurons

    def set_neuron(
        self,
        hotkey: Hotkey,
        *,
        netuid: int = DEFAULT_NETUID,
        uid: int | None = None,
        coldkey: Hotkey | None = None,
        active: bool | None = None,
        validator_permit: bool | None = None,
        alpha: float | None = None,
        tao: float | None = None,
        total: float | None = None,
        axon: Axon | None = None,
    ) -> NeuronRecord:
        """Registers a neuron, or changes what is said of it; None leaves a value as it is.

        A new neuron gets the lowest free uid, is active, and has no stake and no permit. Where
        alpha or tao are given and total is not, total becomes their sum; a real chain weighs them.

        Raises:
            ValueError: If a value is impossible, or the uid is another neuron's.
        """
        with self._writing() as connection:
            _ensure_subnet(connection, netuid)
            old = _find_neuron(connection, netuid, hotkey)
            if old is None:
                old = _new_neuron(connection, netuid, hotkey, uid=uid)
            new_alpha = old.alpha if alpha is None else alpha
            new_tao = old.tao if tao is None else tao
            if total is None and (alpha is not None or tao is not None):
                total = new_alpha + new_tao
            neuron = NeuronRecord(
                hotkey=hotkey,
                uid=old.uid if uid is None else uid,
                coldkey=coldkey or old.coldkey,
                active=old.active if active is None else active,
                validator_permit=(
                    old.validator_permit if validator_permit is None else validator_permit
                ),
                alpha=new_alpha,
                tao=new_tao,
                total=old.total if total is None else total,
                axon=axon or old.axon,
            )
            holder = connection.execute(
                "SELECT 1 FROM neuron WHERE netuid = ? AND uid = ? AND hotkey != ?",
                (netuid, neuron.uid, hotkey.address),
            ).fetchone()
            if holder is not None:
                raise ValueError(f"uid {neuron.uid} is another neuron's on subnet {netuid}")
            _put_neuron(connection, netuid, neuron)
        return neuron

    def remove_neuron(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> bool:
        """Deregisters a neuron and its key; tells whether there was one."""
        of_neuron = (netuid, hotkey.address)
        with self._writing() as connection:
            connection.execute("DELETE FROM certificate WHERE netuid = ? AND hotkey = ?", of_neuron)
            done = connection.execute(
                "DELETE FROM neuron WHERE netuid = ? AND hotkey = ?", of_neuron
            )
            return done.rowcount > 0

    def neuron(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> NeuronRecord | None:
        """What is known of one neuron; None where it is not registered."""
        with self._reading() as connection:
            return _find_neuron(connection, netuid, hotkey)

    def neurons(self, *, netuid: int = DEFAULT_NETUID) -> tuple[NeuronRecord, ...]:
        """All neurons of a subnet, by uid."""
        rows = self._rows(f"{_SELECT_NEURON} WHERE netuid = ? ORDER BY uid", netuid)
        return tuple(_neuron_from(row) for row in rows)

    # Certificates: the public keys

    def set_certificate(
        self, hotkey: Hotkey, public_key: bytes, *, netuid: int = DEFAULT_NETUID
    ) -> None:
        """Publishes a public key for a hotkey in place of the one it had.

        The hotkey need not be a neuron; the key need not be a good one: a chain does not look.

        Raises:
            ValueError: If the key has not exactly 32 bytes.
        """
        self.set_certificates({hotkey: public_key}, netuid=netuid)

    def set_certificates(
        self, keys: Mapping[Hotkey, bytes], *, netuid: int = DEFAULT_NETUID
    ) -> None:
        """Publishes many public keys at once; see `set_certificate`."""
        if any(len(key) != PUBLIC_KEY_BYTES for key in keys.values()):
            raise ValueError(f"a public key has exactly {PUBLIC_KEY_BYTES} bytes")
        with self._writing() as connection:
            _ensure_subnet(connection, netuid)
            connection.executemany(
                "INSERT OR REPLACE INTO certificate (netuid, hotkey, public_key) VALUES (?, ?, ?)",
                [(netuid, hotkey.address, key) for hotkey, key in keys.items()],
            )

    def set_certificate_if_registered(
        self, hotkey: Hotkey, public_key: bytes, *, netuid: int
    ) -> bool:
        """Publishes a public key as a chain would: only for a neuron of that subnet."""
        with self._writing() as connection:
            if _find_neuron(connection, netuid, hotkey) is None:
                return False
            connection.execute(
                "INSERT OR REPLACE INTO certificate (netuid, hotkey, public_key) VALUES (?, ?, ?)",
                (netuid, hotkey.address, public_key),
            )
            return True

    def remove_certificate(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> bool:
        """Takes a hotkey's public key back and tells whether there was one."""
        with self._writing() as connection:
            done = connection.execute(
                "DELETE FROM certificate WHERE netuid = ? AND hotkey = ?", (netuid, hotkey.address)
            )
            return done.rowcount > 0

    def certificate(self, hotkey: Hotkey, *, netuid: int = DEFAULT_NETUID) -> bytes | None:
        """The public key of one hotkey."""
        rows = self._rows(
            "SELECT public_key FROM certificate WHERE netuid = ? AND hotkey = ?",
            netuid,
            hotkey.address,
        )
        return bytes(rows[0][0]) if rows else None

    def certificates(self, *, netuid: int = DEFAULT_NETUID) -> dict[Hotkey, bytes]:
        """All public keys of a subnet."""
        rows = self._rows(
            "SELECT hotkey, public_key FROM certificate WHERE netuid = ? ORDER BY hotkey", netuid
        )
        return {Hotkey.parse(address): bytes(key) for address, key in rows}

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _explained(self._path):
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _explained(self._path), _transaction(self._connection):
            yield self._connection

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._reading() as connection:
            return connection.execute(query, values).fetchall()


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns what SQLite says into our own error."""
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.ProgrammingError) as exc:
        # A full disk, no permission, a writer that does not end, or a store already closed.
        problem = f"the development Pylon's data cannot be used: {exc}"
        raise PylonStoreUnusable(path=path, problem=problem) from exc
    except sqlite3.DatabaseError as exc:
        raise _damaged(path, str(exc)) from exc


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # SQLite may have rolled back by itself, on a full disk for one.
        with suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _damaged(path: str, detail: str) -> PylonStoreUnusable:
    problem = f"the data file is damaged ({detail}); remove it or name another one"
    return PylonStoreUnusable(path=path, problem=problem)


def _foreign(path: str) -> PylonStoreUnusable:
    problem = "not a data file of the development Pylon; name another one (it was not touched)"
    return PylonStoreUnusable(path=path, problem=problem)


def _prepare_file(path: str) -> None:
    """Makes the file for its owner alone, and refuses what is no SQLite file at all."""
    try:
        # Not `touch`: that would change the time stamp of a file that is not ours.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600), "rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as exc:
        raise PylonStoreUnusable(path=path, problem=exc.strerror or str(exc)) from exc
    if head and head != _SQLITE_MAGIC:
        raise _foreign(path)


def _prepare_schema(connection: sqlite3.Connection, path: str) -> None:
    """Checks that the file is ours and whole, and fills an empty one."""
    with _transaction(connection):
        application_id = _pragma(connection, "application_id")
        version = _pragma(connection, "user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application_id == 0 and tables == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
        elif application_id != _APPLICATION_ID:
            raise _foreign(path)
        elif version != _SCHEMA_VERSION:
            problem = f"written by another version of nexus-auth (data format {version})"
            raise PylonStoreUnusable(path=path, problem=problem)
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _damaged(path, str(verdict))
    # Readers go on while another process writes, and a killed process loses nothing committed.
    # NORMAL may lose the last moments to a power cut, which is no matter for development data.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _ensure_subnet(connection: sqlite3.Connection, netuid: int) -> None:
    check_netuid(netuid)
    connection.execute(
        "INSERT OR IGNORE INTO subnet (netuid, position) "
        "VALUES (?, (SELECT coalesce(max(position), 0) + 1 FROM subnet))",
        (netuid,),
    )


_SELECT_NEURON: Final = (
    "SELECT hotkey, uid, coldkey, active, validator_permit, alpha, tao, total, "
    "axon_ip, axon_port, axon_protocol FROM neuron"
)


def _find_neuron(
    connection: sqlite3.Connection, netuid: int, hotkey: Hotkey
) -> NeuronRecord | None:
    row = connection.execute(
        f"{_SELECT_NEURON} WHERE netuid = ? AND hotkey = ?", (netuid, hotkey.address)
    ).fetchone()
    return None if row is None else _neuron_from(row)


def _new_neuron(
    connection: sqlite3.Connection, netuid: int, hotkey: Hotkey, *, uid: int | None
) -> NeuronRecord:
    if uid is None:
        # The first gap: 0 where it is free, otherwise one above a uid that has no neighbour.
        uid = connection.execute(
            "SELECT min(candidate) FROM ("
            "SELECT 0 AS candidate UNION ALL SELECT uid + 1 FROM neuron WHERE netuid = :netuid) "
            "WHERE candidate NOT IN (SELECT uid FROM neuron WHERE netuid = :netuid)",
            {"netuid": netuid},
        ).fetchone()[0]
    return NeuronRecord(hotkey=hotkey, uid=uid, coldkey=derive_coldkey(hotkey))


def _put_neuron(connection: sqlite3.Connection, netuid: int, neuron: NeuronRecord) -> None:
    connection.execute(
        _REPLACE_NEURON,
        (
            netuid,
            neuron.hotkey.address,
            neuron.uid,
            neuron.coldkey.address,
            neuron.active,
            neuron.validator_permit,
            neuron.alpha,
            neuron.tao,
            neuron.total,
            neuron.axon.ip,
            neuron.axon.port,
            neuron.axon.protocol,
        ),
    )


def _neuron_from(row: tuple[Any, ...]) -> NeuronRecord:
    hotkey, uid, coldkey, active, permit, alpha, tao, total, ip, port, protocol = row
    return NeuronRecord(
        hotkey=Hotkey.parse(hotkey),
        uid=uid,
        coldkey=Hotkey.parse(coldkey),
        active=bool(active),
        validator_permit=bool(permit),
        alpha=alpha,
        tao=tao,
        total=total,
        axon=Axon(ip=ip, port=port, protocol=protocol),
    )


def _identity_from(row: tuple[Any, ...]) -> IdentityRecord:
    name, netuid, hotkey = row
    return IdentityRecord(name=name, netuid=netuid, hotkey=Hotkey.parse(hotkey))
