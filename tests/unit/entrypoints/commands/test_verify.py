from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from nexus_auth.adapters.pylon.api import PylonUnreachable
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.cli import main
from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_der, to_pem

_NOW = datetime.now(UTC)


class _Chain:
    """What Pylon answers, and what it was asked."""

    def __init__(self) -> None:
        self.keys: dict[Hotkey, bytes] = {}
        self.reachable = True
        self.asked: list[Hotkey] = []

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        self.asked.append(hotkey)
        if not self.reachable:
            raise PylonUnreachable("Pylon is away")
        return self.keys.get(hotkey)


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Chain:
    """A chain on which alice has her key; nothing is sent anywhere."""
    monkeypatch.chdir(tmp_path)
    chain = _Chain()
    chain.keys[a_hotkey()] = public_bytes(a_key())
    monkeypatch.setattr(PylonClient, "fetch_key", lambda _, hotkey: chain.fetch_key(hotkey))
    return chain


def _saved(path: Path, certificate: x509.Certificate | None = None) -> str:
    path = path / "client.crt"
    path.write_bytes(to_pem(certificate or _valid()))
    return str(path)


def _valid(**changes: object) -> x509.Certificate:
    return a_certificate(not_before=_NOW, not_after=_NOW + timedelta(days=1), **changes)  # type: ignore[arg-type]


def test_registered_certificate_is_granted(
    chain: _Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 0, and the last line names who it is."""
    assert main(["verify", _saved(tmp_path)]) == exit_codes.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"granted: {a_hotkey()}"
    assert f"registered   Ed25519 {public_bytes(a_key()).hex()}" in lines
    assert chain.asked == [a_hotkey()]


@pytest.mark.parametrize(
    ("registered", "expected"),
    [
        (None, "denied: not-registered (the hotkey is not registered)"),
        (public_bytes(a_key("mallory")), "denied: key-mismatch (another key is registered)"),
    ],
    ids=["unknown", "another-key"],
)
def test_unregistered_certificate_is_denied(
    chain: _Chain,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    registered: bytes | None,
    expected: str,
) -> None:
    """Exit 1, the code, and the key that is registered instead."""
    chain.keys.clear()
    if registered is not None:
        chain.keys[a_hotkey()] = registered
    assert main(["verify", _saved(tmp_path)]) == exit_codes.FAILED
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == expected
    assert (registered is None) or registered.hex() in out


def test_key_that_nobody_can_hold_is_no_registration(
    chain: _Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key of small order on chain grants nothing; that is Pylon's nonsense, not a denial."""
    chain.keys[a_hotkey()] = b"\x01" + bytes(31)
    assert main(["verify", _saved(tmp_path)]) == exit_codes.UNREACHABLE
    assert "cannot be used" in capsys.readouterr().out


def test_unreachable_pylon_is_no_denial(
    chain: _Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3: nothing is known, which a script can tell from a no."""
    chain.reachable = False
    assert main(["verify", _saved(tmp_path)]) == exit_codes.UNREACHABLE
    assert capsys.readouterr().out.splitlines()[-1] == "undecided: Pylon is away"


def test_pylon_is_not_asked_in_vain(
    chain: _Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is refused without the registry costs no request."""
    expired = a_certificate(not_before=_NOW - timedelta(days=9), not_after=_NOW - timedelta(days=1))
    assert main(["verify", _saved(tmp_path, expired)]) == exit_codes.FAILED
    assert capsys.readouterr().out.splitlines()[-1].startswith("denied: expired")
    assert chain.asked == []


@pytest.mark.parametrize("data", [to_pem(a_certificate()) * 2, to_der(a_certificate()) * 2])
def test_two_certificates_in_one_file_are_named_as_such(
    chain: _Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    """A chain, or the wrong file: which of them was meant cannot be known."""
    path = tmp_path / "both.crt"
    path.write_bytes(data)
    assert main(["verify", str(path)]) == exit_codes.FAILED
    assert "malformed-certificate (more than one certificate)" in capsys.readouterr().out


def test_what_is_no_certificate_is_denied(
    chain: _Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to describe then, but a decision all the same."""
    path = tmp_path / "client.crt"
    path.write_text("hello")
    assert main(["verify", str(path)]) == exit_codes.FAILED
    assert capsys.readouterr().out.startswith("denied: malformed-certificate")


def test_decision_is_told_to_programs(
    chain: _Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json` has the decision, the registered key and the certificate."""
    assert main(["verify", "--json", _saved(tmp_path)]) == exit_codes.DONE
    shown = json.loads(capsys.readouterr().out)
    assert shown["decision"] == "granted"
    assert shown["hotkey"] == a_hotkey().address
    assert shown["registered_public_key"] == public_bytes(a_key()).hex()
    assert shown["certificate"]["self_signed"] is True
    chain.keys.clear()
    assert main(["verify", "--json", _saved(tmp_path)]) == exit_codes.FAILED
    shown = json.loads(capsys.readouterr().out)
    assert (shown["decision"], shown["reason"]) == ("denied", "not-registered")
    chain.reachable = False
    assert main(["verify", "--json", _saved(tmp_path)]) == exit_codes.UNREACHABLE
    assert json.loads(capsys.readouterr().out)["decision"] == "undecided"


def test_wrong_setting_is_wrong_usage(
    chain: _Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, before anything is read or asked."""
    assert main(["verify", "-net-uid", "x", _saved(tmp_path)]) == exit_codes.USAGE
    assert "NEXUS_PYLON_NETUID (from flag -net-uid)" in capsys.readouterr().err
