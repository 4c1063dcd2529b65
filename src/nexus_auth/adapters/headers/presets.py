"""Which header each reverse proxy sends the certificate in, and in which format.

Light on purpose: the command line and the settings read this without loading anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

FORMAT_NAMES: Final = ("percent-encoded-pem", "rfc9440", "xfcc", "base64-der")
"""The formats of `adapters/headers/formats.py`, by name."""


@dataclass(frozen=True, slots=True)
class HeaderPreset:
    """The one header that carries the certificate.

    Attributes:
        name: As proxies and people write it; header names do not depend on case.
        format: One of `FORMAT_NAMES`.
    """

    name: str
    format: str


PRESETS: Final[Mapping[str, HeaderPreset]] = MappingProxyType(
    {
        "nginx": HeaderPreset("X-Client-Cert", "percent-encoded-pem"),
        "ingress-nginx": HeaderPreset("ssl-client-cert", "percent-encoded-pem"),
        "envoy": HeaderPreset("X-Forwarded-Client-Cert", "xfcc"),
        "traefik": HeaderPreset("X-Forwarded-Tls-Client-Cert", "base64-der"),
        "caddy": HeaderPreset("X-Client-Cert", "base64-der"),
        "haproxy": HeaderPreset("X-Client-Cert", "base64-der"),
        "aws-alb": HeaderPreset("X-Amzn-Mtls-Clientcert", "percent-encoded-pem"),
        "rfc9440": HeaderPreset("Client-Cert", "rfc9440"),
    }
)
"""What `NEXUS_AUTH_PROXY` takes. The first one is the default."""

DEFAULT_PRESET: Final = "nginx"


def certificate_header(
    *, proxy: str = DEFAULT_PRESET, name: str | None = None, format_name: str | None = None
) -> HeaderPreset:
    """Puts together which header is read: a preset, and what was said differently.

    Args:
        proxy: One of `PRESETS`.
        name: The header's name, where it is not the preset's.
        format_name: One of `FORMAT_NAMES`, where it is not the preset's.
    """
    preset = PRESETS[proxy]
    return HeaderPreset(name or preset.name, format_name or preset.format)
