"""The public decoder of what proxies send."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest

import nexus_auth.asgi
import nexus_auth.wsgi
from nexus_auth import CertificateRejected, ClientCertificate, DenialReason
from nexus_auth.adapters.headers.names import CertificateFormat
from nexus_auth.adapters.proxies.decoding import der_from_header
from nexus_auth.adapters.proxies.table import PROXIES
from tests.builders import a_certificate, a_hotkey, to_der, to_pem

DER = to_der(a_certificate())
PEM = to_pem(a_certificate()).decode()
B64 = base64.b64encode(DER).decode()

WRITTEN = {
    CertificateFormat.PERCENT_ENCODED_PEM: quote(PEM, safe=""),
    CertificateFormat.RFC9440: f":{B64}:",
    CertificateFormat.XFCC: f'Hash={"ab" * 32};Cert="{quote(PEM, safe="")}"',
    CertificateFormat.BASE64_DER: B64,
}
"""One certificate in each format, as tests/integration/proxies sees it come from real proxies."""


@pytest.mark.parametrize("proxy", PROXIES)
def test_what_each_proxy_sends_is_read(proxy: str) -> None:
    """As text or bytes, and down to the hotkey."""
    value = WRITTEN[CertificateFormat(PROXIES[proxy].header.format)]
    assert der_from_header(value, proxy=proxy) == DER
    assert der_from_header(value.encode(), proxy=proxy) == DER
    assert ClientCertificate.from_der(der_from_header(value, proxy=proxy)).hotkey == a_hotkey()


@pytest.mark.parametrize("header_format", CertificateFormat)
def test_format_can_be_named_instead(header_format: CertificateFormat) -> None:
    """Each reads its own, and no other's."""
    for written, value in WRITTEN.items():
        if written is header_format:
            assert der_from_header(value, header_format=header_format.value) == DER
        elif (written, header_format) != (
            # The original service allows percent-encoded PEM without its armour.
            CertificateFormat.BASE64_DER,
            CertificateFormat.PERCENT_ENCODED_PEM,
        ):
            with pytest.raises(CertificateRejected):
                der_from_header(value, header_format=header_format.value)


@pytest.mark.parametrize("header_format", CertificateFormat)
def test_anything_else_is_a_typed_error(header_format: CertificateFormat) -> None:
    """It carries the reason of the denial, and nothing of the value."""
    for value in ("", " ", "\u20ac", "\udc80", b"\xff", "x" * 80_000, f"{B64},{B64}"):
        with pytest.raises(CertificateRejected) as caught:
            der_from_header(value, header_format=header_format)
        assert isinstance(caught.value.reason, DenialReason)
        assert B64[:20] not in str(caught.value)


@pytest.mark.parametrize("arguments", [{"proxy": "apache"}, {"header_format": "pem"}])
def test_unknown_proxy_or_format_is_refused(arguments: dict[str, str]) -> None:
    """A mistake of the programmer is no denial of a caller."""
    with pytest.raises(ValueError, match="is one of") as caught:
        der_from_header(B64, **arguments)
    assert not isinstance(caught.value, CertificateRejected)


def test_both_doors_have_it() -> None:
    """For ASGI and for WSGI applications."""
    assert nexus_auth.asgi.der_from_header is nexus_auth.wsgi.der_from_header is der_from_header
