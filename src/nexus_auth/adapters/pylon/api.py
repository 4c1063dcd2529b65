"""The three dialects of Pylon's API: which paths, and which token.

Source: Pylon's public API, versions of October 2025 (first generation) and later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from nexus_auth.domain.hotkey import Hotkey

_ROOT: Final = "/api/v1"


def _segment(text: str) -> str:
    """One path segment, whatever the text; dots are escaped too, so that none means "up"."""
    # A name from the environment that is no UTF-8 arrives with its bytes as lone surrogates.
    return quote(text, safe="", errors="surrogateescape").replace(".", "%2E")


def _check_token(token: str | None) -> None:
    """Refuses what cannot travel in a header: the HTTP library would quote it in a complaint."""
    if token is None:
        return
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token is printable ASCII without spaces")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityApi:
    """Speaks for a named identity, with its token. Needed to issue."""

    netuid: int
    name: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_token(self.token)
        if not self.name or not _segment(self.name):
            raise ValueError("an identity has a name")

    @property
    def reading(self) -> str:
        """Where certificates are read."""
        return f"{self._subnet}/block/latest/certificates"

    @property
    def issuing(self) -> str:
        """Where a key pair is asked for."""
        return f"{self._subnet}/certificates/self"

    @property
    def neurons(self) -> tuple[str, ...]:
        """Where neurons are read, the preferred place first."""
        return (f"{self._subnet}/block/recent/neurons", f"{self._subnet}/block/latest/neurons")

    @property
    def _subnet(self) -> str:
        return f"{_ROOT}/identity/{_segment(self.name)}/subnet/{self.netuid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAccessApi:
    """Reads only, with a token where Pylon asks for one."""

    netuid: int
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_token(self.token)

    @property
    def reading(self) -> str:
        """Where certificates are read."""
        return f"{self._subnet}/block/latest/certificates"

    @property
    def neurons(self) -> tuple[str, ...]:
        """Where neurons are read, the preferred place first."""
        return (f"{self._subnet}/block/recent/neurons", f"{self._subnet}/block/latest/neurons")

    @property
    def _subnet(self) -> str:
        return f"{_ROOT}/subnet/{self.netuid}"


@dataclass(frozen=True, slots=True)
class FirstGenerationApi:
    """The API of October 2025: no netuid and no identity, one subnet per Pylon."""

    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_token(self.token)

    @property
    def reading(self) -> str:
        """Where certificates are read."""
        return f"{_ROOT}/certificates"

    @property
    def neurons(self) -> tuple[str, ...]:
        """Where neurons are read; a Pylon from before November 2025 does not have them."""
        return (f"{_ROOT}/neurons/latest",)


PylonApi = IdentityApi | OpenAccessApi | FirstGenerationApi


def build_api(
    *,
    netuid: int | None,
    identity_name: str | None,
    identity_token: str | None,
    open_access_token: str | None,
) -> PylonApi:
    """Makes the dialect that follows from what is given.

    Raises:
        ValueError: When a name or a token cannot be one; it is not repeated.
    """
    if netuid is None:
        return FirstGenerationApi(token=open_access_token)
    if identity_name is not None and identity_token is not None:
        return IdentityApi(netuid=netuid, name=identity_name, token=identity_token)
    return OpenAccessApi(netuid=netuid, token=open_access_token)


def certificate_path(api: PylonApi, hotkey: Hotkey) -> str:
    """The path of one hotkey's certificate. A checked address is never `self`."""
    return f"{api.reading}/{_segment(hotkey.address)}"
