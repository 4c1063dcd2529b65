"""The last resort for a pair that cannot be written where it belongs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nexus_auth.adapters.files import ReservedFile, sync_directory
from nexus_auth.domain.issuing import Credentials

_PREFIX: Final = "nexus-auth-recovered-"
_SUFFIX: Final = ".pem"


def save_recovery_file(credentials: Credentials, *, near: Path) -> Path | None:
    """Writes key and certificate into one file, wherever that is possible, for the owner alone.

    Args:
        credentials: The pair.
        near: Where it belonged; tried first, with its parents.

    Returns:
        The file, or None where nothing was writable.
    """
    # The place that survives longest first.
    places: tuple[Callable[[], Path], ...] = (
        lambda: near,
        lambda: near.absolute().parent,
        Path.home,
        Path.cwd,
        lambda: Path(tempfile.gettempdir()),
    )
    for place in places:
        # A place may not exist: a user without a home, a working directory that was removed.
        with suppress(OSError, RuntimeError):
            return _save(credentials, place())
    return None


def _save(credentials: Credentials, directory: Path) -> Path:
    with ReservedFile(directory, _PREFIX, suffix=_SUFFIX) as file:
        file.fill(credentials.key_pem + credentials.certificate_pem)
        file.keep()
    # Its name too has to survive a power cut: this is the only copy of the key.
    sync_directory(directory)
    return file.path
