"""What each proxy sends, decoded: for applications that find the header themselves."""

from __future__ import annotations

from nexus_auth.adapters.headers.formats import FORMATS
from nexus_auth.adapters.proxies.table import DEFAULT_PROXY, PROXIES


def der_from_header(
    value: str | bytes, *, proxy: str = DEFAULT_PROXY, header_format: str | None = None
) -> bytes:
    """Takes the certificate out of the header in which a proxy sends it.

        der = der_from_header(request.headers["X-Client-Cert"], proxy="caddy")
        decision = verifier.verify(der)

    Decodes, strictly, and checks nothing else: neither whether the bytes are a certificate, nor
    whether the header comes from the proxy. Only a proxy that is known to have seen the client use
    the private key may be believed, and only one header; the middleware sees to both.

    Args:
        value: The header's value, as it came.
        proxy: Which proxy sent it, as `NEXUS_AUTH_PROXY` names it: nginx, envoy, traefik, caddy,
            haproxy, aws-alb, rfc9440 and the others of that setting.
        header_format: The format itself, in the place of a proxy: percent-encoded-pem, base64-der,
            rfc9440, xfcc.

    Returns:
        The DER, for `verify` or `ClientCertificate.from_der`.

    Raises:
        CertificateRejected: When the value is empty, holds several certificates, is too long, or
            is not what the format says; its `reason` is the denial that follows.
        ValueError: When there is no such proxy or format.
    """
    if header_format is None:
        if proxy not in PROXIES:
            raise ValueError(f"proxy is one of {', '.join(PROXIES)}")
        header_format = PROXIES[proxy].header.format
    if header_format not in FORMATS:
        raise ValueError(f"header_format is one of {', '.join(FORMATS)}")
    # No format takes what is not ASCII.
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return FORMATS[header_format](data)
