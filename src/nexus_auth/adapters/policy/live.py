"""The policies in force: read once, or read again whenever their file changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog

from nexus_auth.adapters.policy.toml_file import PolicyInvalid, load_policies
from nexus_auth.domain.health import PolicyHealth

if TYPE_CHECKING:
    from pathlib import Path

    from nexus_auth.domain.policy import PolicySet
    from nexus_auth.domain.ports import Clock

POLL_SECONDS: Final = 0.5
"""How often the file is looked at. A change counts when the file looks the same twice in a row:
one that is written piece by piece could, halfway through, be valid and lack its last rules."""

_log = structlog.get_logger(__name__)

_Print = tuple[int, ...]
"""What a file looks like from outside."""


class LivePolicies:
    """Tells which policies are in force; calling it is all that a decision needs.

    Between `start` and `aclose` a file is watched. A file that is replaced (by renaming another
    one, or a symbolic link) and one that is written in place both count. Where the new content is
    not a valid set of policies, the old set stays in force, and the log and `state` say so.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        policies: PolicySet | None = None,
        path: Path | None = None,
        offers_neurons: bool = True,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Reads the file, where there is one.

        Args:
            clock: Tells the time (aware, UTC).
            policies: The policies that stay in force for ever; or else
            path: the file that holds them.
            offers_neurons: Whether neurons are fetched at all; where not, policies that look at
                them are refused rather than left to refuse everybody.
            poll_seconds: How often the file is looked at.

        Raises:
            PolicyInvalid: When the policies are not valid.
        """
        self._clock = clock
        self._path = path
        self._offers_neurons = offers_neurons
        self._poll_seconds = poll_seconds
        self._on_need: Callable[[], Awaitable[None]] | None = None
        self._problem: str | None = None
        self._asked = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._announcement: asyncio.Task[None] | None = None
        # Taken before the content: if that changes in between, the file looks different again.
        self._print = self._look()
        if path is not None:
            policies = load_policies(path)
        if policies is None:
            raise ValueError("either policies or a path are needed")
        self._check(policies)
        self._policies = policies
        # Asked for each request.
        self._needs_neurons = policies.needs_neurons
        self._loaded_at = clock()

    def __call__(self) -> PolicySet:
        """The policies in force."""
        return self._policies

    def needs_neurons(self) -> bool:
        """Whether some rule looks at neurons now."""
        return self._needs_neurons

    def health(self) -> PolicyHealth:
        """Says where the policies come from and whether something is wrong with that."""
        default = self._policies.default
        others = sorted(name for name in self._policies.policies if name != default)
        return PolicyHealth(
            source="settings" if self._path is None else str(self._path),
            names=(default, *others),
            loaded_at=self._loaded_at,
            problem=self._problem,
        )

    async def start(self, *, on_need: Callable[[], Awaitable[None]] | None = None) -> None:
        """Begins to watch the file.

        Args:
            on_need: Called when policies come into force that look at neurons where those before
                did not: nothing is known of them yet.
        """
        self._on_need = on_need
        if self._path is not None and self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(self._path), name="policy-watcher")

    async def aclose(self) -> None:
        """Stops watching. The policies stay in force."""
        tasks = [task for task in (self._watcher, self._announcement) if task is not None]
        self._watcher = self._announcement = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reload(self) -> None:
        """Has the file read again soon, changed or not. For SIGHUP; does not wait."""
        if self._path is None:
            _log.info("nothing_to_reload")
        self._asked.set()

    async def _watch(self, path: Path) -> None:
        before = self._print
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._asked.wait()
            is_asked = self._asked.is_set()
            self._asked.clear()
            now = await asyncio.to_thread(self._look)
            if is_asked or (now != self._print and now == before):
                self._print = now
                await self._load(path)
            before = now

    async def _load(self, path: Path) -> None:
        try:
            policies = await asyncio.to_thread(load_policies, path)
            self._check(policies)
        except PolicyInvalid as exc:
            self._problem = str(exc)
            _log.error("policy_reload_failed", file=str(path), problem=self._problem)
            return
        except Exception as exc:  # noqa: BLE001 - the edge of a task that nobody awaits.
            # A defect of ours must neither end the watching nor go unseen.
            self._problem = f"reading it crashed: {type(exc).__name__}"
            _log.exception("policy_reload_crashed", file=str(path))
            return
        needed_before = self._policies.needs_neurons
        self._policies, self._loaded_at, self._problem = policies, self._clock(), None
        self._needs_neurons = policies.needs_neurons
        _log.info("policy_reloaded", file=str(path), policies=list(self.health().names))
        if policies.needs_neurons and not needed_before and self._on_need is not None:
            # Not awaited: the next change of the file may be a ban, and must not wait for Pylon.
            self._announcement = asyncio.create_task(
                _announced(self._on_need), name="policy-announcement"
            )

    def _check(self, policies: PolicySet) -> None:
        if policies.needs_neurons and not self._offers_neurons:
            name = next(p.name for p in policies.policies.values() if p.needs_neurons)
            raise PolicyInvalid(
                f"policies.{name}",
                "a rule looks at neurons, which come with the snapshot of all keys; that needs "
                "NEXUS_AUTH_REGISTRY=snapshot and NEXUS_AUTH_CACHE_DURATION_MINS above 0",
            )

    def _look(self) -> _Print:
        """What the file looks like; empty while there is none."""
        if self._path is None:
            return ()
        try:
            found = self._path.stat()
        except OSError:
            return ()
        # ctime as well: permissions that are mended change nothing else.
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


async def _announced(on_need: Callable[[], Awaitable[None]]) -> None:
    await on_need()
