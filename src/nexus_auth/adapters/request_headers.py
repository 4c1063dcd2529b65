"""The headers by which a proxy tells the service something beside the certificate.

Light on purpose: the proxy configurations read this as well as the service.
"""

from __future__ import annotations

from typing import Final

POLICY_HEADER: Final = "X-Nexus-Auth-Policy"
"""Chooses one of several policies for a location; the proxy does, never a client."""

REQUEST_ID_HEADER: Final = "X-Request-ID"
"""The proxy's name for a request."""

# As servers show them to applications.
POLICY_FIELD: Final = POLICY_HEADER.lower().encode("ascii")
REQUEST_ID_FIELD: Final = REQUEST_ID_HEADER.lower().encode("ascii")
