from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from nexus_auth.domain.errors import CredentialsError
from nexus_auth.entrypoints.certificate_input import load_certificate
from tests.builders import a_certificate, to_pem


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
