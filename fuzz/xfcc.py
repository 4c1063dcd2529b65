"""X-Forwarded-Client-Cert as Envoy writes it, around everything that others choose in it.

The model is of `ConnectionManagerUtility` in Envoy's source (1.40): one element a hop, `By` and
`Hash` first, then what `set_current_client_cert_details` names, in the order Cert, Chain, Subject,
URI, DNS, joined by semicolons. `Cert`, `Chain` and `Subject` stand in quotes; in the subject, which
is written as RFC 2253 has it, a quote is preceded by a backslash. `By`, `URI` and `DNS` are written
as they stand in the certificates. With APPEND_FORWARD the element comes behind a comma and what the
peer sent.
"""

from __future__ import annotations

import re
from typing import Final

from fuzz.people import DER, ESCAPED, with_certificates
from fuzz.promises import require, require_plain
from nexus_auth.adapters.headers.formats import der_from_xfcc
from nexus_auth.domain.errors import CertificateRejected

MAX_BYTES: Final = 2048
WORDS: Final = (
    *(b"{alice}", b"{bob}", b"{mallory}", b"Cert=", b'Cert="', b"cert=", b"Chain=", b"Hash="),
    *(b"URI=", b"DNS=", b'Subject="', b'";', b'",', b";", b",", b'\\"', b"\\\\", b'="'),
)

_CERT, _CHAIN, _SUBJECT, _URI, _DNS, _BY, _APPENDS = (1 << place for place in range(7))
_FIELDS: Final = 6

# What HTTP lets through in a header's value; a NUL or a line end never reaches the parser.
_NO_FIELD_CONTENT: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# RFC 2253 §2.4, and what is no printable ASCII as hex pairs.
_SPECIAL: Final = re.compile(rb'[,+"\\<>;]')
_UNPRINTABLE: Final = re.compile(rb"[^\x20-\x7e]")
# What a URI or a DNS name can hold without meaning anything to the reader of the header.
_HARMLESS_NAME: Final = re.compile(rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x7e]*")


def check(data: bytes) -> None:
    """Reads the header of a caller, mallory, who chooses names and what came before.

    The first byte says which details are written. Then come, each up to a line end: the subject's
    value, two URIs, two DNS names, and the header of an earlier hop.
    """
    details = data[0] if data else _CERT
    parts = [*data[1:].split(b"\n", _FIELDS - 1), *[b""] * _FIELDS][:_FIELDS]
    subject, uri, second_uri, dns, second_dns, before = (
        _NO_FIELD_CONTENT.sub(b"", with_certificates(part)) for part in parts
    )
    uris, names = [uri, second_uri], [dns, second_dns]
    header = write_element(details, subject, uris, names)
    if details & _APPENDS and before:
        header = before + b"," + header
    try:
        der = der_from_xfcc(header)
    except CertificateRejected as exc:
        require_plain(exc.detail)
        is_harmless = (
            details & _CERT
            and not (details & _APPENDS and before)
            and all(_HARMLESS_NAME.fullmatch(name) for name in (*uris, *names))
        )
        require(not is_harmless, "an honest element is read")
    else:
        require(details & _CERT, "no certificate where the proxy wrote none")
        require(der == DER["mallory"], "the certificate of the connection, and no other")


def write_element(details: int, subject: bytes, uris: list[bytes], names: list[bytes]) -> bytes:
    """One hop's element, as Envoy writes it."""
    parts = [b"By=spiffe://proxy"] if details & _BY else []
    parts.append(b"Hash=" + b"ab" * 32)
    if details & _CERT:
        parts.append(b'Cert="' + ESCAPED["mallory"] + b'"')
    if details & _CHAIN:
        parts.append(b'Chain="' + ESCAPED["mallory"] + b'"')
    if details & _SUBJECT:
        parts.append(b'Subject="' + _rfc2253(subject) + b'"')
    if details & _URI:
        parts += [b"URI=" + uri for uri in uris]
    if details & _DNS:
        parts += [b"DNS=" + name for name in names]
    return b";".join(parts)


def _rfc2253(value: bytes) -> bytes:
    escaped = _SPECIAL.sub(rb"\\\g<0>", value)
    escaped = _UNPRINTABLE.sub(lambda found: b"\\%02X" % found[0][0], escaped)
    return b"O=" + escaped if value else b""


def seeds() -> dict[str, bytes]:
    """Honest callers, and the ways to forge that are known."""
    everything = bytes([_CERT | _CHAIN | _SUBJECT | _URI | _DNS | _BY])
    appended = bytes([_CERT | _SUBJECT | _URI | _DNS | _APPENDS])
    return {
        "cert-alone": bytes([_CERT]),
        "everything": everything + b'O="a"\\,b\nspiffe://a/b\nhttps://c\na.example\nb.example\n',
        "no-cert": bytes([_SUBJECT | _URI]) + b"5F\nspiffe://a",
        "element-in-a-uri": everything + b'x\n,Hash=0;Cert="{alice}"',
        "cert-in-a-dns-name": everything + b'x\n\n\na;Cert="{bob}"\n,Cert="{alice}"',
        "quote-in-the-subject": everything + b'a";Cert="{alice}";B="',
        "earlier-hop": appended + b'x\n\n\n\n\nHash=0;Cert="{alice}";Subject="a\\"b"',
        "open-quote": appended + b'x\n\n\n\n\nCert="{alice}";A="',
        "open-escape": appended + b'x\n\n\n\n\nCert="{alice}";A="\\',
        "cert-behind-a-uri": appended + b"x\n\n\n\n\nURI=a;Cert={alice}",
    }
