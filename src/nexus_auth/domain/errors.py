"""Every error that nexus-auth raises on purpose.

An expected denial of a caller is a value (`Denied`), never an exception.
An exception means "could not decide" or "cannot go on":

    NexusAuthError
    ├── InvalidHotkey            a text is not an SS58 address of this network
    ├── CertificateRejected      a certificate cannot be what it claims to be (carries the reason)
    ├── RegistryError            who is registered is not known
    │   ├── RegistryUnavailable  no source could be reached, or no usable answer came
    │   │   └── BulkNotOffered   the source cannot give all keys at once
    │   └── RegistryAnswerInvalid  the source's answer cannot be an answer
    ├── StoreUnavailable         a snapshot store could not be read or written
    ├── RecordRejected           a stored snapshot is not to be believed
    ├── IssuingError             no key pair could be issued
    │   ├── IssuerUnavailable    the issuer could not be reached, or could not answer
    │   └── IssuingRefused       the answer was no, or cannot be a key pair
    ├── ServerNotProven          a server has not proven to be the hotkey that was called
    │   ├── ServerKeyMismatch    it showed another key, or another's certificate
    │   ├── HotkeyNotRegistered  no key is registered, so no server can prove to be it
    │   └── ServerKeyUnknown     which key is registered is not known now
    ├── RequestRefused           a request names no hotkey, or leads away from it
    ├── CredentialsError         the key pair on disk could not be read or written
    └── ConfigurationError       a setting is missing or wrong
"""

from __future__ import annotations

import copyreg
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

if TYPE_CHECKING:
    from nexus_auth.domain.reasons import DenialReason

_MOST_WRAPPINGS: Final = 100
"""How many exceptions are looked at for one inside; HTTP libraries wrap an error a few times."""


class NexusAuthError(Exception):
    """The root of every error raised by nexus-auth. Each can be copied and pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By its attributes: otherwise its constructor would be called with its text alone, and an
        # error in a pool of processes would end the pool.
        return copyreg.__newobj__, (type(self),), {**self.__dict__, "args": self.args}  # type: ignore[attr-defined] # of the pickle protocol


class InvalidHotkey(NexusAuthError, ValueError):
    """A text is not a valid SS58 address. The text itself is never repeated in the message."""


class CertificateRejected(NexusAuthError, ValueError):
    """A presented certificate fails a check that needs nothing but the certificate.

    Attributes:
        reason: The denial that follows from it.
        detail: What is wrong, in our own words; never text taken from the certificate.
    """

    def __init__(self, reason: DenialReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class RegistryError(NexusAuthError):
    """Who is registered could not be found out.

    Attributes:
        cause: A word of a closed set (`CAUSES`) that says why, for metrics.
    """

    cause: ClassVar[str] = "other"


class RegistryUnavailable(RegistryError):
    """No source could be reached, or what is known is too old to be used."""


class BulkNotOffered(RegistryUnavailable):
    """The source cannot give all keys at once; each hotkey can be looked up on its own."""

    cause = "not-offered"


class RegistryAnswerInvalid(RegistryError):
    """The source answered something that cannot be an answer."""

    cause = "invalid"


CAUSES = ("unreachable", "refused", "failed", "invalid", "not-offered", "other")
"""Every cause that an error of a source may name."""


class StoreUnavailable(NexusAuthError):
    """A snapshot store could not be read or written. The text never holds a password."""


class RecordRejected(NexusAuthError):
    """A record in a store is damaged, foreign, or not to be believed. The next one replaces it."""


class IssuingError(NexusAuthError):
    """No key pair was issued.

    Attributes:
        chain_may_have_refused: Whether a rule of the chain may be the cause.
    """

    chain_may_have_refused = False


class IssuerUnavailable(IssuingError):
    """The issuer could not be reached, or failed.

    Attributes:
        key_may_have_changed: Whether the key on chain may be another one now; False only where
            the request was never sent.
    """

    def __init__(self, message: str, *, key_may_have_changed: bool = True) -> None:
        super().__init__(message)
        self.key_may_have_changed = key_may_have_changed


class IssuingRefused(IssuingError):
    """The issuer said no, or answered something that cannot be a key pair.

    Attributes:
        key_may_have_changed: Whether the key on chain may be another one now all the same.
    """

    def __init__(self, message: str, *, key_may_have_changed: bool = False) -> None:
        super().__init__(message)
        self.key_may_have_changed = key_may_have_changed


class ServerNotProven(NexusAuthError):
    """A server has not proven to be the hotkey that was called. No part of a request was sent.

    Attributes:
        hotkey: The address of the hotkey that was called.
    """

    def __init__(self, hotkey: str, problem: str) -> None:
        super().__init__(f"the server is not proven to be {hotkey}: {problem}")
        self.hotkey = hotkey

    @classmethod
    def find(cls, exc: BaseException) -> Self | None:
        """Finds one in the error that an HTTP library has made of it.

        Args:
            exc: What was caught, such as `aiohttp.ClientError` or `requests.ConnectionError`.

        Returns:
            It, or None where the cause is another.
        """
        waiting: list[object] = [exc]
        seen: set[int] = set()
        while waiting and len(seen) < _MOST_WRAPPINGS:
            each = waiting.pop(0)
            if not isinstance(each, BaseException) or id(each) in seen:
                continue
            if isinstance(each, cls):
                return each
            seen.add(id(each))
            # Beside Python's own chain: urllib names a `reason`, others put the error among the
            # arguments, and a group has several.
            waiting += (each.__cause__, each.__context__, getattr(each, "reason", None), *each.args)
            if isinstance(each, BaseExceptionGroup):
                waiting += each.exceptions
        return None


class ServerKeyMismatch(ServerNotProven):
    """The server holds another key than the one registered for the hotkey that was called.

    Attributes:
        hotkey: The address of the hotkey that was called.
        expected: The fingerprint of the registered key, as `curl --pinnedpubkey` takes it.
        found: That of the key that the server holds; None where it showed none that can be read.
        named: The address that its certificate names, where that is another.
    """

    def __init__(
        self, *, hotkey: str, expected: str, found: str | None, named: str | None = None
    ) -> None:
        problem = f"expected the key {expected}, found {found or 'none'}"
        if named is not None:
            problem += f", in a certificate of {named}"
        super().__init__(hotkey, problem)
        self.expected = expected
        self.found = found
        self.named = named


class HotkeyNotRegistered(ServerNotProven):
    """No key is registered for the hotkey that was called."""

    def __init__(self, hotkey: str) -> None:
        super().__init__(hotkey, "no key is registered for it")


class ServerKeyUnknown(ServerNotProven):
    """No registered key of the hotkey that was called may be used now.

    Raised by a handshake, with the reason as its cause where there is one. None is registered, or
    the registry has no news that are new enough.
    """

    def __init__(self, hotkey: str, cause: object = None) -> None:
        why = "" if cause is None else f" ({cause})"
        super().__init__(hotkey, f"no registered key is known now{why}")


class RequestRefused(NexusAuthError):
    """A request names no hotkey, is not https, or is a redirect elsewhere. It was not sent."""


class CredentialsError(NexusAuthError):
    """A key pair on disk could not be read or written."""


class ConfigurationError(NexusAuthError):
    """A setting is missing, malformed or in contradiction with another.

    Attributes:
        setting: Its name as the user knows it (environment variable or flag).
        source: Where the value came from, or None where there was none.
        problem: What is wrong and what to do; never a secret's value.
    """

    def __init__(self, *, setting: str, problem: str, source: str | None = None) -> None:
        origin = f" (from {source})" if source else ""
        super().__init__(f"{setting}{origin}: {problem}")
        self.setting = setting
        self.source = source
        self.problem = problem
