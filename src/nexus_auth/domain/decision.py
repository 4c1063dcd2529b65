"""What a decision is: granted or denied, never a truth value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from datetime import datetime

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.reasons import DenialReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The caller holds the key that the registry knows for this hotkey.

    Attributes:
        hotkey: Who is calling.
        fingerprint: SHA-256 of the certificate's DER, lower-case hex.
        expires_at: Until when the facts behind this decision may be used (aware, UTC):
            the earlier of the certificate's end and the end of what the registry knows.
        neuron: What the registry knows of the caller's place in the subnet, where that is fetched.
    """

    hotkey: Hotkey
    fingerprint: str
    expires_at: datetime
    neuron: Neuron | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError("a decision has no truth value: match on Granted and Denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The caller is denied.

    Attributes:
        reason: The stable code.
        detail: What was wrong, in our own words, for the log; never text from the certificate.
        hotkey: The hotkey that the certificate names, where it got that far. Claimed, not proven.
        fingerprint: SHA-256 of the certificate's DER, where there was one.
    """

    reason: DenialReason
    detail: str = ""
    hotkey: Hotkey | None = None
    fingerprint: str | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError("a decision has no truth value: match on Granted and Denied")


Decision = Granted | Denied
"""The outcome for one caller at one moment."""
