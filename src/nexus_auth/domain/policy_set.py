"""Several access policies by name, of which whoever asks may choose one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from nexus_auth.domain.policy import AccessPolicy
from nexus_auth.domain.rules import Nobody

# Plain in every place where it stands: a file, a header, a proxy's configuration.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def parse_policy_name(text: str) -> str:
    """Reads the name of an access policy.

    Raises:
        ValueError: When no policy can have it.
    """
    if _NAME.fullmatch(text) is None:
        raise ValueError("expected 1 to 64 letters, digits, dots, dashes and underscores")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySet:
    """Named policies, one of which is the default."""

    policies: Mapping[str, AccessPolicy]
    default: str

    def __post_init__(self) -> None:
        if self.default not in self.policies:
            raise ValueError("the default policy is none of the policies")
        object.__setattr__(self, "policies", MappingProxyType(dict(self.policies)))

    @classmethod
    def of(cls, policy: AccessPolicy) -> PolicySet:
        """A set of one policy."""
        return cls(policies={policy.name: policy}, default=policy.name)

    @property
    def needs_neurons(self) -> bool:
        """Whether some rule of some policy looks at neurons."""
        return any(policy.needs_neurons for policy in self.policies.values())

    def named(self, name: str | None) -> AccessPolicy | None:
        """The policy of that name, the default for None; None when there is no such policy."""
        return self.policies.get(self.default if name is None else name)

    def chosen(self, names: Sequence[str]) -> AccessPolicy:
        """The policy that whoever asks has chosen: the default unless a name is given.

        More than one name, and a name that no policy has, choose a policy that refuses everybody:
        somebody wanted something, and it must not be guessed what.
        """
        if not names:
            return self.policies[self.default]
        if len(names) > 1:
            return _TWO_POLICIES
        # The name is not repeated: it comes from outside.
        return self.policies.get(names[0], _UNKNOWN_POLICY)


_TWO_POLICIES: Final = AccessPolicy(name="", rules=(Nobody("more than one policy was asked for"),))
_UNKNOWN_POLICY: Final = AccessPolicy(
    name="", rules=(Nobody("the policy that was asked for does not exist"),)
)
