from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.adapters.headers.formats import (
    FORMATS,
    MAX_HEADER_BYTES,
    der_from_base64_der,
    der_from_percent_encoded_pem,
    der_from_rfc9440,
    der_from_xfcc,
)
from nexus_auth.adapters.headers.names import CertificateFormat
from nexus_auth.domain.certificate import MAX_DER_BYTES, ClientCertificate, parse_pem
from nexus_auth.domain.errors import CertificateRejected
from nexus_auth.domain.issuing import build_credentials
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.server_name import parse_names
from tests.builders import NOW, a_certificate, a_hotkey, a_key, to_der, to_nginx_header, to_pem

DER = to_der(a_certificate())
B64 = base64.b64encode(DER)
ESCAPED = to_nginx_header(a_certificate())
PLACEHOLDER = b"{http.request.tls.client.certificate_der_base64}"


def pem_of(der: bytes) -> bytes:
    """Armours any bytes as PEM, in lines of 64 characters as OpenSSL writes them."""
    body = base64.b64encode(der)
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def as_nginx(der: bytes) -> bytes:
    """nginx: everything but letters, digits and -._~ is escaped."""
    return quote(pem_of(der), safe="").encode()


def as_aws(der: bytes) -> bytes:
    """AWS ALB: plus, slash and equals sign stay as they are."""
    return quote(pem_of(der), safe="+=/").encode()


def as_envoy(der: bytes) -> bytes:
    """Envoy with `set_current_client_cert_details: {cert: true}`."""
    return b"Hash=" + b"ab" * 32 + b';Cert="' + as_nginx(der) + b'"'


def as_envoy_behind_another(der: bytes) -> bytes:
    """Envoy that appends to what came in."""
    return b'By=spiffe://a/b;Hash=00;Subject="CN=a\\"b,O=x;y";Cert="zz",' + as_envoy(der)


def as_client_cert(der: bytes) -> bytes:
    """RFC 9440."""
    return b":" + base64.b64encode(der) + b":"


WRAPPINGS: list[tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = [
    (as_nginx, der_from_percent_encoded_pem),
    (as_aws, der_from_percent_encoded_pem),
    (as_envoy, der_from_xfcc),
    (as_envoy_behind_another, der_from_xfcc),
    (as_client_cert, der_from_rfc9440),
    (base64.b64encode, der_from_base64_der),
]


@pytest.mark.parametrize(("wrap", "unwrap"), WRAPPINGS)
@given(der=st.binary(min_size=1, max_size=2000))
@example(der=DER)
def test_every_wrapping_gives_back_the_same_bytes(
    wrap: Callable[[bytes], bytes], unwrap: Callable[[bytes], bytes], der: bytes
) -> None:
    """Whatever proxy wrote it, the same certificate comes out."""
    assert unwrap(wrap(der)) == der
    assert unwrap(b" \t" + wrap(der) + b"\t ") == der


def as_istio(der: bytes) -> bytes:
    """Istio's gateway: Cert, then the subject as RFC 2253 has it, and the names unquoted."""
    address = a_hotkey().address
    details = f';Subject="CN={address},O={address}";URI=;DNS=miner.example.com;DNS=*.example.com'
    return as_envoy(der) + details.encode()


@pytest.mark.parametrize(("wrap", "unwrap"), [*WRAPPINGS, (as_istio, der_from_xfcc)])
@pytest.mark.parametrize("names", ["", "miner.example.com,*.example.com,192.0.2.7"])
def test_what_generate_makes_is_read_behind_every_proxy(
    wrap: Callable[[bytes], bytes], unwrap: Callable[[bytes], bytes], names: str
) -> None:
    """With an address as CN too, and with names: the hotkey is that of O."""
    made = build_credentials(
        hotkey=a_hotkey(),
        private_key=a_key().private_bytes_raw(),
        now=NOW,
        valid_for=timedelta(days=1),
        names=parse_names(names),
    )
    read = ClientCertificate.from_der(unwrap(wrap(parse_pem(made.certificate_pem))))
    assert read.hotkey == a_hotkey()
    assert read.fingerprint == made.certificate.fingerprint


@pytest.mark.parametrize("unwrap", FORMATS.values(), ids=FORMATS.keys())
@given(
    header=st.binary(max_size=300)
    | st.text(alphabet=':;,="\\{}+/%-ABCertHashURI .\n\t', max_size=120).map(str.encode)
)
@example(header=b"")
@example(header=b":")
@example(header=b"::")
@example(header=b'Cert="')
@example(header=b"Cert=")
def test_any_bytes_give_der_or_our_own_error(
    unwrap: Callable[[bytes], bytes], header: bytes
) -> None:
    """Whatever bytes come in, nothing but `CertificateRejected` is raised."""
    with contextlib.suppress(CertificateRejected):
        assert isinstance(unwrap(header), bytes)


@pytest.mark.parametrize(("wrap", "unwrap"), WRAPPINGS)
@given(data=st.data())
def test_one_changed_byte_never_gives_another_certificate_unnoticed(
    wrap: Callable[[bytes], bytes], unwrap: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    """A changed header is refused, gives the same bytes, or gives bytes that do not verify."""
    header = bytearray(wrap(DER))
    header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CertificateRejected):
        der = unwrap(bytes(header))
        certificate = ClientCertificate.from_der(der)
        assert der == DER or not certificate.is_self_signed()


REFUSALS: list[tuple[str, Callable[[bytes], bytes], bytes, DenialReason]] = [
    ("nothing", der_from_percent_encoded_pem, b"", DenialReason.NO_CERTIFICATE),
    ("white space", der_from_percent_encoded_pem, b" \t ", DenialReason.NO_CERTIFICATE),
    ("bad escape", der_from_percent_encoded_pem, b"%zz", DenialReason.BAD_ENCODING),
    ("cut escape", der_from_percent_encoded_pem, ESCAPED + b"%0", DenialReason.BAD_ENCODING),
    ("not ASCII", der_from_percent_encoded_pem, b"\xff", DenialReason.BAD_ENCODING),
    (
        "two certificates",
        der_from_percent_encoded_pem,
        ESCAPED + ESCAPED,
        DenialReason.MALFORMED_CERTIFICATE,
    ),
    (
        "joined headers",
        der_from_percent_encoded_pem,
        ESCAPED + b", " + ESCAPED,
        DenialReason.MALFORMED_CERTIFICATE,
    ),
    (
        "plus as space",
        der_from_percent_encoded_pem,
        ESCAPED.replace(b"%20", b"+"),
        DenialReason.MALFORMED_CERTIFICATE,
    ),
    (
        "too long",
        der_from_percent_encoded_pem,
        b"A" * (MAX_HEADER_BYTES + 1),
        DenialReason.MALFORMED_CERTIFICATE,
    ),
    ("nothing", der_from_base64_der, b"", DenialReason.NO_CERTIFICATE),
    ("Caddy without one", der_from_base64_der, PLACEHOLDER, DenialReason.NO_CERTIFICATE),
    ("other text in braces", der_from_base64_der, b"{x}", DenialReason.BAD_ENCODING),
    ("a chain", der_from_base64_der, B64 + b"," + B64, DenialReason.MALFORMED_CERTIFICATE),
    ("more than a placeholder", der_from_base64_der, PLACEHOLDER + b"x", DenialReason.BAD_ENCODING),
    ("no padding", der_from_base64_der, b"MA", DenialReason.BAD_ENCODING),
    ("more padding", der_from_base64_der, B64 + b"====", DenialReason.BAD_ENCODING),
    ("a space inside", der_from_base64_der, B64[:8] + b" " + B64[8:], DenialReason.BAD_ENCODING),
    ("a line break", der_from_base64_der, B64[:8] + b"\n" + B64[8:], DenialReason.BAD_ENCODING),
    ("percent-encoded", der_from_base64_der, b"%4D" + B64[1:], DenialReason.BAD_ENCODING),
    ("URL alphabet", der_from_base64_der, b"-_" + B64[2:], DenialReason.BAD_ENCODING),
    ("loose bits", der_from_base64_der, b"MB==", DenialReason.BAD_ENCODING),
    ("too long", der_from_base64_der, b"A" * 30_000, DenialReason.MALFORMED_CERTIFICATE),
    ("nothing", der_from_rfc9440, b"", DenialReason.NO_CERTIFICATE),
    ("empty sequence", der_from_rfc9440, b"::", DenialReason.NO_CERTIFICATE),
    ("placeholder", der_from_rfc9440, b":" + PLACEHOLDER + b":", DenialReason.NO_CERTIFICATE),
    ("no colons", der_from_rfc9440, B64, DenialReason.BAD_ENCODING),
    ("one colon", der_from_rfc9440, b":", DenialReason.BAD_ENCODING),
    ("no end", der_from_rfc9440, b":" + B64, DenialReason.BAD_ENCODING),
    ("another end", der_from_rfc9440, b":" + B64 + b"x", DenialReason.BAD_ENCODING),
    ("no beginning", der_from_rfc9440, B64 + b":", DenialReason.BAD_ENCODING),
    ("another beginning", der_from_rfc9440, b"x" + B64 + b":", DenialReason.BAD_ENCODING),
    (
        "more than a placeholder",
        der_from_rfc9440,
        b":" + PLACEHOLDER + b"x:",
        DenialReason.BAD_ENCODING,
    ),
    ("a parameter", der_from_rfc9440, b":" + B64 + b":;a=1", DenialReason.BAD_ENCODING),
    ("a list", der_from_rfc9440, b":MA==:, :MA==:", DenialReason.MALFORMED_CERTIFICATE),
    ("a string", der_from_rfc9440, b'"' + B64 + b'"', DenialReason.BAD_ENCODING),
    ("no padding", der_from_rfc9440, b":MA:", DenialReason.BAD_ENCODING),
    ("loose bits", der_from_rfc9440, b":MB==:", DenialReason.BAD_ENCODING),
    ("inner space", der_from_rfc9440, b": MA== :", DenialReason.BAD_ENCODING),
    ("three colons", der_from_rfc9440, b":MA==::", DenialReason.BAD_ENCODING),
    ("nothing", der_from_xfcc, b"", DenialReason.NO_CERTIFICATE),
    ("no Cert", der_from_xfcc, b"Hash=ab", DenialReason.NO_CERTIFICATE),
    ("empty Cert", der_from_xfcc, b'Hash=ab;Cert=""', DenialReason.NO_CERTIFICATE),
    ("bare empty Cert", der_from_xfcc, b"Cert=", DenialReason.NO_CERTIFICATE),
    (
        "only an earlier hop's",
        der_from_xfcc,
        as_envoy(DER) + b",Hash=ab",
        DenialReason.NO_CERTIFICATE,
    ),
    (
        "inside another value",
        der_from_xfcc,
        b'Subject="Cert=\\"' + ESCAPED + b'\\""',
        DenialReason.NO_CERTIFICATE,
    ),
    ("two in one element", der_from_xfcc, b"Cert=a;cert=b", DenialReason.MALFORMED_CERTIFICATE),
    ("ends in a comma", der_from_xfcc, as_envoy(DER) + b",", DenialReason.BAD_ENCODING),
    ("ends in a semicolon", der_from_xfcc, as_envoy(DER) + b";", DenialReason.BAD_ENCODING),
    ("open quote", der_from_xfcc, b'Cert="' + ESCAPED, DenialReason.BAD_ENCODING),
    (
        "an open quote that swallows the proxy's own element",
        der_from_xfcc,
        as_envoy(DER) + b';A=",' + as_envoy(DER),
        DenialReason.BAD_ENCODING,
    ),
    ("text after a quote", der_from_xfcc, b'Cert="a"b', DenialReason.BAD_ENCODING),
    (
        "a space between two pairs",
        der_from_xfcc,
        b'Hash=ab Cert="' + ESCAPED + b'"',
        DenialReason.BAD_ENCODING,
    ),
    (
        "a quote between two pairs",
        der_from_xfcc,
        b'Hash=ab"Cert="' + ESCAPED + b'"',
        DenialReason.BAD_ENCODING,
    ),
    ("no key", der_from_xfcc, b"=a", DenialReason.BAD_ENCODING),
    ("no value", der_from_xfcc, b"Cert", DenialReason.BAD_ENCODING),
    ("a space before a key", der_from_xfcc, b"Hash=a; Cert=b", DenialReason.BAD_ENCODING),
    ("an escape at the end", der_from_xfcc, b'Cert="a\\', DenialReason.BAD_ENCODING),
    ("not ASCII", der_from_xfcc, b'Subject="\xc3\xa4"', DenialReason.BAD_ENCODING),
    ("bad escape in it", der_from_xfcc, b'Cert="%zz"', DenialReason.BAD_ENCODING),
    ("not PEM in it", der_from_xfcc, b'Cert="abc"', DenialReason.MALFORMED_CERTIFICATE),
]


@pytest.mark.parametrize(
    ("unwrap", "header", "reason"),
    [row[1:] for row in REFUSALS],
    ids=[f"{row[1].__name__}: {row[0]}" for row in REFUSALS],
)
def test_a_deviation_is_refused(
    unwrap: Callable[[bytes], bytes], header: bytes, reason: DenialReason
) -> None:
    """Each way to be wrong has its reason, and none is repaired."""
    with pytest.raises(CertificateRejected) as caught:
        unwrap(header)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("unwrap", "header"),
    [
        (der_from_percent_encoded_pem, ESCAPED + ESCAPED),
        (der_from_percent_encoded_pem, ESCAPED + b"," + ESCAPED),
        (der_from_percent_encoded_pem, b"%23%20my chain%0A" + ESCAPED + b"%0A%0A" + ESCAPED),
        (der_from_percent_encoded_pem, quote(B64 + b"," + B64).encode()),
        (der_from_percent_encoded_pem, quote(base64.b64encode(DER * 2)).encode()),
        (der_from_base64_der, B64 + b"," + B64),
        (der_from_base64_der, base64.b64encode(DER * 2)),
        (der_from_rfc9440, b":" + B64 + b":, :" + B64 + b":"),
        (der_from_rfc9440, b":" + B64 + b":,:" + B64 + b":"),
        (der_from_rfc9440, b":" + base64.b64encode(DER * 2) + b":"),
        (der_from_xfcc, b'Cert="' + ESCAPED + ESCAPED + b'"'),
        (der_from_xfcc, b'Cert="' + ESCAPED + b'";Hash=ab;Cert="' + ESCAPED + b'"'),
    ],
)
def test_two_certificates_are_named_as_such(
    unwrap: Callable[[bytes], bytes], header: bytes
) -> None:
    """In every format, whichever way they are joined; never as bad base64."""
    with pytest.raises(CertificateRejected) as caught:
        ClientCertificate.from_der(unwrap(header))
    assert caught.value.reason is DenialReason.MALFORMED_CERTIFICATE
    assert caught.value.detail == "more than one certificate"


def test_text_around_one_certificate_is_not_another_one() -> None:
    """It is refused as what it is."""
    for header in (b"%23 note%0A" + ESCAPED, ESCAPED + b"%0Anote"):
        with pytest.raises(CertificateRejected, match="not exactly one PEM certificate"):
            der_from_percent_encoded_pem(header)


@pytest.mark.parametrize(("wrap", "unwrap"), WRAPPINGS)
def test_header_is_bounded_to_the_byte(
    wrap: Callable[[bytes], bytes], unwrap: Callable[[bytes], bytes]
) -> None:
    """White space around the value counts; nothing longer is even looked at."""
    full = wrap(DER).ljust(MAX_HEADER_BYTES)
    assert unwrap(full) == DER
    with pytest.raises(CertificateRejected) as caught:
        unwrap(full + b" ")
    assert caught.value.reason is DenialReason.MALFORMED_CERTIFICATE


@pytest.mark.parametrize("wrapping", [WRAPPINGS[4], WRAPPINGS[5]], ids=["rfc9440", "base64"])
def test_base64_is_bounded_to_the_group(
    wrapping: tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]],
) -> None:
    """The largest certificate is read; one of another three bytes is not decoded."""
    wrap, unwrap = wrapping
    assert unwrap(wrap(bytes(MAX_DER_BYTES))) == bytes(MAX_DER_BYTES)
    with pytest.raises(CertificateRejected) as caught:
        unwrap(wrap(bytes(MAX_DER_BYTES + 3)))
    assert caught.value.reason is DenialReason.MALFORMED_CERTIFICATE


@pytest.mark.parametrize(("wrap", "unwrap"), WRAPPINGS)
def test_only_white_space_is_taken_off(
    wrap: Callable[[bytes], bytes], unwrap: Callable[[bytes], bytes]
) -> None:
    """Any other byte behind the value spoils it; before it too, where it is no part of a key."""
    for number in set(range(256)) - set(b" \t"):
        noise = bytes([number])
        with pytest.raises(CertificateRejected):
            unwrap(wrap(DER) + noise)
        if unwrap is not der_from_xfcc:
            with pytest.raises(CertificateRejected):
                unwrap(noise + wrap(DER))


def test_the_last_hop_s_certificate_counts() -> None:
    """What stands before the last element was claimed by somebody else."""
    other = to_der(a_certificate(key=a_key("bob")))
    assert der_from_xfcc(as_envoy(other) + b"," + as_envoy(DER)) == DER
    for between in (b", ", b",\t", b", \t  "):
        assert der_from_xfcc(as_envoy(other) + between + b'Cert="' + ESCAPED + b'"') == DER


def test_backslash_in_quotes_protects_the_next_character() -> None:
    """Whatever it is: what an escape stands for is that character alone."""
    for at in range(0, len(ESCAPED), 50):
        escaped = ESCAPED[:at] + b"\\" + ESCAPED[at:]
        assert der_from_xfcc(b'Cert="' + escaped + b'"') == DER


def test_the_keys_of_an_element_have_no_case_and_no_order() -> None:
    """Envoy: keys are case-insensitive."""
    assert der_from_xfcc(b'CERT="' + ESCAPED + b'";hash=ab;DNS=a;DNS=b') == DER


@pytest.mark.parametrize("key", [b"URI", b"DNS", b"uri"])
def test_names_that_the_client_wrote_cannot_bring_a_certificate(key: bytes) -> None:
    """Envoy 1.40 writes a certificate's own URI and DNS names into the header without quotes."""
    honest = as_envoy(DER) + b";" + key + b"=spiffe://a/b"
    assert der_from_xfcc(honest) == DER
    of_another = to_der(a_certificate(key=a_key("bob")))
    for injected in (b"," + as_envoy(of_another), b",Hash=00;DNS=b," + as_envoy(of_another)):
        with pytest.raises(CertificateRejected) as caught:
            der_from_xfcc(honest + injected)
        assert caught.value.reason is DenialReason.BAD_ENCODING


def test_the_original_s_bare_body_is_read() -> None:
    """PEM without its armour, as the original service takes it."""
    assert der_from_percent_encoded_pem(quote(B64, safe="").encode()) == DER
    assert to_pem(a_certificate()) == pem_of(DER)


def test_every_format_has_its_parser() -> None:
    """The settings know the formats that can be read, in the same order, and no other."""
    assert tuple(FORMATS) == tuple(CertificateFormat)
