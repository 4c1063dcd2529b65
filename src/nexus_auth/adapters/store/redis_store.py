"""Keeps a snapshot in Redis, for the next start and for a whole fleet."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from nexus_auth.adapters.server_trust import (
    AUTHORITIES_VARIABLE,
    CLEARED_FLAGS,
    SET_FLAGS,
    explain_refusal,
)
from nexus_auth.adapters.store.record import LONGEST_LEASE, MAX_RECORD_BYTES, MAX_SKEW, VERSION
from nexus_auth.domain.errors import RecordRejected, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from nexus_auth.domain.ports import Clock

T = TypeVar("T")

TIMEOUT_SECONDS: Final = 1.0
"""For each command, with connecting, TLS and password where those are needed. Redis answers in a
millisecond; one that does not is away, and each process fetches for itself."""

_PROBLEMS: Final = {0: "it is too large", 1: "it is no hash of ours"}
"""What the numbers mean that `load.lua` returns."""

_MAX_VERSION_BYTES: Final = 32

# The first line of every reply that the commands here can have: a status or an error, a number of
# 64 bits, the length of a text. An array is none of them, and neither is what only RESP3 has.
# Source: RESP2, the Redis serialization protocol specification.
_REPLY: Final = re.compile(rb"[+-][^\n]{0,1024}|:-?[0-9]{1,19}|\$(?:-1|[0-9]{1,7})")

_VERIFY_FLAGS: Final = {
    "ssl_include_verify_flags": [SET_FLAGS],
    "ssl_exclude_verify_flags": [CLEARED_FLAGS],
}
"""Unless the URL has flags of its own."""

_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def _script(*names: str) -> str:
    return "\n".join(
        files(__package__).joinpath(f"{name}.lua").read_text("ascii") for name in names
    )


_SAVE, _VERSION, _LOAD = (_script("is_foreign", name) for name in ("save", "version", "load"))
_ACQUIRE: Final = _script("acquire")


class _BoundedParser(_AsyncRESP2Parser):
    """Reads the replies that the commands here can have, and nothing else.

    The package's own parser takes texts of any length, and arrays of any depth.
    """

    async def read_response(self, disable_decoding: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002 - as the package calls it.
        stream: Any = self._stream
        # The stream keeps a line of 64 KiB at most.
        line: bytes = (await stream.readuntil(b"\r\n"))[:-2]
        if _REPLY.fullmatch(line) is None:
            raise InvalidResponse("no reply to any command here")
        kind, value = line[:1], line[1:]
        if kind == b"+":
            return value
        if kind == b"-":
            parse: Any = self.parse_error  # Not all of the package is typed.
            error = parse(value.decode("utf-8", "replace"))
            if isinstance(error, RedisConnectionError):
                raise error
            return error  # as the package's own parser does: its caller raises it
        number = int(value)
        if kind == b":":
            return number
        if number < 0:
            return None
        if number > MAX_RECORD_BYTES:
            raise InvalidResponse("a text longer than any record")
        text: bytes = await stream.readexactly(number)
        if await stream.readexactly(2) != b"\r\n":
            raise InvalidResponse("a text of another length than it says")
        return text


class RedisStore:
    """A `SnapshotStore` in a Redis server, under keys that depend on the scope.

    Uses HGET, HSTRLEN, HSET, DEL, PEXPIRE, PTTL, GET, SET and EVAL on keys that begin with
    `nexus-auth:`; an ACL can be as narrow as that.
    """

    def __init__(self, url: str, *, scope: str, clock: Clock) -> None:
        """Makes a client; nothing is connected yet. One server can hold records of many scopes.

        The URL is `redis://` or `rediss://`, as the redis package takes it, and may hold a
        password. Raises ValueError if it cannot be understood.
        """
        self._clock = clock
        # Processes of an earlier version, with which this one may run side by side during an
        # upgrade, keep another record and another lease.
        name = hashlib.sha256(f"{VERSION} {scope}".encode()).hexdigest()[:32]
        # Braces: in a cluster both keys live on the same node.
        self._snapshot = f"nexus-auth:{{{name}}}:snapshot"
        self._lease = f"nexus-auth:{{{name}}}:turn"
        make_pool: Any = ConnectionPool  # Not all of the package is typed.
        options: dict[str, Any] = {**parse_url(url)}
        if str(options.get("protocol", 2)) not in {"2", "3"}:
            raise ValueError("the protocol in the URL is neither 2 nor 3")
        # Ours come last: what the URL says of the same must not take their place.
        options |= {
            # The time limit is ours, around whole commands: the package's own goes through
            # asyncio.wait_for, which in Python 3.11 may swallow a cancellation, and then a
            # cancelled task goes on for ever.
            "socket_timeout": None,
            "socket_connect_timeout": None,
            # The caller tries again, and has other work to do meanwhile.
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "protocol": 2,
            "parser_class": _BoundedParser,
            # Records and versions are bytes.
            "decode_responses": False,
            "encoding": "utf-8",
        }
        if url.startswith("rediss:") and options.keys().isdisjoint(_VERIFY_FLAGS):
            options |= _VERIFY_FLAGS
        try:
            pool = make_pool(**options)
            # Not connected, only made: an option that the package does not know shows now.
            pool.make_connection()
        except (AttributeError, RedisError, TypeError):
            raise ValueError("an option of the URL is unknown, or makes no sense") from None
        self._redis: Redis = Redis.from_pool(pool)

    def __repr__(self) -> str:
        return "RedisStore()"

    async def version(self) -> str | None:
        """See `SnapshotStore.version`."""
        said_at = await self._run(_VERSION, self._snapshot, str(_MAX_VERSION_BYTES))
        if said_at is None:
            return None
        return _require(bytes, said_at)[:_MAX_VERSION_BYTES].decode("ascii", "replace")

    async def load(self) -> bytes | None:
        """See `SnapshotStore.load`."""
        record = await self._run(_LOAD, self._snapshot, str(MAX_RECORD_BYTES))
        if isinstance(record, int):
            raise RecordRejected(f"Redis: {_PROBLEMS.get(record, 'it is none of ours')}")
        return None if record is None else _require(bytes, record)

    async def save(self, record: bytes, *, said_at: datetime, keep_for: timedelta) -> str | None:
        """See `SnapshotStore.save`."""
        version = _milliseconds(said_at - _EPOCH)
        now = _milliseconds(self._clock() + MAX_SKEW - _EPOCH)
        values = version, now, record, _lifetime(keep_for)
        return version if _require(int, await self._run(_SAVE, self._snapshot, *values)) else None

    async def acquire_lease(self, holder: str, span: timedelta) -> bool:
        """See `SnapshotStore.acquire_lease`."""
        values = holder, _lifetime(span), _milliseconds(LONGEST_LEASE)
        return _require(int, await self._run(_ACQUIRE, self._lease, *values)) == 1

    async def lease_remaining(self) -> timedelta | None:
        """See `SnapshotStore.lease_remaining`."""
        left = _require(int, await _bounded(self._redis.pttl(self._lease)))
        longest = LONGEST_LEASE // timedelta(milliseconds=1)
        return timedelta(milliseconds=left) if 0 < left <= longest else None

    async def aclose(self) -> None:
        """See `SnapshotStore.aclose`."""
        with contextlib.suppress(StoreUnavailable):
            await _bounded(self._redis.aclose())

    async def _run(self, script: str, key: str, *values: str | bytes) -> object:
        return await _bounded(self._redis.eval(script, 1, key, *values))


async def _bounded(command: Awaitable[Any] | Any) -> object:
    """Awaits a command; ends in time, and with no other error than the port's.

    The package types each command as "perhaps awaitable"; these are.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await command
    except Exception as exc:  # noqa: BLE001 - whatever the package meets, the port has one error.
        # The package's own messages may repeat what a server said, or part of the URL.
        refusal = explain_refusal(
            exc,
            authorities=f"ssl_ca_certs behind the ? of the URL, or in {AUTHORITIES_VARIABLE}",
            address="NEXUS_AUTH_SNAPSHOT_STORE",
        )
        problem = type(exc).__name__ if refusal is None else "; ".join(refusal)
    # Outside of the except block, so that it does not refer to its cause.
    raise StoreUnavailable(f"Redis: {problem}")


def _require(kind: type[T], reply: object) -> T:
    """A reply of the kind that the command has; a server may answer with any other."""
    if not isinstance(reply, kind):
        raise StoreUnavailable("Redis: a reply of another kind")
    return reply


def _milliseconds(span: timedelta) -> str:
    return str(span // timedelta(milliseconds=1))


def _lifetime(span: timedelta) -> str:
    """The span in milliseconds; one at least, since Redis takes no less."""
    return _milliseconds(max(span, timedelta(milliseconds=1)))
