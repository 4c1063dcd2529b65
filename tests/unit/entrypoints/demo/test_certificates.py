from __future__ import annotations

import base64
import hashlib
import stat
from datetime import UTC, datetime
from pathlib import Path

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.evaluate import evaluate_alone
from nexus_auth.entrypoints.demo.certificates import (
    a_hotkey,
    public_key_pin,
    save_self_made,
)


def test_self_made_pair_is_sound_but_for_the_registration(tmp_path: Path) -> None:
    """The service denies it because it is not registered, and for nothing else."""
    pair = save_self_made(tmp_path / "stranger", hotkey=a_hotkey("stranger"))
    certificate = ClientCertificate.from_pem(pair.certificate_path.read_bytes())
    assert certificate.hotkey == a_hotkey("stranger")
    assert certificate.is_self_signed()
    assert evaluate_alone(certificate, datetime.now(UTC)) is None
    assert stat.S_IMODE(pair.key_path.stat().st_mode) == 0o600


def test_pin_is_that_of_the_key(tmp_path: Path) -> None:
    """As curl takes it: SHA-256 over the whole SubjectPublicKeyInfo (RFC 7469 §2.4)."""
    pair = save_self_made(tmp_path / "miner", hotkey=a_hotkey("miner"))
    key = ClientCertificate.from_pem(pair.certificate_path.read_bytes()).public_key
    info = bytes.fromhex("302a300506032b6570032100") + key
    pin = base64.b64encode(hashlib.sha256(info).digest()).decode()
    assert public_key_pin(pair) == f"sha256//{pin}"


def test_each_name_has_a_hotkey_of_its_own() -> None:
    """The same name is the same hotkey; another name is another."""
    assert a_hotkey("miner") == a_hotkey("miner")
    assert a_hotkey("miner") != a_hotkey("validator")
