"""The request headers that no client may bring along: every proxy removes them."""

from __future__ import annotations

from itertools import product
from typing import Final

from nexus_auth.adapters.request_headers import POLICY_HEADER
from nexus_auth.adapters.starlette.grant_headers import GrantHeader

HOTKEY_HEADER: Final = "X-Hotkey"

FACT_HEADERS: Final = tuple(each.header for each in GrantHeader)
"""What a grant tells beside the hotkey, where the auth service is asked to."""

CERTIFICATE_HEADERS: Final = (
    "X-Client-Cert",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Tls-Client-Cert",
    "X-Forwarded-Tls-Client-Cert-Info",
    "X-Amzn-Mtls-Clientcert",
    "X-Amzn-Mtls-Clientcert-Leaf",
    "ssl-client-cert",
    "ssl-client-verify",
    "ssl-client-subject-dn",
    "ssl-client-issuer-dn",
)
"""What any of the supported proxies says about a certificate, whichever of them is in use."""


def with_underscores(name: str) -> tuple[str, ...]:
    """Spells a header in every way in which underscores stand for some of its hyphens.

    Servers of the CGI family (WSGI among them) read all of them as the same name. The name
    itself comes first.
    """
    return _spellings(name, "_")


def with_dots(name: str) -> tuple[str, ...]:
    """The same with dots, which some of these servers read as underscores too."""
    return _spellings(name, ".")


def _spellings(name: str, other: str) -> tuple[str, ...]:
    words = name.split("-")
    return tuple(
        words[0] + "".join(mark + word for mark, word in zip(marks, words[1:], strict=True))
        for marks in product(("-", other), repeat=len(words) - 1)
    )


FORGEABLE_HEADERS: Final = (
    # With dots too: what these say of the caller, the application believes.
    *(spelling for name in (HOTKEY_HEADER, *FACT_HEADERS) for spelling in with_dots(name)),
    POLICY_HEADER,
    *CERTIFICATE_HEADERS,
)
