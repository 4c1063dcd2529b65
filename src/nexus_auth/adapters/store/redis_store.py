"""Keeps a snapshot in Redis, for the next start and for a whole fleet."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from nexus_auth.adapters.store.record import LONGEST_LEASE, MAX_RECORD_BYTES, MAX_SKEW
from nexus_auth.domain.errors import RecordRejected, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from nexus_auth.domain.ports import Clock

TIMEOUT_SECONDS: Final = 1.0
"""For each command, with connecting, TLS and password where those are needed. Redis answers in a
millisecond; one that does not is away, and each process fetches for itself."""

# Something other than a hash under our name was not written by us. It must not make the store count
# as away: it would stay for ever. Other errors are passed on.
_IS_FOREIGN: Final = """
local function is_foreign(answer)
  return type(answer) == 'table' and string.find(answer.err or '', 'WRONGTYPE') ~= nil
end
"""

# A record said later stays, unless it claims to come from the future: a writer that was stopped
# for a while must not bring back what it knew. KEYS: snapshot. ARGV: said_at, now, record, TTL
# (all times in milliseconds).
_SAVE: Final = f"""
{_IS_FOREIGN}
local said_at = redis.pcall('HGET', KEYS[1], 'said_at')
if is_foreign(said_at) then
  redis.call('DEL', KEYS[1])
  said_at = false
elseif type(said_at) == 'table' then return said_at end
local kept = tonumber(said_at or '')
if kept and kept > tonumber(ARGV[1]) and kept <= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'said_at', ARGV[1], 'record', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""

# Whatever was put there, no more than so much of it comes over the wire.
# KEYS: snapshot. ARGV: how many bytes to return at most.
_VERSION: Final = f"""
{_IS_FOREIGN}
local said_at = redis.pcall('HGET', KEYS[1], 'said_at')
if is_foreign(said_at) then return 'foreign' end
if type(said_at) ~= 'string' then return said_at end
return string.sub(said_at, 1, tonumber(ARGV[1]))
"""

# KEYS: snapshot. ARGV: how long a record may be. Returns a number when it is longer, or none: what
# is wrong with it.
_LOAD: Final = f"""
{_IS_FOREIGN}
local length = redis.pcall('HSTRLEN', KEYS[1], 'record')
if is_foreign(length) then return 1 end
if type(length) == 'table' then return length end
if length > tonumber(ARGV[1]) then return 0 end
return redis.call('HGET', KEYS[1], 'record')
"""

_PROBLEMS: Final = ("it is too large", "it is no hash of ours")
"""What the number means."""

_MAX_VERSION_BYTES: Final = 32

# KEYS: lease. ARGV: holder, span in milliseconds, longest lease in milliseconds. A lease without an
# end, or with one too far away, was not written by us.
_ACQUIRE: Final = """
local left = redis.call('PTTL', KEYS[1])
local is_held = left > 0 and left <= tonumber(ARGV[3])
if is_held and redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class RedisStore:
    """A `SnapshotStore` in a Redis server, under keys that depend on the scope.

    Uses HGET, HSTRLEN, HSET, DEL, PEXPIRE, PTTL, GET, SET and EVAL on keys that begin with
    `nexus-auth:`; an ACL can be as narrow as that.
    """

    def __init__(self, url: str, *, scope: str, clock: Clock) -> None:
        """Makes a client; nothing is connected yet.

        Args:
            url: `redis://` or `rediss://`, as the redis package takes it. May hold a password.
            scope: What the record is about; one server can hold many.
            clock: Tells the time (aware, UTC).

        Raises:
            ValueError: If the URL cannot be understood.
        """
        self._clock = clock
        name = hashlib.sha256(scope.encode()).hexdigest()[:32]
        # Braces: in a cluster both keys live on the same node.
        self._snapshot = f"nexus-auth:{{{name}}}:snapshot"
        self._lease = f"nexus-auth:{{{name}}}:turn"
        make_pool: Any = ConnectionPool  # Not all of the package is typed.
        # Ours come last: what the URL says of the same must not take their place.
        options = parse_url(url) | {
            # The time limit is ours, around whole commands: the package's own goes through
            # asyncio.wait_for, which in Python 3.11 may swallow a cancellation, and then a
            # cancelled task goes on for ever.
            "socket_timeout": None,
            "socket_connect_timeout": None,
            # The caller tries again, and has other work to do meanwhile.
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            # Records and versions are bytes.
            "decode_responses": False,
            "encoding": "utf-8",
        }
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
        async with _bounded():
            said_at: bytes | None = await _result(
                self._redis.eval(_VERSION, 1, self._snapshot, str(_MAX_VERSION_BYTES))
            )
        return None if said_at is None else said_at.decode("ascii", "replace")

    async def load(self) -> bytes | None:
        """See `SnapshotStore.load`."""
        async with _bounded():
            record: bytes | int | None = await _result(
                self._redis.eval(_LOAD, 1, self._snapshot, str(MAX_RECORD_BYTES))
            )
        if isinstance(record, int):
            raise RecordRejected(f"Redis: {_PROBLEMS[record]}")
        return record

    async def save(self, record: bytes, *, said_at: datetime, keep_for: timedelta) -> str | None:
        """See `SnapshotStore.save`."""
        version = str(_milliseconds(said_at))
        async with _bounded():
            is_saved = await _result(
                self._redis.eval(
                    *(_SAVE, 1, self._snapshot),
                    version,
                    str(_milliseconds(self._clock() + MAX_SKEW)),
                    record,
                    str(max(1, keep_for // timedelta(milliseconds=1))),
                )
            )
        return version if is_saved else None

    async def acquire_lease(self, holder: str, span: timedelta) -> bool:
        """See `SnapshotStore.acquire_lease`."""
        milliseconds = str(max(1, span // timedelta(milliseconds=1)))
        async with _bounded():
            return bool(
                await _result(
                    self._redis.eval(
                        *(_ACQUIRE, 1, self._lease),
                        *(holder, milliseconds, str(LONGEST_LEASE // timedelta(milliseconds=1))),
                    )
                )
            )

    async def lease_remaining(self) -> timedelta | None:
        """See `SnapshotStore.lease_remaining`."""
        async with _bounded():
            milliseconds: int = await _result(self._redis.pttl(self._lease))
        left = timedelta(milliseconds=milliseconds)
        return left if timedelta(0) < left <= LONGEST_LEASE else None

    async def aclose(self) -> None:
        """See `SnapshotStore.aclose`."""
        with contextlib.suppress(StoreUnavailable):
            async with _bounded():
                await self._redis.aclose()


async def _result(command: Awaitable[Any] | Any) -> Any:
    """Awaits a command. The package types each as "perhaps awaitable"; these are."""
    return await command if inspect.isawaitable(command) else command


@contextlib.asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """Ends in time, and with no other error than the port's."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            yield
    except (RedisError, OSError, TimeoutError, ValueError) as exc:
        # The package's own messages may repeat what a server said, or part of the URL.
        raise StoreUnavailable(f"Redis: {type(exc).__name__}") from None


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
