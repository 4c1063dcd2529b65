"""What is said of a server's certificate that was refused."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from nexus_auth.adapters.server_trust import explain_refusal

PLACES = {"authorities": "THE_FILE", "address": "THE_ADDRESS"}


def a_refusal(code: int, message: str = "no good.") -> ssl.SSLCertVerificationError:
    """An error as a handshake raises it."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (2, "name the file of the authority that signed it in THE_FILE"),
        (18, "name the file of the authority that signed it in THE_FILE"),
        (19, "name the file of the authority that signed it in THE_FILE"),
        (20, "name the file of the authority that signed it in THE_FILE"),
        (21, "name the file of the authority that signed it in THE_FILE"),
        (9, "renew it, or correct the clock that is wrong"),
        (10, "renew it, or correct the clock that is wrong"),
        (62, "name the server in THE_ADDRESS as its certificate does, or give it another one"),
        (64, "name the server in THE_ADDRESS as its certificate does, or give it another one"),
        (66, "give the server another one"),
    ],
)
def test_each_kind_of_refusal_has_its_remedy(
    code: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However deep the error of the handshake is among the causes."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    wrapped = ConnectionError("a library's own")
    wrapped.__context__ = OSError("another's")
    wrapped.__context__.__cause__ = a_refusal(code)
    refusal = explain_refusal(wrapped, **PLACES)
    assert refusal == ("its certificate is refused: no good", remedy)


@pytest.mark.parametrize("exc", [ConnectionError("refused"), ssl.SSLError(1, "wrong version")])
def test_another_failure_is_no_refusal(exc: Exception) -> None:
    """Also where its causes go round in a circle."""
    exc.__context__ = OSError("another")
    exc.__context__.__context__ = exc
    assert explain_refusal(exc, **PLACES) is None


def test_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenSSL passes over it in silence. Its name is shown in ASCII."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authorit\u00e9.pem"))
    refusal = explain_refusal(a_refusal(20), **PLACES)
    assert refusal is not None
    assert refusal.remedy.endswith("authorit\\xe9.pem', which cannot be read")
