"""What a grant can tell the application of the caller's place in the subnet.

Light on purpose: the settings and the proxy configurations read this.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Self


@unique
class GrantHeader(StrEnum):
    """One header of a grant beside X-Hotkey."""

    UID = "uid"
    """X-Hotkey-Uid: the uid."""
    VALIDATOR = "validator"
    """X-Hotkey-Validator: whether it has a validator permit, true or false."""
    STAKE = "stake"
    """X-Hotkey-Stake: the total stake in whole tokens, as a decimal number."""

    @property
    def header(self) -> str:
        """The header's name as people write it."""
        return f"X-Hotkey-{self.value.title()}"


@dataclass(frozen=True, slots=True)
class GrantHeaders:
    """Which of them are sent, as a setting lists them."""

    headers: frozenset[GrantHeader]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads names separated by commas.

        Raises:
            ValueError: When one of them is none.
        """
        try:
            return cls(frozenset(GrantHeader(name.strip()) for name in text.split(",")))
        except ValueError:
            known = ", ".join(GrantHeader)
            raise ValueError(f"expected some of {known}, separated by commas") from None

    def __str__(self) -> str:
        return ",".join(header for header in GrantHeader if header in self.headers)
