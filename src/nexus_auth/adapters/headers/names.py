"""The wire names of all headers that mean something here, and the formats of a certificate in one.

Light on purpose: the command line, the settings and the proxy configurations read this.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from functools import partial
from itertools import product
from typing import Final, Self

HOTKEY_HEADER: Final = "X-Hotkey"
"""In a grant: the caller's hotkey."""

REASON_HEADER: Final = "X-Nexus-Auth-Reason"
"""In a denial: its code."""

REUSE_HEADER: Final = "X-Accel-Expires"
"""In a grant: for how many seconds a proxy that keys on the certificate may reuse it."""

POLICY_HEADER: Final = "X-Nexus-Auth-Policy"
"""In a request: chooses a policy for a location; set by the proxy, never by a client."""

REQUEST_ID_HEADER: Final = "X-Request-ID"
"""In a request: the proxy's name for it."""

ORIGINAL_URI_HEADERS: Final = ("X-Original-URI", "X-Forwarded-Uri")
ORIGINAL_METHOD_HEADERS: Final = ("X-Original-Method", "X-Forwarded-Method")
"""In a request: what proxies say of the client's own request; the first that is there counts."""

TRACE_PARENT_HEADER: Final = "traceparent"
"""In a request: the proxy's span (W3C Trace Context §3.2)."""

X_CLIENT_CERT: Final = "X-Client-Cert"
RFC9440_HEADER: Final = "Client-Cert"
XFCC_HEADER: Final = "X-Forwarded-Client-Cert"
TRAEFIK_HEADER: Final = "X-Forwarded-Tls-Client-Cert"
AWS_ALB_HEADER: Final = "X-Amzn-Mtls-Clientcert"
INGRESS_NGINX_HEADER: Final = "ssl-client-cert"
"""Each may carry the caller's certificate; which proxy sends which: `adapters/proxies/table.py`."""

SUBJECT_HEADER: Final = f"{X_CLIENT_CERT}-Subject"
ISSUER_HEADER: Final = f"{X_CLIENT_CERT}-Issuer"
"""In a request: what the proxy read in the certificate. The log repeats it, and nothing counts it:
what decides is the certificate."""

HAND_WRITTEN_HEADER: Final = "X-SSL-Client-Cert"
"""What many hand-written configurations of nginx send. Nothing here reads it."""

CERTIFICATE_HEADERS: Final = (
    X_CLIENT_CERT,
    RFC9440_HEADER,
    f"{RFC9440_HEADER}-Chain",
    XFCC_HEADER,
    TRAEFIK_HEADER,
    f"{TRAEFIK_HEADER}-Info",
    AWS_ALB_HEADER,
    f"{AWS_ALB_HEADER}-Leaf",
    INGRESS_NGINX_HEADER,
    "ssl-client-verify",
    "ssl-client-subject-dn",
    "ssl-client-issuer-dn",
    SUBJECT_HEADER,
    ISSUER_HEADER,
)
"""What any of the supported proxies says about a certificate, whichever of them is in use."""


@unique
class CertificateFormat(StrEnum):
    """How a header carries the certificate; `adapters/headers/formats.py` reads each."""

    PERCENT_ENCODED_PEM = "percent-encoded-pem"
    RFC9440 = "rfc9440"
    XFCC = "xfcc"
    BASE64_DER = "base64-der"


@dataclass(frozen=True, slots=True)
class HeaderPreset:
    """The one header that carries the certificate.

    Attributes:
        name: As a configuration spells it; header names do not depend on case.
        format: A value of `CertificateFormat`.
    """

    name: str
    format: str


def field_name(name: str) -> bytes:
    """A header's name as ASGI servers give it to applications: lower case, bytes."""
    return name.lower().encode("ascii")


POLICY_FIELD: Final = field_name(POLICY_HEADER)
REQUEST_ID_FIELD: Final = field_name(REQUEST_ID_HEADER)


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
        """The header's name as a configuration spells it."""
        return f"{HOTKEY_HEADER}-{self.value.title()}"


@dataclass(frozen=True, slots=True)
class GrantHeaders:
    """Which of them are sent, as a setting lists them."""

    headers: frozenset[GrantHeader]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads names separated by commas.

        Raises:
            ValueError: When one of them is unknown.
        """
        try:
            return cls(frozenset(GrantHeader(name.strip()) for name in text.split(",")))
        except ValueError:
            known = ", ".join(GrantHeader)
            raise ValueError(f"expected some of {known}, separated by commas") from None

    def __str__(self) -> str:
        return ",".join(header for header in GrantHeader if header in self.headers)


FACT_HEADERS: Final = tuple(each.header for each in GrantHeader)
"""What a grant says beside the hotkey, where the auth service is set up so."""


def _spellings(other: str, name: str) -> tuple[str, ...]:
    words = name.split("-")
    return tuple(
        words[0] + "".join(mark + word for mark, word in zip(marks, words[1:], strict=True))
        for marks in product(("-", other), repeat=len(words) - 1)
    )


with_underscores: Final = partial(_spellings, "_")
"""Spells a header in every way in which underscores stand for some of its hyphens.

Servers of the CGI family (WSGI among them) read all of them as the same name. The name itself
comes first."""

with_dots: Final = partial(_spellings, ".")
"""The same with dots, which some of these servers read as underscores too."""

FORGEABLE_HEADERS: Final = (
    # With dots too: what these say of the caller, the application believes.
    *(spelling for name in (HOTKEY_HEADER, *FACT_HEADERS) for spelling in with_dots(name)),
    POLICY_HEADER,
    *CERTIFICATE_HEADERS,
)
"""The request headers that no client may bring along: every proxy removes them."""
