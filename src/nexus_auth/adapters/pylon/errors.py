"""What can go wrong in a request to Pylon, each as an error of the source's port.

RegistryError
├── RegistryUnavailable
│   ├── PylonUnreachable     no connection, no answer in time, a broken connection
│   ├── PylonRefused         401 or 403: the token is missing, wrong or revoked
│   └── PylonFailed          any other status that is no answer
└── RegistryAnswerInvalid
    └── PylonAnswerInvalid   an answer that breaks the API's promises
"""

from __future__ import annotations

from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryUnavailable


class PylonUnreachable(RegistryUnavailable):
    """Pylon could not be reached, or did not answer in time."""

    cause = "unreachable"


class PylonRefused(RegistryUnavailable):
    """Pylon does not accept the token.

    Attributes:
        status: 401 or 403.
    """

    cause = "refused"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class PylonFailed(RegistryUnavailable):
    """Pylon answered with a status that is no answer.

    Attributes:
        status: The HTTP status.
    """

    cause = "failed"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class PylonAnswerInvalid(RegistryAnswerInvalid):
    """Pylon's answer breaks the promises of its API."""
