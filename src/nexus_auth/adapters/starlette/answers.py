"""What a decision looks like as an HTTP response. Nothing that a caller wrote is ever sent back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.headers import names
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.neuron import StakeKind
from nexus_auth.domain.reasons import GRANTED_BODY, DenialReason

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from starlette.types import Scope, Send

    from nexus_auth.domain.neuron import Neuron

HOTKEY_FIELD: Final = names.field_name(names.HOTKEY_HEADER)
REASON_FIELD: Final = names.field_name(names.REASON_HEADER)

_REUSE_FIELD: Final = names.field_name(names.REUSE_HEADER)
_GRANT_FIELDS: Final = tuple((each, names.field_name(each.header)) for each in names.GrantHeader)
_CONTENT_TYPE: Final = (b"content-type", b"text/plain; charset=utf-8")
_NO_STORE: Final = (b"cache-control", b"no-store")
POLICY_VIOLATION: Final = 1008
"""RFC 6455 §7.4.1. Closed with it before it opens, a WebSocket's handshake is answered with 403."""

STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii")
    for status in HTTPStatus
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a decision looks like as a response.

    Attributes:
        status: 200 or 403.
        headers: Names in lower case.
        body: One of our own fixed texts.
        head: Status line and header fields as HTTP/1.1 writes them, without the empty line.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    head: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", STATUS_LINES[self.status] + field_lines(self.headers))

    async def send(self, scope: Scope, send: Send) -> None:
        """Sends it as the response to a request (ASGI 3)."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": list(self.headers),
            }
        )
        body = b"" if scope["method"] == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body})


def field_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Field lines, spelt as most servers do: X-Hotkey."""
    return b"".join(b"%s: %s\r\n" % (name.title(), value) for name, value in headers)


def _answer(status: int, body: str, *headers: tuple[bytes, bytes]) -> Answer:
    length = (b"content-length", str(len(body)).encode("ascii"))
    return Answer(status, (*headers, length, _CONTENT_TYPE), body.encode("ascii"))


def _neuron_headers(
    neuron: Neuron | None, wanted: frozenset[names.GrantHeader]
) -> list[tuple[bytes, bytes]]:
    """The headers that are wanted, where they are known: none is better than a wrong zero."""
    if neuron is None:
        return []
    values = {
        names.GrantHeader.UID: str(neuron.uid),
        names.GrantHeader.VALIDATOR: "true" if neuron.validator_permit else "false",
        # To a rao, and without an exponent.
        names.GrantHeader.STAKE: f"{neuron.stake(StakeKind.TOTAL):.9f}".rstrip("0").rstrip("."),
    }
    return [
        (name, values[header].encode("ascii")) for header, name in _GRANT_FIELDS if header in wanted
    ]


DENIALS: Final = {
    reason: _answer(403, reason.body, (REASON_FIELD, reason.value.encode("ascii")), _NO_STORE)
    for reason in DenialReason
}
"""Every denial as a response."""


def build_answer(
    decision: Decision,
    now: datetime,
    reuse: timedelta,
    *,
    grant_headers: frozenset[names.GrantHeader] = frozenset(),
) -> Answer:
    """Writes a decision as a response.

    Args:
        decision: What was decided.
        now: The time (aware, UTC).
        reuse: For how long a proxy may reuse a grant at most; whole seconds count.
        grant_headers: What a grant says of the caller's place on the subnet.
    """
    match decision:
        case Granted():
            # Rounded down: a proxy must never keep a grant for longer than it is worth.
            seconds = int(min(decision.expires_at - now, reuse).total_seconds())
            return _answer(
                200,
                GRANTED_BODY,
                (HOTKEY_FIELD, decision.hotkey.address.encode("ascii")),
                *_neuron_headers(decision.neuron, grant_headers),
                # Nothing but X-Accel-Expires, which only the proxy that keys on the certificate
                # understands. Never X-Accel-Expires: 0, so that its presence means "keep this".
                (_REUSE_FIELD, str(seconds).encode("ascii")) if seconds > 0 else _NO_STORE,
            )
        case Denied():
            return DENIALS[decision.reason]
