from __future__ import annotations

import ssl
import traceback
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.domain.certificate import ClientCertificate, parse_pem
from nexus_auth.domain.errors import CredentialsError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import (
    LAST_MOMENT,
    Credentials,
    build_credentials,
    parse_private_key,
)
from nexus_auth.domain.server_name import MAX_NAMES, names_of, parse_names
from tests.builders import NOW, a_certificate, a_hotkey, a_key, public_bytes, to_pem
from tests.der import proves
from tests.strategies import hotkeys

ALICE = a_hotkey("alice")
SEED = a_key("alice").private_bytes_raw()
DAY = timedelta(days=1)


def built(
    *,
    valid_for: timedelta = 3650 * DAY,
    now: datetime = NOW,
    names: tuple[x509.GeneralName, ...] = (),
) -> Credentials:
    """Credentials for alice."""
    return build_credentials(
        hotkey=ALICE, private_key=SEED, now=now, valid_for=valid_for, names=names
    )


def test_certificate_has_the_shape_that_callers_rely_on() -> None:
    """Version 3, the address as O and as CN, self-issued, two extensions and no other."""
    certificate = x509.load_pem_x509_certificate(built().certificate_pem)
    assert certificate.version is x509.Version.v3
    assert certificate.issuer == certificate.subject
    assert [(each.oid, each.value) for each in certificate.subject] == [
        (NameOID.ORGANIZATION_NAME, ALICE.address),
        (NameOID.COMMON_NAME, ALICE.address),
    ]
    usage, extended = certificate.extensions
    assert (usage.oid, usage.critical) == (ExtensionOID.KEY_USAGE, True)
    assert (extended.oid, extended.critical) == (ExtensionOID.EXTENDED_KEY_USAGE, False)
    assert isinstance(usage.value, x509.KeyUsage)
    # RFC 8410 §5: what an Ed25519 key can do; and nothing of a CA's.
    allowed = {name.lstrip("_") for name, value in vars(usage.value).items() if value is True}
    assert allowed == {"digital_signature"}
    assert isinstance(extended.value, x509.ExtendedKeyUsage)
    assert list(extended.value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    ]
    assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == NOW + 3650 * DAY


def test_names_are_one_extension_more() -> None:
    """Not critical, since there is a subject (RFC 5280 §4.2.1.6); the rest stays as it is."""
    names = parse_names("miner.example.com,192.0.2.7")
    certificate = x509.load_pem_x509_certificate(built(names=names).certificate_pem)
    plain = x509.load_pem_x509_certificate(built().certificate_pem)
    *others, alternative = certificate.extensions
    assert others == list(plain.extensions)
    assert (alternative.value, alternative.critical) == (
        x509.SubjectAlternativeName(names),
        False,
    )
    assert certificate.subject == plain.subject


_LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
_NAMES = st.lists(
    st.lists(_LABELS, min_size=1, max_size=4).map(".".join)
    | st.lists(_LABELS, min_size=2, max_size=4).map(lambda labels: "*." + ".".join(labels))
    | st.ip_addresses().map(str),
    max_size=MAX_NAMES,
    unique=True,
).map(",".join)


@given(hotkey=hotkeys, seed=st.binary(min_size=32, max_size=32), text=_NAMES)
@example(hotkey=ALICE, seed=SEED, text="")
def test_whoever_it_is_for_every_reader_finds_the_same(
    hotkey: Hotkey, seed: bytes, text: str
) -> None:
    """One O, the hotkey; the key; the names: read by us and by the tests' own reader of DER."""
    names = parse_names(text)
    credentials = build_credentials(
        hotkey=hotkey, private_key=seed, now=NOW, valid_for=DAY, names=names
    )
    certificate, raw = credentials.certificate, parse_pem(credentials.certificate_pem)
    assert certificate.hotkey == hotkey
    assert certificate.is_self_signed()
    assert not certificate.usage_problem
    assert names_of(credentials.certificate_pem) == names
    assert proves(
        raw,
        address=hotkey.address,
        key=certificate.public_key,
        now=NOW,
        leeway=timedelta(),
    )


def test_certificate_with_the_most_names_fits_into_a_header() -> None:
    """8 KiB is what servers take for one header by default, percent-encoded as nginx sends it."""
    labels = ["a" * 63, "b" * 63, "c" * 63]
    text = ",".join(".".join([*labels, "d" * 58 + f"{number:03}"]) for number in range(MAX_NAMES))
    credentials = built(names=parse_names(text))
    assert len(quote(credentials.certificate_pem, safe="")) < 8 * 1024


def test_serial_number_is_random_unless_given() -> None:
    """Positive, at most 20 bytes (RFC 5280 §4.1.2.2), never the same twice."""
    serials = {
        x509.load_pem_x509_certificate(built().certificate_pem).serial_number for _ in range(20)
    }
    assert len(serials) == 20
    assert all(0 < serial < 2**159 for serial in serials)
    fixed = build_credentials(
        hotkey=ALICE, private_key=SEED, now=NOW, valid_for=DAY, serial_number=7
    )
    assert x509.load_pem_x509_certificate(fixed.certificate_pem).serial_number == 7


def test_same_inputs_give_the_same_bytes() -> None:
    """Nothing but the serial number is random."""
    pair = [
        build_credentials(hotkey=ALICE, private_key=SEED, now=NOW, valid_for=DAY, serial_number=1)
        for _ in range(2)
    ]
    assert pair[0].certificate_pem == pair[1].certificate_pem
    assert pair[0].key_pem == pair[1].key_pem


def test_result_passes_our_own_checks() -> None:
    """It is alice's, signed by its own key, and may authenticate a client."""
    certificate = ClientCertificate.from_pem(built().certificate_pem)
    assert certificate.hotkey == ALICE
    assert certificate.public_key == public_bytes(a_key("alice"))
    assert certificate.is_self_signed()
    assert not certificate.usage_problem


def test_private_key_is_pkcs8() -> None:
    """In the form that every TLS library reads."""
    credentials = built()
    assert credentials.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert parse_private_key(credentials.key_pem).private_bytes_raw() == SEED


def test_pair_works_in_a_tls_library(tmp_path: Path) -> None:
    """OpenSSL takes both files, and checks that they belong together."""
    credentials = built(now=datetime.now(UTC))
    (tmp_path / "key").write_bytes(credentials.key_pem)
    (tmp_path / "crt").write_bytes(credentials.certificate_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")


def test_pair_serves_both_sides_of_a_mutual_handshake(tmp_path: Path) -> None:
    """A neuron shows it when it calls and when it is called; each side verifies the other.

    The certificate is its own trust anchor, and the client checks the name of the server.
    """
    credentials = built(now=datetime.now(UTC), names=parse_names("miner.example.com"))
    (tmp_path / "both").write_bytes(credentials.key_pem + credentials.certificate_pem)
    sides = []
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(protocol)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
        context.load_cert_chain(tmp_path / "both")
        context.load_verify_locations(cadata=credentials.certificate_pem.decode())
        sides.append(context)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = sides[0].wrap_bio(to_client, to_server, server_hostname="miner.example.com")
    server = sides[1].wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert client.version() == "TLSv1.3"
    for side in (client, server):
        shown = side.getpeercert(binary_form=True)
        assert shown is not None
        assert ClientCertificate.from_der(shown).hotkey == ALICE


@pytest.mark.parametrize(
    "valid_for", [timedelta(), -DAY, timedelta.max, LAST_MOMENT - NOW + timedelta(seconds=1)]
)
def test_impossible_time_span_is_refused(valid_for: timedelta) -> None:
    """Neither nothing nor beyond the year 9999."""
    with pytest.raises(ValueError, match=r"valid"):
        built(valid_for=valid_for)


@pytest.mark.parametrize("valid_for", [timedelta(seconds=1), LAST_MOMENT - NOW])
def test_shortest_and_longest_time_span_are_fine(valid_for: timedelta) -> None:
    """Both ends are written exactly."""
    assert built(valid_for=valid_for).certificate.not_after == NOW + valid_for


def test_pair_is_read_back() -> None:
    """What was built can be read again."""
    credentials = built()
    again = Credentials.from_pem(
        key_pem=credentials.key_pem, certificate_pem=credentials.certificate_pem
    )
    assert again.certificate.fingerprint == credentials.certificate.fingerprint


def test_halves_of_different_pairs_are_refused() -> None:
    """A new key with an old certificate works nowhere."""
    with pytest.raises(CredentialsError, match=r"not that of the certificate"):
        Credentials.from_pem(
            key_pem=built().key_pem, certificate_pem=to_pem(a_certificate(key=a_key("bob")))
        )


def an_encrypted_key() -> bytes:
    """A key that needs a password."""
    return a_key("alice").private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )


def another_kind_of_key() -> bytes:
    """A key of another algorithm."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


@pytest.mark.parametrize(
    "pem", [b"", b"nonsense", built().key_pem[:-40], an_encrypted_key(), another_kind_of_key()]
)
def test_what_is_no_such_key_is_refused(pem: bytes) -> None:
    """Without a trace of its bytes, even in the frames of the error."""
    with pytest.raises(CredentialsError) as caught:
        parse_private_key(pem)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("pem", [b"", b"nonsense", built().certificate_pem * 2])
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    """With the reason."""
    with pytest.raises(CredentialsError, match=r"certificate"):
        Credentials.from_pem(key_pem=built().key_pem, certificate_pem=pem)


def test_private_key_does_not_show() -> None:
    """Not in repr, not in the message of a mismatch."""
    credentials = built()
    secret = credentials.key_pem.splitlines()[1].decode()
    assert secret not in f"{credentials} {credentials!r}"
    assert "_pem" not in repr(credentials)
    with pytest.raises(CredentialsError) as caught:
        Credentials.from_pem(key_pem=credentials.key_pem, certificate_pem=b"")
    assert secret not in "".join(traceback.format_exception(caught.value))
