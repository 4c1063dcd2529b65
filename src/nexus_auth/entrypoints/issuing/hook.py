"""The commands of the user: after the pair on disk has changed, or to have a key published."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from nexus_auth.domain.errors import ConfigurationError

TIMEOUT_SECONDS: Final = 60.0
"""Reloading a proxy takes a moment; a hook that hangs must not hang a timer's job for ever."""

_OUR_SETTINGS: Final = ("NEXUS_AUTH_", "NEXUS_PYLON_", "NEXUS_CHAIN_")


@dataclass(frozen=True, slots=True)
class Hook:
    """A program and its arguments, run without a shell."""

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, *, setting: str = "-after-change") -> Self:
        """Splits the command line of a flag as a shell would; nothing in it is expanded.

        Raises:
            ConfigurationError: If it cannot be split, or there is no such program: that is
                found out before the key on chain is replaced.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as exc:
            problem = f"{text!r}: {exc}"
        else:
            if words and shutil.which(words[0]) is not None:
                return cls(words)
            problem = f"{text!r}: no such program; for a shell's features write sh -c '...'"
        raise ConfigurationError(setting=setting, problem=problem)

    async def run(
        self, *, timeout_seconds: float = TIMEOUT_SECONDS, values: Mapping[str, str] | None = None
    ) -> str:
        """Runs the command. Our own settings, tokens among them, are not in its environment.

        Args:
            timeout_seconds: After which time it is stopped.
            values: What it finds in its environment besides.

        Returns:
            What went wrong; empty when nothing did.
        """
        theirs = {k: v for k, v in os.environ.items() if not k.startswith(_OUR_SETTINGS)}
        try:
            child = await asyncio.create_subprocess_exec(
                *self.words,
                stdin=asyncio.subprocess.DEVNULL,
                env={**theirs, **(values or {})},
            )
        except OSError as exc:
            return f"could not be started: {exc.strerror}"
        try:
            async with asyncio.timeout(timeout_seconds):
                code = await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
            return f"was stopped after {timeout_seconds:g} s"
        return f"failed with exit code {code}" if code else ""

    def __str__(self) -> str:
        return shlex.join(self.words)
