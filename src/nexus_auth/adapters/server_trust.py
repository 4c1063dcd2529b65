"""Which servers are trusted over TLS, on every Python alike, and what to say of one that is not.

Trusted are the authorities of this machine, and those that the operator names in a file. Python
3.13 began to set `VERIFY_X509_STRICT`, by which such an authority is refused for its form: one that
a plain `openssl req -x509` makes says nothing of its key usage. Strictness about form adds nothing
to the word of an operator who names it, and is not what keeps a public authority honest: whatever
the flag, OpenSSL refuses an intermediate that is no authority, or whose key may not sign
certificates, and a name, a date or a signature that is wrong. Nor can an installed private
authority be told from a public one before the handshake. So the flag is off. What is named counts
as an anchor, also when it is an intermediate or the server's own certificate
(`VERIFY_X509_PARTIAL_CHAIN`, the default since Python 3.13, and curl's).
"""

from __future__ import annotations

import os
import ssl
from typing import Final, NamedTuple

SET_FLAGS: Final = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
CLEARED_FLAGS: Final = ssl.VerifyFlags.VERIFY_X509_STRICT

AUTHORITIES_VARIABLE: Final = "SSL_CERT_FILE"
"""OpenSSL's own: a file of authorities in place of this machine's."""

# Source: openssl/x509_vfy.h, X509_V_ERR_...
_NO_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
_WRONG_DATE: Final = frozenset({9, 10})
_WRONG_NAME: Final = frozenset({62, 64})

_MAX_CAUSES: Final = 8


class Refusal(NamedTuple):
    """Why a server's certificate was refused, and what to do about it. Neither ends with a dot."""

    problem: str
    remedy: str


def explain_refusal(exc: BaseException, *, authorities: str, address: str) -> Refusal | None:
    """Explains a handshake that failed because of the server's certificate.

    Nothing of the certificate is repeated: the problem is OpenSSL's text, with the name that was
    asked for.

    Args:
        exc: What a library raised, with the error of the handshake among its causes.
        authorities: Where an operator names the authority that signed the certificate.
        address: The setting that names the server.

    Returns:
        None where something else failed.
    """
    cause: BaseException | None = exc
    for _ in range(_MAX_CAUSES):
        if cause is None or isinstance(cause, ssl.SSLCertVerificationError):
            break
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return None
    file = os.environ.get(AUTHORITIES_VARIABLE)
    if cause.verify_code in _WRONG_NAME:
        remedy = f"name the server in {address} as its certificate does, or give it another one"
    elif cause.verify_code in _WRONG_DATE:
        remedy = "renew it, or correct the clock that is wrong"
    elif cause.verify_code not in _NO_AUTHORITY:
        remedy = "give the server another one"
    elif file and not os.access(file, os.R_OK):
        remedy = f"{AUTHORITIES_VARIABLE} names {file!a}, which cannot be read"
    else:
        remedy = f"name the file of the authority that signed it in {authorities}"
    return Refusal(f"its certificate is refused: {cause.verify_message.rstrip('.')}", remedy)
