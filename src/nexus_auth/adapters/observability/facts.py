"""The facts of one decision and of its request, under the names that log lines and spans share."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.headers import names
from nexus_auth.domain.decision import Decision, Granted
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from nexus_auth.domain.ports import Headers

GRANTED: Final = "granted"
DENIED: Final = "denied"
OUTCOMES: Final = (GRANTED, DENIED)
CODES: Final = (GRANTED, *(reason.value for reason in DenialReason))
"""Every outcome and every code that a decision can have."""

_MAX_URI: Final = 512
_MAX_METHOD: Final = 32
_MAX_POLICY: Final = 64
_MAX_NAME: Final = 256
"""A subject of `generate` has some 110 characters. A client chooses what stands there."""

_URI_FIELDS: Final = tuple(map(names.field_name, names.ORIGINAL_URI_HEADERS))
_METHOD_FIELDS: Final = tuple(map(names.field_name, names.ORIGINAL_METHOD_HEADERS))

_NAME_FIELDS: Final = (
    ("proxy_subject", names.field_name(names.SUBJECT_HEADER)),
    ("proxy_issuer", names.field_name(names.ISSUER_HEADER)),
)

_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
"""What an identifier looks like: UUIDs, hexadecimal, base64, `1-5759e988-bd862e3fe1be46a994272793`.
Anything else is not repeated."""


def decision_facts(decision: Decision) -> dict[str, str | None]:
    """What was decided: `outcome`, `code`, `hotkey`, `certificate`, and `detail` of a denial.

    A denied caller may have named no hotkey, and have shown no certificate: then these are None.
    """
    facts: dict[str, str | None]
    if isinstance(decision, Granted):
        facts = {"outcome": GRANTED, "code": GRANTED}
    else:
        code = decision.reason.value
        facts = {"outcome": DENIED, "code": code, "detail": decision.detail}
    facts["hotkey"] = None if decision.hotkey is None else decision.hotkey.address
    facts["certificate"] = decision.fingerprint
    return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """What is repeated of a request, and whose words it is.

    Attributes:
        with_query: Whether `uri` has its query, in which applications put tokens.
        knows_proxies: Whether proxies are named that alone may ask.
    """

    with_query: bool = False
    knows_proxies: bool = False

    def facts(
        self, decision: Decision, method: bytes, target: bytes, headers: Headers
    ) -> dict[str, str | bool | None]:
        """The facts of a decision and of its request.

        `vouched` says whether a trusted proxy sent what the request's facts were taken from. False
        also where it is not known who sent it. `proxy_subject` and `proxy_issuer` are a proxy's
        words: those of a peer that is known to be none are left out.
        """
        is_untrusted = not isinstance(decision, Granted) and (
            decision.reason is DenialReason.UNTRUSTED_PEER
        )
        request = client_request(method, target, headers, with_query=self.with_query)
        if is_untrusted:
            for fact, _ in _NAME_FIELDS:
                request.pop(fact, None)
        return {
            **decision_facts(decision),
            **request,
            "vouched": self.knows_proxies and not is_untrusted,
        }


def client_request(
    method: bytes, target: bytes, headers: Headers, *, with_query: bool = False
) -> dict[str, str]:
    """The client's own request as the proxy describes it, else the request to this service.

    `request_id` is generated where the proxy sends none that is usable; there is a `policy` where
    the proxy chose one, and a `proxy_subject` and `proxy_issuer` where it sends these names of the
    certificate. All are ASCII and of bounded length, and all come from outside. A header that comes
    twice with two values may be the client's beside the proxy's: it is not used.
    """
    found: dict[bytes, bytes] = {}
    ambiguous = set()
    for name, value in headers:
        field = name.lower()
        if found.setdefault(field, value) != value:
            ambiguous.add(field)
    for field in ambiguous:
        del found[field]
    uri = next((found[name] for name in _URI_FIELDS if name in found), target)
    if not with_query:
        uri = uri.partition(b"?")[0]
    verb = next((found[name] for name in _METHOD_FIELDS if name in found), method)
    request_id = found.get(names.REQUEST_ID_FIELD, b"")
    request = {
        "request_id": request_id.decode() if _ID.fullmatch(request_id) else uuid.uuid4().hex,
        "method": _text(verb, _MAX_METHOD),
        "uri": _text(uri, _MAX_URI),
    }
    if names.POLICY_FIELD in found:
        request["policy"] = _text(found[names.POLICY_FIELD], _MAX_POLICY)
    for fact, field in _NAME_FIELDS:
        if field in found:
            request[fact] = _text(found[field], _MAX_NAME)
    return request


def _text(value: bytes, limit: int) -> str:
    """Bytes from outside as ASCII text of bounded length; the log's renderer escapes the rest."""
    text = value[:limit].decode("ascii", "backslashreplace")
    return text if len(value) <= limit else f"{text}… ({len(value)} bytes)"
