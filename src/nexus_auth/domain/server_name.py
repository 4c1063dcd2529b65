"""The names of a server in its certificate: host names and IP addresses, checked strictly.

A client that checks the name that it calls finds them there (RFC 6125, RFC 9525). No decision
looks at them.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from cryptography import x509

from nexus_auth.domain.certificate import silence_parser

silence_parser(__name__)

MAX_NAMES: Final = 16
"""Ours: with so many of the longest, a certificate still fits into a header of 8 KiB."""
MAX_CHARACTERS: Final = 253
"""RFC 1035 §2.3.4: 255 bytes on the wire."""

# RFC 1123 §2.1: letters, digits and hyphens, at most 63, no hyphen at either end.
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def parse_names(text: str) -> tuple[x509.GeneralName, ...]:
    """Parses names separated by commas; an empty text is none.

    Raises:
        ValueError: If one of them is neither a host name nor an IP address, or there are too many.
    """
    names = tuple(dict.fromkeys(_parse_name(each) for each in text.split(",")) if text else ())
    if len(names) > MAX_NAMES:
        raise ValueError(f"expected {MAX_NAMES} names at most")
    return names


def names_of(certificate_pem: bytes) -> tuple[x509.GeneralName, ...] | None:
    """Reads the alternative names of a certificate; None where it cannot be read."""
    with suppress(Exception):  # the parser reports bad input by several exception types
        extensions = x509.load_pem_x509_certificate(certificate_pem).extensions
        with suppress(x509.ExtensionNotFound):
            return tuple(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        return ()
    return None


def _parse_name(text: str) -> x509.GeneralName:
    if "%" not in text:  # An address with a zone means something on one machine alone.
        with suppress(ValueError):
            return x509.IPAddress(ip_address(text))
    if not text.isascii():
        raise ValueError("write a name with other letters as DNS has it (xn--...)")
    name = text.lower()
    labels = name.removeprefix("*.").split(".")
    if len(name) > MAX_CHARACTERS or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(
            "expected host names (letters, digits and hyphens in parts of 63 at most, 253 in all) "
            "or IP addresses, without scheme and port"
        )
    # RFC 1123 §2.1: the last part of a name is not a number, so it is no misspelt address.
    if labels[-1].isdigit():
        raise ValueError("neither an IP address nor a host name, whose last part is no number")
    # RFC 6125 §6.4.3, and what OpenSSL matches: the whole first part of three at least.
    if name.startswith("*.") and len(labels) == 1:
        raise ValueError("* stands for the first part of a name of three, as in *.example.com")
    return x509.DNSName(name)
