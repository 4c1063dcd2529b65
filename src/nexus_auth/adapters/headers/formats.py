"""How reverse proxies write a client certificate into a header: from header bytes to DER.

Each function is pure and strict, and raises `CertificateRejected` and nothing else. The value of
a header is what stands between the white space around it (RFC 9110 §5.5). Whether the DER is a
certificate is not looked at here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote_to_bytes

from nexus_auth.adapters.headers.names import CertificateFormat
from nexus_auth.domain.certificate import (
    MAX_DER_BYTES,
    MORE_THAN_ONE,
    parse_base64_der,
    parse_pem,
)
from nexus_auth.domain.errors import CertificateRejected
from nexus_auth.domain.reasons import DenialReason

MAX_HEADER_BYTES: Final = 72 * 1024
"""16 KiB of DER as PEM in which every single character is percent-encoded, and some room."""

_OPTIONAL_WHITE_SPACE: Final = b" \t"
_MAX_BASE64_BYTES: Final = 4 * (MAX_DER_BYTES // 3 + 1)

# Visible ASCII and space; a percent sign only before two hexadecimal digits (RFC 3986 §2.1).
# (Whole runs at once, never given back: an alternative for each character takes five times longer.)
_PERCENT_ENCODED: Final = re.compile(
    rb"[\x20-\x24\x26-\x7e]*+(?:%[0-9A-Fa-f]{2}[\x20-\x24\x26-\x7e]*+)*+"
)

# What Caddy sends for a client without a certificate: the placeholder that it could not replace.
_CADDY_PLACEHOLDER: Final = re.compile(rb"\{http\.request\.tls\.client\.[a-z0-9_.]+\}")

# One `key=value` of X-Forwarded-Client-Cert. A key is a word. A value stands in double quotes, in
# which a backslash protects the next character, or has none of the separators in it. (The inner
# parts exclude one another, so that no text makes the expression try things twice.)
_XFCC_PAIR: Final = re.compile(
    rb"(?P<key>[A-Za-z][A-Za-z0-9_-]*)="
    rb'(?:"(?P<quoted>(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*)"'
    rb"|(?P<bare>[\x21\x23-\x2b\x2d-\x3a\x3c-\x7e]*))"
)
_XFCC_UNQUOTED: Final = frozenset({b"uri", b"dns"})
_XFCC_ESCAPE: Final = re.compile(rb"\\(.)")

_malformed: Final = partial(CertificateRejected, DenialReason.MALFORMED_CERTIFICATE)
_bad_encoding: Final = partial(CertificateRejected, DenialReason.BAD_ENCODING)
_no_certificate: Final = partial(CertificateRejected, DenialReason.NO_CERTIFICATE)


def _field_value(header: bytes) -> bytes:
    """Bounds what is read, and takes off the white space that is no part of a field's value."""
    if len(header) > MAX_HEADER_BYTES:
        raise _malformed(f"the header is longer than {MAX_HEADER_BYTES} bytes")
    value = header.strip(_OPTIONAL_WHITE_SPACE)
    if not value:
        raise _no_certificate("the header is empty")
    return value


def _parse_canonical_base64(text: bytes) -> bytes:
    if len(text) > _MAX_BASE64_BYTES:
        raise _malformed(f"longer than {MAX_DER_BYTES} bytes")
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _bad_encoding("not base64") from None
    if base64.b64encode(der) != text:
        # RFC 4648 §3.5: other trailing bits would be a second spelling of the same certificate.
        raise _bad_encoding("not canonical base64")
    return der


def der_from_percent_encoded_pem(header: bytes) -> bytes:
    """Reads percent-encoded PEM: nginx, ingress-nginx, AWS ALB.

    A plus sign is a plus sign, never a space. The PEM armour may be missing, as the original
    service allows; the base64 body then stands alone.

    Raises:
        CertificateRejected: `no-certificate` for an empty value, `bad-encoding` for wrong
            escapes, `malformed-certificate` for anything but exactly one certificate.
    """
    value = _field_value(header)
    if _PERCENT_ENCODED.fullmatch(value) is None:
        raise _bad_encoding("not percent-encoded ASCII")
    text = unquote_to_bytes(value)
    if b"-----BEGIN" not in text:
        if b"," in text:
            raise _malformed(MORE_THAN_ONE)  # the form of a list, which others send
        return parse_base64_der(text)
    return parse_pem(text)


def der_from_base64_der(header: bytes) -> bytes:
    """Reads base64 of the DER alone: Traefik, Caddy, HAProxy.

    Traefik joins a chain with commas. A chain is rejected: two joined headers look just the same,
    and the certificates that this service is about are self-signed and have none.

    Raises:
        CertificateRejected: `no-certificate` for an empty value or the name of a placeholder that
            Caddy had nothing to put in for, `malformed-certificate` for several certificates or
            one that is too long, `bad-encoding` for anything but canonical base64.
    """
    value = _field_value(header)
    if _CADDY_PLACEHOLDER.fullmatch(value) is not None:
        raise _no_certificate("the proxy had no certificate to put in")
    if b"," in value:
        raise _malformed(MORE_THAN_ONE)
    return _parse_canonical_base64(value)


def der_from_rfc9440(header: bytes) -> bytes:
    """Reads `Client-Cert` as RFC 9440 §2.2 defines it: a byte sequence, `:base64:`.

    Stricter than RFC 9651 §4.2.7 asks of a parser: padding must be there and canonical, so that
    one certificate has one spelling. RFC 9440 defines the field as `sf-binary`, which leaves no
    room for parameters or a list; both are rejected.

    Raises:
        CertificateRejected: `no-certificate` for an empty value, an empty byte sequence or one
            that holds a placeholder of Caddy's, `malformed-certificate` for a list or too long a
            certificate, `bad-encoding` for anything else that is no byte sequence.
    """
    value = _field_value(header)
    if b"," in value:
        raise _malformed(MORE_THAN_ONE)
    if len(value) < len(b"::") or value[:1] != b":" or value[-1:] != b":":
        raise _bad_encoding("not a byte sequence (RFC 9651 §3.3.5)")
    inner = value[1:-1]
    if not inner or _CADDY_PLACEHOLDER.fullmatch(inner) is not None:
        raise _no_certificate("the proxy had no certificate to put in")
    return _parse_canonical_base64(inner)


def der_from_xfcc(header: bytes) -> bytes:
    """Reads Envoy's `X-Forwarded-Client-Cert`: the certificate of the last hop's element.

    Elements are separated by commas, and each proxy appends its own; what stands before the last
    one is what an earlier hop claimed, and is only read as far as finding its end needs. The
    element's `Cert` is percent-encoded PEM; its other keys are not used.

    Envoy writes `URI` and `DNS` as they stand in the client's certificate, without quotes, so that
    the maker of a certificate can write further elements there (seen with Envoy 1.40). They
    come after `Cert`; a `Cert` that comes after one of them proves nothing, and is rejected.

    Raises:
        CertificateRejected: `no-certificate` when the last element has no `Cert`, `bad-encoding`
            when the header does not keep to the format or names `Cert` after a `URI` or `DNS`,
            `malformed-certificate` when an element names `Cert` twice, and what
            `der_from_percent_encoded_pem` raises.
    """
    certificate: bytes | None = None
    written_by_client = False
    for begins_element, key, value in _xfcc_pairs(_field_value(header)):
        if begins_element:
            certificate = None  # The element before was another hop's.
        if key in _XFCC_UNQUOTED:
            written_by_client = True
        elif key == b"cert":
            if certificate is not None:
                raise _malformed(MORE_THAN_ONE)
            if written_by_client:
                raise _bad_encoding("a certificate after a URI or DNS, which are not quoted")
            certificate = value
    if not certificate:
        raise _no_certificate("the last element carries no certificate")
    return der_from_percent_encoded_pem(certificate)


def _xfcc_pairs(text: bytes) -> Iterator[tuple[bool, bytes, bytes]]:
    """Takes a header apart: whether an element begins here, the key in lower case, the value."""
    at, begins_element = 0, True
    while True:
        match = _XFCC_PAIR.match(text, at)
        if match is None:
            raise _bad_encoding("not a list of key=value pairs")
        quoted = match["quoted"]
        value = match["bare"] if quoted is None else _XFCC_ESCAPE.sub(rb"\1", quoted)
        yield begins_element, match["key"].lower(), value  # Envoy: keys are case-insensitive.
        at = match.end()
        if at == len(text):
            return
        begins_element = text[at : at + 1] == b","
        if not begins_element and text[at : at + 1] != b";":
            raise _bad_encoding("not a list of key=value pairs")
        at += 1
        # White space may follow the comma, where some library joined two headers (RFC 9110 §5.3).
        while begins_element and text[at : at + 1] in {b" ", b"\t"}:
            at += 1


FORMATS: Final[Mapping[str, Callable[[bytes], bytes]]] = MappingProxyType(
    {
        CertificateFormat.PERCENT_ENCODED_PEM: der_from_percent_encoded_pem,
        CertificateFormat.RFC9440: der_from_rfc9440,
        CertificateFormat.XFCC: der_from_xfcc,
        CertificateFormat.BASE64_DER: der_from_base64_der,
    }
)
"""Every format by the name that `NEXUS_AUTH_CERT_FORMAT` takes."""
