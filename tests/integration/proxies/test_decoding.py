"""What real proxies send is what the public decoder reads."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nexus_auth import CertificateRejected, DenialReason
from nexus_auth.adapters.headers.names import field_name
from nexus_auth.adapters.proxies.table import PROXIES
from nexus_auth.wsgi import der_from_header
from tests.integration.proxies.stack import Stack


def sent(stack: Stack, who: str) -> list[str]:
    """The certificate headers that the proxy made of one caller's request."""
    count = len(stack.auth.listener.headers)
    stack.ask(who)
    wanted = field_name(PROXIES[stack.proxy].header.name)
    # A grant may come out of the proxy's own cache.
    return [
        value.decode("ascii")
        for headers in stack.auth.listener.headers[count:]
        for name, value in headers
        if name.lower() == wanted
    ]


@pytest.mark.parametrize("who", ["carol", "mallory as alice", "expired", "alice, 12 KB"])
def test_certificate_arrives_as_it_was_shown(stack: Stack, who: str) -> None:
    """Byte for byte, whether it is granted or not."""
    path = stack.people[who].certificate
    assert path is not None
    der = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    headers = sent(stack, who)
    if who == "expired" and stack.proxy == "nginx":
        # It refuses those itself.
        assert headers == []
        return
    assert headers
    for value in headers:
        assert der_from_header(value, proxy=stack.proxy) == der


def test_no_certificate_is_the_typed_error_of_one(stack: Stack) -> None:
    """Caddy sends the name of a placeholder, the others send nothing."""
    for value in sent(stack, "nobody"):
        with pytest.raises(CertificateRejected) as caught:
            der_from_header(value, proxy=stack.proxy)
        assert caught.value.reason is DenialReason.NO_CERTIFICATE
