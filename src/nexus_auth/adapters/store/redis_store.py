"""Keeps a snapshot in Redis, for the next start and for a whole fleet."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from nexus_auth.adapters.store.record import LONGEST_LEASE, MAX_RECORD_BYTES, MAX_SKEW
from nexus_auth.domain.errors import RecordRejected, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from nexus_auth.domain.ports import Clock

TIMEOUT_SECONDS: Final = 1.0
"""For each command, with connecting, TLS and password where those are needed. Redis answers in a
millisecond; one that does not is away, and each process fetches for itself."""

_PROBLEMS: Final = ("it is too large", "it is no hash of ours")
"""What the numbers mean that `load.lua` returns."""

_MAX_VERSION_BYTES: Final = 32

_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def _script(*names: str) -> str:
    return "\n".join(
        files(__package__).joinpath(f"{name}.lua").read_text("ascii") for name in names
    )


_SAVE, _VERSION, _LOAD = (_script("is_foreign", name) for name in ("save", "version", "load"))
_ACQUIRE: Final = _script("acquire")


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
        said_at: bytes | None = await self._run(_VERSION, self._snapshot, str(_MAX_VERSION_BYTES))
        return None if said_at is None else said_at.decode("ascii", "replace")

    async def load(self) -> bytes | None:
        """See `SnapshotStore.load`."""
        record: bytes | int | None = await self._run(_LOAD, self._snapshot, str(MAX_RECORD_BYTES))
        if isinstance(record, int):
            raise RecordRejected(f"Redis: {_PROBLEMS[record]}")
        return record

    async def save(self, record: bytes, *, said_at: datetime, keep_for: timedelta) -> str | None:
        """See `SnapshotStore.save`."""
        version = _milliseconds(said_at - _EPOCH)
        now = _milliseconds(self._clock() + MAX_SKEW - _EPOCH)
        values = version, now, record, _lifetime(keep_for)
        return version if await self._run(_SAVE, self._snapshot, *values) else None

    async def acquire_lease(self, holder: str, span: timedelta) -> bool:
        """See `SnapshotStore.acquire_lease`."""
        values = holder, _lifetime(span), _milliseconds(LONGEST_LEASE)
        return bool(await self._run(_ACQUIRE, self._lease, *values))

    async def lease_remaining(self) -> timedelta | None:
        """See `SnapshotStore.lease_remaining`."""
        left = timedelta(milliseconds=await _bounded(self._redis.pttl(self._lease)))
        return left if timedelta(0) < left <= LONGEST_LEASE else None

    async def aclose(self) -> None:
        """See `SnapshotStore.aclose`."""
        with contextlib.suppress(StoreUnavailable):
            await _bounded(self._redis.aclose())

    async def _run(self, script: str, key: str, *values: str | bytes) -> Any:
        return await _bounded(self._redis.eval(script, 1, key, *values))


async def _bounded(command: Awaitable[Any] | Any) -> Any:
    """Awaits a command; ends in time, and with no other error than the port's.

    The package types each command as "perhaps awaitable"; these are.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await command
    except (RedisError, OSError, TimeoutError, ValueError) as exc:
        # The package's own messages may repeat what a server said, or part of the URL.
        raise StoreUnavailable(f"Redis: {type(exc).__name__}") from None


def _milliseconds(span: timedelta) -> str:
    return str(span // timedelta(milliseconds=1))


def _lifetime(span: timedelta) -> str:
    """The span in milliseconds; one at least, since Redis takes no less."""
    return _milliseconds(max(span, timedelta(milliseconds=1)))
