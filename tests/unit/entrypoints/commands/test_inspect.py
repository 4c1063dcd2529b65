from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.cli import main
from tests.builders import a_certificate, a_hotkey, a_key, to_der, to_pem

_NOW = datetime.now(UTC)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate that is valid today."""
    path = tmp_path / "client.crt"
    path.write_bytes(to_pem(a_certificate(not_before=_NOW, not_after=_NOW + timedelta(days=10.5))))
    return path


def test_certificate_is_shown_to_people(
    certificate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fact has its line, and the last one is the verdict."""
    assert main(["inspect", str(certificate)]) == exit_codes.DONE
    lines = capsys.readouterr().out.splitlines()
    labels = [line[:12].strip() for line in lines[:9]]
    assert labels == [
        "subject",
        "issuer",
        "names",
        "hotkey",
        "public key",
        "valid",
        "usage",
        "signature",
        "fingerprint",
    ]
    assert a_hotkey().address in lines[3]
    assert lines[5].endswith("(10 days left)")
    assert lines[-1].startswith("nothing speaks against it")
    assert lines[-1].endswith("the registered key and the access policy")


def test_certificate_is_shown_to_programs(
    certificate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json` gives the same facts."""
    assert main(["inspect", "--json", str(certificate)]) == exit_codes.DONE
    shown = json.loads(capsys.readouterr().out)
    assert shown["hotkey"] == a_hotkey().address
    assert shown["days_left"] == 10
    assert shown["self_signed"] is True
    assert shown["refusal"] is None


def test_certificate_that_would_be_denied_is_still_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looking at a bad certificate is what the command is for, so it has done its job."""
    path = tmp_path / "client.der"
    path.write_bytes(
        to_der(
            a_certificate(
                signed_by=a_key("mallory"), not_before=_NOW, not_after=_NOW + timedelta(1)
            )
        )
    )
    assert main(["inspect", str(path)]) == exit_codes.DONE
    out = capsys.readouterr().out
    assert "NOT made with the certificate's own key" in out
    assert "would be denied: bad-signature" in out


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_is_no_certificate_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    """There was nothing to show: exit 1, and the reason that the decision would give."""
    path = tmp_path / "client.crt"
    path.write_bytes(b"\x1b[2Jhello")
    assert main(["inspect", *flags, str(path)]) == exit_codes.FAILED
    out = capsys.readouterr().out
    assert "malformed-certificate" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("data", [to_pem(a_certificate()) * 2, to_der(a_certificate()) * 2])
def test_two_certificates_in_one_file_are_named_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    """A chain, or the wrong file: which of them was meant cannot be known."""
    path = tmp_path / "both.crt"
    path.write_bytes(data)
    assert main(["inspect", str(path)]) == exit_codes.FAILED
    assert "malformed-certificate (more than one certificate)" in capsys.readouterr().out


def test_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hostile file name is shown harmless."""
    assert main(["inspect", str(tmp_path / "\x1b[31mno")]) == exit_codes.FAILED
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "No such file" in err
