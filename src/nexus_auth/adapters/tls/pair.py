"""The caller's own pair in a TLS context, which follows the files when `generate` replaces them."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Final, NoReturn

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.domain.errors import CredentialsError

_TRIES: Final = 5
_PAUSE_SECONDS: Final = 0.02
"""Two files cannot be replaced in one step; between the two, their halves do not belong together.
An event loop waits meanwhile, so this is short."""


class ClientPair:
    """`client.key` and `client.crt` in one directory, as `generate` leaves them.

    Concurrent calls are fine, but not for the same context.
    """

    def __init__(self, directory: Path) -> None:
        """Reads nothing yet."""
        self._directory = CredentialsDirectory(directory)

    def stamp(self) -> object:
        """A value that is another one when one of the files has changed. Reads no file."""
        paths = (self._directory.key_path, self._directory.certificate_path)
        return tuple(_stamp_of(path) for path in paths)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Loads the pair that a context shows from now on. Blocks while the disk works.

        Raises:
            CredentialsError: If there is none, or it cannot be used. The context may then hold
                half of it, and must not be used before this succeeds.
        """
        problem: CredentialsError | None = None
        for _ in range(_TRIES):
            before = self.stamp()
            try:
                # Checked first, since OpenSSL would take any certificate, and reports less.
                self._directory.load()
                context.load_cert_chain(
                    self._directory.certificate_path,
                    self._directory.key_path,
                    password=_refuse_passphrase,
                )
            except CredentialsError as exc:
                problem = exc
            except OSError as exc:  # `ssl.SSLError` among them
                problem = CredentialsError(f"{str(self._directory.path)!r}: {exc.strerror or exc}")
            else:
                if self.stamp() == before:
                    return
            time.sleep(_PAUSE_SECONDS)
        raise problem or CredentialsError(
            f"{str(self._directory.path)!r}: the pair changes all the time"
        ) from None


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    try:
        entry = path.stat()
    except OSError:
        return None
    return entry.st_dev, entry.st_ino, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns


def _refuse_passphrase() -> NoReturn:
    """Keeps OpenSSL from asking for one on the terminal."""
    raise CredentialsError("the private key is not an unencrypted Ed25519 key in PEM")
