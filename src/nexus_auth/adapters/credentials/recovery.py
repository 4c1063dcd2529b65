"""The last resort for a pair that cannot be written where it belongs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nexus_auth.adapters.credentials.files import PRIVATE_MODE, sync_directory
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
            path = _try_to_save(credentials, place())
            if path is not None:
                return path
    return None


def _try_to_save(credentials: Credentials, directory: Path) -> Path | None:
    # For the owner alone, and never through a link: what mkstemp promises.
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=_PREFIX, suffix=_SUFFIX)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), PRIVATE_MODE)
            file.write(credentials.key_pem + credentials.certificate_pem)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            path.unlink()
        return None
    # Its name too has to survive a power cut: nobody else has this key.
    sync_directory(directory)
    return path
