from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.evaluate import evaluate_alone
from nexus_auth.entrypoints.demo.certificates import (
    a_hotkey,
    public_key_pin,
    save_self_made,
    save_server_pair,
)


def test_self_made_pair_is_sound_but_for_the_registration(tmp_path: Path) -> None:
    """The service denies it because it is not registered, and for nothing else."""
    pair = save_self_made(tmp_path / "stranger", hotkey=a_hotkey("stranger"))
    certificate = ClientCertificate.from_pem(pair.certificate_path.read_bytes())
    assert certificate.hotkey == a_hotkey("stranger")
    assert certificate.is_self_signed()
    assert evaluate_alone(certificate, datetime.now(UTC)) is None
    assert stat.S_IMODE(pair.key_path.stat().st_mode) == 0o600


def test_server_pair_names_this_machine(tmp_path: Path) -> None:
    """Some proxies do not serve a certificate without a name."""
    pair = save_server_pair(tmp_path / "server")
    certificate = x509.load_pem_x509_certificate(pair.certificate_path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert public_key_pin(pair).startswith("sha256//")


def test_each_name_has_a_hotkey_of_its_own() -> None:
    """The same name is the same hotkey; another name is another."""
    assert a_hotkey("miner") == a_hotkey("miner")
    assert a_hotkey("miner") != a_hotkey("validator")
