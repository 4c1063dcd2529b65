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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dialect:
    """What all dialects have."""

    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        token = self.token
        if token is None:
            return
        # The HTTP library would quote the token in its complaint.
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("a token is printable ASCII without spaces")

    @property
    def certificates_path(self) -> str:
        """The path of all certificates."""
        return f"{_ROOT}/certificates"

    def certificate_path(self, hotkey: Hotkey) -> str:
        """The path of one hotkey's certificate. A checked address is never `self`."""
        return f"{self.certificates_path}/{_segment(hotkey.address)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstGenerationApi(_Dialect):
    """The API of October 2025: no netuid and no identity, one subnet per Pylon."""

    @property
    def neuron_paths(self) -> tuple[str, ...]:
        """The path of the neurons; a Pylon from before November 2025 does not have them."""
        return (f"{_ROOT}/neurons/latest",)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SubnetDialect(_Dialect):
    """What the dialects have that name a subnet."""

    netuid: int

    @property
    def _subnet(self) -> str:
        return f"{_ROOT}/subnet/{self.netuid}"

    @property
    def certificates_path(self) -> str:
        """The path of all certificates."""
        return f"{self._subnet}/block/latest/certificates"

    @property
    def neuron_paths(self) -> tuple[str, ...]:
        """The paths of the neurons, the preferred one first."""
        return (f"{self._subnet}/block/recent/neurons", f"{self._subnet}/block/latest/neurons")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAccessApi(_SubnetDialect):
    """Reads only, with a token where Pylon requires one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityApi(_SubnetDialect):
    """Speaks for a named identity, with its token. Needed to issue."""

    name: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        _SubnetDialect.__post_init__(self)
        if not self.name or not _segment(self.name):
            raise ValueError("an identity has a name")

    @property
    def _subnet(self) -> str:
        return f"{_ROOT}/identity/{_segment(self.name)}/subnet/{self.netuid}"

    @property
    def issuing_path(self) -> str:
        """The path that issues a key pair."""
        return f"{self._subnet}/certificates/self"


PylonApi = IdentityApi | OpenAccessApi | FirstGenerationApi


def build_api(
    *,
    netuid: int | None,
    identity_name: str | None,
    identity_token: str | None,
    open_access_token: str | None,
) -> PylonApi:
    """Builds the dialect that follows from what is given.

    Raises:
        ValueError: When a name or a token cannot be one; it is not repeated.
    """
    if netuid is None:
        return FirstGenerationApi(token=open_access_token)
    if identity_name is not None and identity_token is not None:
        return IdentityApi(netuid=netuid, name=identity_name, token=identity_token)
    return OpenAccessApi(netuid=netuid, token=open_access_token)
