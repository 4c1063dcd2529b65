"""Pylon's API: where it is, its three dialects, and what can go wrong in a request to it.

Source: Pylon's public API, versions of October 2025 (first generation) and later.

    RegistryError
    ├── RegistryUnavailable
    │   ├── PylonUnreachable     no connection, no answer in time, a broken connection
    │   └── PylonFailed          any status that is no answer
    │       └── PylonRefused     401 or 403: the token is missing, wrong or revoked
    └── RegistryAnswerInvalid
        └── PylonAnswerInvalid   an answer that breaks the API's promises
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import quote, urlsplit

from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryUnavailable

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey

_ROOT: Final = "/api/v1"


class PylonUnreachable(RegistryUnavailable):
    """Pylon could not be reached, or did not answer in time.

    Attributes:
        was_sent: Whether the request may have reached Pylon.
        problem: The message, without the remedy at its end.
        remedy: What to do about it; empty where that is not known.
    """

    cause = "unreachable"

    def __init__(self, problem: str, *, was_sent: bool = True, remedy: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem
        self.was_sent = was_sent
        self.remedy = remedy


class PylonFailed(RegistryUnavailable):
    """Pylon answered with a status that is no answer."""

    cause = "failed"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class PylonRefused(PylonFailed):
    """Pylon does not accept the token: 401 or 403."""

    cause = "refused"


class PylonAnswerInvalid(RegistryAnswerInvalid):
    """Pylon's answer breaks the promises of its API."""


def parse_endpoint(text: str) -> str:
    """Reads a base URL, such as `http://pylon:8000`, without white space and slash at its end.

    Raises:
        ValueError: When it is none, or has a query, a fragment or credentials in it, which would
            show in messages. The text is not repeated.
    """
    problem = "expected a base URL such as http://pylon:8000"
    text = text.strip()
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        raise ValueError(problem) from None
    # Searched in the text, because urlsplit drops line breaks, and a ? or # with nothing behind
    # it, which would swallow the path.
    if not usable or not text.isprintable() or not set(text).isdisjoint(" ?#"):
        raise ValueError(problem)
    if "@" in parts.netloc:
        raise ValueError("credentials do not belong into the URL; use the token settings")
    # A scheme counts in any case (RFC 3986 §3.1); in lower case it is compared most easily.
    return f"{parts.scheme}{text[len(parts.scheme) :]}".rstrip("/")


def _segment(text: str) -> str:
    """One path segment, whatever the text; dots are escaped too, so that none means "up"."""
    # A name from the environment that is no UTF-8 arrives with its bytes as lone surrogates.
    return quote(text, safe="", errors="surrogateescape").replace(".", "%2E")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dialect:
    token: str | None = field(default=None, repr=False)

    credential_setting: ClassVar[str] = "NEXUS_PYLON_OPEN_ACCESS_TOKEN"
    missing_path_hint: ClassVar[str] = (
        "; if it is of the first generation, it wants NEXUS_PYLON_NETUID unset"
    )

    def __post_init__(self) -> None:
        token = self.token
        # The HTTP library would quote the token in its complaint.
        if token is not None and not (
            token and token.isascii() and token.isprintable() and " " not in token
        ):
            raise ValueError("a token is printable ASCII without spaces")

    @property
    def certificates_path(self) -> str:
        return f"{_ROOT}/certificates"

    def certificate_path(self, hotkey: Hotkey) -> str:
        # A checked address is never `self`.
        return f"{self.certificates_path}/{_segment(hotkey.address)}"

    @property
    def own_certificate_path(self) -> str:
        """The path of the identity's own certificate; it means nothing in the open-access API."""
        return f"{self.certificates_path}/self"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstGenerationApi(_Dialect):
    """The API of October 2025: no netuid and no identity, one subnet per Pylon.

    Its identity is Pylon's own wallet.
    """

    missing_path_hint = "; unless it is of the first generation, it wants NEXUS_PYLON_NETUID set"

    @property
    def neuron_paths(self) -> tuple[str, ...]:
        """The path of the neurons; a Pylon from before November 2025 does not have them."""
        return (f"{_ROOT}/neurons/latest",)

    @property
    def issuing_path(self) -> str:
        """The path that issues a key pair."""
        return self.own_certificate_path


@dataclass(frozen=True, slots=True, kw_only=True)
class _SubnetDialect(_Dialect):
    """What the dialects have that name a subnet."""

    netuid: int

    @property
    def _subnet(self) -> str:
        return f"{_ROOT}/subnet/{self.netuid}"

    @property
    def certificates_path(self) -> str:
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

    credential_setting = "NEXUS_PYLON_IDENTITY_TOKEN"

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
