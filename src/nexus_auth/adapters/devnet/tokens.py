"""Bearer tokens: in the store only as salted digests, on disk in files of their own."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from nexus_auth.adapters.files import load_bytes, replace_file

_SALT_BYTES: Final = 16
_DIGEST_BYTES: Final = 32
_TOKEN_BYTES: Final = 32
_MAX_FILE_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class TokenDigest:
    """Recognises a token without holding it.

    One fast hash: it protects generated tokens, not guessable ones. Enough for development.
    """

    encoded: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.encoded) != _SALT_BYTES + _DIGEST_BYTES:
            raise ValueError("not the digest of a token")

    @classmethod
    def of(cls, token: str) -> Self:
        """Digests a token.

        Raises:
            ValueError: If it could not travel in a header: it is not printable ASCII, has spaces
                in it or is empty.
        """
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("a token is printable ASCII without spaces")
        salt = secrets.token_bytes(_SALT_BYTES)
        return cls(salt + _digest(salt, token))

    def matches(self, token: str) -> bool:
        """Whether this is the token; takes the same time for every wrong one."""
        salt, expected = self.encoded[:_SALT_BYTES], self.encoded[_SALT_BYTES:]
        return hmac.compare_digest(expected, _digest(salt, token))


def load_or_make_token(path: Path) -> str:
    """Reads a token file, or makes one that only its owner can read: a random one of 256 bits.

    Raises:
        OSError: If it can neither be read nor made.
        UnicodeDecodeError: If it is not ASCII text.
    """
    with suppress(FileNotFoundError):
        return load_bytes(path, _MAX_FILE_BYTES).decode("ascii").strip()
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    replace_file(path, f"{token}\n".encode("ascii"))
    return token


def _digest(salt: bytes, token: str) -> bytes:
    # A header is read as Latin-1, so every token that arrives can be encoded.
    return hashlib.blake2b(
        token.encode("utf-8", "surrogateescape"), salt=salt, digest_size=_DIGEST_BYTES
    ).digest()
