from __future__ import annotations

import io
import json
import os
import sys
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

import hypothesis.strategies as st
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given

from nexus_auth.domain.errors import CertificateRejected, CredentialsError
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints.description import build_description, load_certificate
from tests.builders import (
    NOW,
    a_certificate,
    a_hotkey,
    a_key,
    organization,
    public_bytes,
    to_der,
    to_pem,
)


def _over(**ago: float) -> x509.Certificate:
    return a_certificate(not_before=NOW - timedelta(days=100), not_after=NOW - timedelta(**ago))


def test_certificate_is_described_from_pem_and_der_alike() -> None:
    """The encoding makes no difference to what is shown."""
    certificate = a_certificate()
    described = build_description(to_pem(certificate), NOW)
    assert described == build_description(to_der(certificate), NOW)
    shown = described.document
    assert shown["hotkey"] == a_hotkey().address
    assert shown["public_key"] == {"algorithm": "Ed25519", "hex": public_bytes(a_key()).hex()}
    assert shown["usage"] == ["digitalSignature", "clientAuth", "serverAuth"]
    assert shown["self_signed"]
    assert shown["days_left"] == 365
    assert described.denial is None


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (_over(days=1), DenialReason.EXPIRED),
        (a_certificate(not_before=NOW + timedelta(days=1)), DenialReason.NOT_YET_VALID),
        (a_certificate(key=ec.generate_private_key(ec.SECP256R1())), DenialReason.UNSUPPORTED_KEY),
        (a_certificate(signed_by=a_key("mallory")), DenialReason.BAD_SIGNATURE),
        (
            a_certificate(extensions=[(x509.BasicConstraints(ca=True, path_length=None), True)]),
            DenialReason.WRONG_USAGE,
        ),
        (a_certificate(subject=x509.Name([])), DenialReason.NO_ORGANIZATION),
        (a_certificate(subject=x509.Name([organization("acme")])), DenialReason.INVALID_HOTKEY),
    ],
    ids=str,
)
def test_what_the_decision_would_refuse_is_shown_with_its_reason(
    certificate: x509.Certificate, reason: DenialReason
) -> None:
    """Every check that needs no registry has its say, and the rest is shown all the same."""
    described = build_description(to_der(certificate), NOW)
    assert described.denial is not None
    assert described.denial.reason is reason
    assert described.document["fingerprint_sha256"]
    assert described.lines


@pytest.mark.parametrize(
    "data", [b"\x30\x00", b"garbage", to_pem(a_certificate()) * 2, b"0" * 20_000]
)
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    """There is nothing to show then."""
    with pytest.raises(CertificateRejected, match="malformed-certificate"):
        build_description(data, NOW)


@given(st.binary())
def test_any_bytes_are_described_or_refused(data: bytes) -> None:
    """No other exception escapes, whatever the bytes."""
    for presented in (data, b"\x30" + data):
        with pytest.raises(CertificateRejected):
            build_description(presented, NOW)


def test_end_of_a_certificate_counts_to_the_second() -> None:
    """As in the decision; `status` and `doctor` judge by the same."""
    certificate = a_certificate()
    end = certificate.not_valid_after_utc
    for now, is_over in ((end, False), (end + timedelta(seconds=1), True)):
        described = build_description(to_der(certificate), now)
        assert (described.denial is not None) is is_over
        assert any("over for 0 days" in line for line in described.lines) is is_over


@given(st.data())
def test_damaged_certificate_is_described_or_refused(data: st.DataObject) -> None:
    """No damage makes it raise anything but the refusal, or show anything but plain text."""
    der = bytearray(to_der(a_certificate()))
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(1, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        described = build_description(bytes(der), NOW)
    except CertificateRejected:
        return
    assert all(line.isascii() and line.isprintable() for line in described.lines)
    json.dumps(described.document)


@given(st.text(min_size=1, max_size=64).filter(lambda text: text.isprintable() or "\0" not in text))
def test_hostile_subject_is_shown_harmless(text: str) -> None:
    """Control characters, escape sequences and look-alikes cannot reach the terminal."""
    try:
        name = x509.Name([organization(text), x509.NameAttribute(NameOID.COMMON_NAME, text)])
        der = to_der(a_certificate(subject=name))
    except (ValueError, UnicodeEncodeError):
        return  # cannot be put into a certificate by this builder
    lines = build_description(der, NOW).lines
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_names_are_shown_harmless() -> None:
    """Whatever a maker wrote there; programs get them as they are."""
    hostile = x509.DNSName("a\x1b[2J, b")
    names = [hostile, x509.DNSName("m.example"), x509.IPAddress(IPv4Address("192.0.2.7"))]
    certificate = a_certificate(extensions=[(x509.SubjectAlternativeName(names), False)])
    described = build_description(to_der(certificate), NOW)
    assert described.document["names"] == ["a\x1b[2J, b", "m.example", "192.0.2.7"]
    assert "names        'a\\x1b[2J, b', m.example, 192.0.2.7" in described.lines
    plain = build_description(to_der(a_certificate()), NOW)
    assert plain.document["names"] == []
    assert "names        none beside the subject" in plain.lines


def test_value_cannot_pass_for_another_attribute() -> None:
    """A comma and an equals sign inside a value are quoted."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"x, O={a_hotkey().address}")])
    described = build_description(to_der(a_certificate(subject=name)), NOW)
    assert described.lines[0] == f"subject      CN='x, O={a_hotkey().address}'"
    assert described.document["hotkey"] is None


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        (a_certificate(not_after=NOW + timedelta(days=10)), "(10 days left)"),
        (_over(hours=30), "(over for 1 day)"),
        (a_certificate(not_before=NOW + timedelta(days=1)), "(not yet)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_validity_says_how_long(certificate: x509.Certificate, expected: str) -> None:
    """The end of validity is told in days, before and after."""
    lines = build_description(to_der(certificate), NOW).lines
    assert any(line.startswith("valid ") and line.endswith(expected) for line in lines)


def test_certificate_is_read_from_a_file_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-` means standard input."""
    path = tmp_path / "client.crt"
    path.write_bytes(to_pem(a_certificate()))
    assert load_certificate(str(path)) == path.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert load_certificate("-") == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"x" * 100_000, "longer than"),
        (b"-----BEGIN PRIVATE KEY-----\nMC4CAQ", "private key"),
        (to_pem(a_certificate()) + b"-----BEGIN ED25519 PRIVATE KEY-----\n", "private key"),
    ],
    ids=["empty", "blank", "long", "key", "certificate-and-key"],
)
def test_what_is_clearly_no_certificate_is_refused(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    """The message says what it is; a private key is never echoed."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CredentialsError, match=expected) as caught:
        load_certificate(str(path))
    assert "MC4CAQ" not in str(caught.value)


def test_pipe_is_read_from_its_writer_and_waits_for_none(tmp_path: Path) -> None:
    """`inspect <(openssl x509 ...)` works, and a pipe that lies about holds nobody up."""
    certificate = to_pem(a_certificate())
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb") as pipe:  # noqa: PTH123 - descriptors
        pipe.write(certificate)
        pipe.close()
        assert load_certificate(f"/dev/fd/{reader}") == certificate
    path = tmp_path / "client.crt"
    os.mkfifo(path)
    with pytest.raises(CredentialsError, match="it is empty"):
        load_certificate(str(path))


@pytest.mark.parametrize("name", ["missing", "."])
def test_unreadable_file_is_one_clear_error(tmp_path: Path, name: str) -> None:
    """A missing file and a directory are named, with the system's reason."""
    with pytest.raises(CredentialsError, match=r"No such file|Is a directory"):
        load_certificate(str(tmp_path / name))
