"""The policies in force: read once, or read again whenever their file changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from nexus_auth.adapters.policy.parsing import PolicyInvalid, load_policies
from nexus_auth.domain.health import PolicyHealth

if TYPE_CHECKING:
    from nexus_auth.domain.policy import PolicySet
    from nexus_auth.domain.ports import Clock

POLL_SECONDS: Final = 0.5
"""How often the file is examined. A change counts when the file looks the same twice in a row: one
that is written piece by piece could, halfway through, be valid and lack its last rules."""

_log = structlog.get_logger(__name__)

_OnNeed = Callable[[], Coroutine[Any, Any, None]]


class LivePolicies:
    """Holds the policies in force; calling it returns them.

    Between `start` and `aclose` a file is watched. A file that is replaced (by renaming another
    one, or a symbolic link) and one that is written in place both count. Where the new content is
    not a valid set of policies, the old set stays in force, and the log and `health` say so.
    """

    def __init__(
        self, source: PolicySet | Path, *, clock: Clock, neurons_problem: str | None = None
    ) -> None:
        """Puts policies in force.

        Args:
            source: Policies that never change, or their file, to be watched from `start` on.
            clock: Tells the time (aware, UTC).
            neurons_problem: Why neurons cannot be fetched; None where they can. Where they
                cannot, policies that look at them are not valid: they would deny every caller.

        Raises:
            PolicyInvalid: When the file cannot be read, or the policies are not valid.
        """
        self._clock = clock
        self._neurons_problem = neurons_problem
        self._path = source if isinstance(source, Path) else None
        # Taken before the content: if that changes in between, the file looks different again.
        self._seen = () if self._path is None else _appearance(self._path)
        self._on_need: _OnNeed | None = None
        self._problem: str | None = None
        self._reload_requested = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._announcement: asyncio.Task[None] | None = None
        self._put_in_force(load_policies(source) if isinstance(source, Path) else source)

    def _put_in_force(self, policies: PolicySet) -> None:
        if policies.needs_neurons and self._neurons_problem is not None:
            name = next(p.name for p in policies.policies.values() if p.needs_neurons)
            raise PolicyInvalid(
                f"policies.{name}", f"a rule looks at neurons, {self._neurons_problem}"
            )
        # Kept, because both are read for each request.
        self._policies, self._needs_neurons = policies, policies.needs_neurons
        self._loaded_at, self._problem = self._clock(), None

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

    async def start(self, *, on_need: _OnNeed | None = None) -> None:
        """Begins to watch the file.

        `on_need` is called when policies come into force that look at neurons where those before
        did not: no neurons have been fetched yet.
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
        self._reload_requested.set()

    async def _watch(self, path: Path) -> None:
        before = self._seen
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._reload_requested.wait()
            is_requested = self._reload_requested.is_set()
            self._reload_requested.clear()
            now = await asyncio.to_thread(_appearance, path)
            if is_requested or (now != self._seen and now == before):
                self._seen = now
                await self._load(path)
            before = now

    async def _load(self, path: Path) -> None:
        needed_before = self._needs_neurons
        try:
            self._put_in_force(await asyncio.to_thread(load_policies, path))
        except PolicyInvalid as exc:
            self._problem = str(exc)
            _log.error("policy_reload_failed", file=str(path), problem=self._problem)
            return
        except Exception as exc:  # noqa: BLE001 - the edge of a task that is not awaited.
            # A defect of ours must neither end the watching nor go unseen.
            self._problem = f"reading it crashed: {type(exc).__name__}"
            _log.exception("policy_reload_crashed", file=str(path))
            return
        _log.info("policy_reloaded", file=str(path), policies=list(self.health().names))
        if self._needs_neurons and not needed_before and self._on_need is not None:
            # Not awaited: the next change of the file may be a ban, and must not wait for Pylon.
            self._announcement = asyncio.create_task(self._on_need(), name="policy-announcement")


def _appearance(path: Path) -> tuple[int, ...]:
    """What the file looks like from outside; empty while there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    # ctime as well: a change of permissions changes nothing else.
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
