"""Checks the key pair on disk: whether it is whole, valid, and the one on chain."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from nexus_auth.adapters.credentials.directory import CERTIFICATE_NAME, KEY_NAME
from nexus_auth.adapters.files import load_bytes
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.errors import CertificateRejected, CredentialsError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import parse_private_key
from nexus_auth.entrypoints.description import judge_offline
from nexus_auth.entrypoints.diagnostics import findings as found
from nexus_auth.entrypoints.diagnostics.findings import Finding

_SUBJECT: Final = "certificate"
_SOON_DAYS: Final = 30
_MAX_FILE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCheck:
    """What was found of a key pair.

    Attributes:
        findings: What was found.
        certificate: The certificate; None when there is no readable one.
    """

    findings: tuple[Finding, ...]
    certificate: ClientCertificate | None


def check_pair(folder: Path, now: datetime, leeway: timedelta) -> PairCheck:
    """Looks at `client.key` and `client.crt`, offline.

    Args:
        folder: Where they are.
        now: The time to judge the validity by (aware, UTC).
        leeway: Tolerance on both ends of the validity.
    """
    path = folder / CERTIFICATE_NAME
    try:
        certificate = ClientCertificate.from_pem(load_bytes(path, _MAX_FILE_BYTES))
    except FileNotFoundError as exc:
        # Beside a key, generate without -reuse-key would fail.
        has_key = (folder / KEY_NAME).exists()
        next_step = _generate(folder, "-reuse-key" if has_key else "") + " makes one"
        return _no_certificate(f"{str(path)!r}: {exc.strerror}", next_step)
    except OSError as exc:
        return _no_certificate(
            f"{str(path)!r}: {exc.strerror}", "let there be a file that you can read"
        )
    except CertificateRejected as exc:
        return _no_certificate(f"{str(path)!r}: {exc}", _reissue(folder))
    days = (certificate.not_after - now).days
    # Nothing is wrong with the key: the chain, and other machines with this key, are left alone.
    renew = _generate(folder, "-reuse-key", certificate.hotkey) + " makes another around its key"
    text = f"{certificate.hotkey}, {days} days left"
    denial = judge_offline(certificate, now, leeway)
    if denial is not None:
        validity = found.wrong(_SUBJECT, f"{denial.reason.value}: {denial.detail}", renew)
    elif days < _SOON_DAYS:
        validity = found.warning(_SUBJECT, text, renew)
    else:
        validity = found.ok(_SUBJECT, text)
    return PairCheck(findings=(validity, _check_key(folder, certificate)), certificate=certificate)


def _no_certificate(text: str, next_step: str) -> PairCheck:
    return PairCheck(findings=(found.wrong(_SUBJECT, text, next_step),), certificate=None)


def _generate(folder: Path, how: str, hotkey: Hotkey | None = None) -> str:
    """The command that writes into this folder; its hotkey is known where a certificate is."""
    address = "ADDR" if hotkey is None else hotkey.address
    return (
        f"nexus-auth generate -ss58-address {address} -output-dir {shlex.quote(str(folder))} {how}"
    ).rstrip()


def _reissue(folder: Path) -> str:
    return _generate(folder, "-force-recreate") + " replaces the pair"


def _check_key(folder: Path, certificate: ClientCertificate) -> Finding:
    subject, path = "private key", folder / KEY_NAME
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = parse_private_key(load_bytes(path, _MAX_FILE_BYTES))
    except OSError as exc:
        next_step = "without it the certificate cannot be used; " + _reissue(folder)
        return found.wrong(subject, f"{str(path)!r}: {exc.strerror}", next_step)
    except CredentialsError as exc:
        return found.wrong(subject, f"{str(path)!r}: {exc}", _reissue(folder))
    if key.public_key().public_bytes_raw() != certificate.public_key:
        text = f"{str(path)!r} is not the key of the certificate beside it"
        return found.wrong(subject, text, _reissue(folder))
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"{str(path)!r} can be read by others (mode {mode:04o})"
        return found.warning(subject, text, f"chmod 600 {shlex.quote(str(path))}")
    return found.ok(subject, "belongs to the certificate")


def check_published(
    folder: Path, certificate: ClientCertificate, keys: Mapping[Hotkey, bytes]
) -> Finding:
    """Says whether the chain has the key of the certificate that is in a folder."""
    subject = "on chain"
    published = keys.get(certificate.hotkey)
    if published == certificate.public_key:
        return found.ok(subject, "the chain has this key")
    if published is None:
        return found.wrong(
            subject,
            "the chain has no key of this hotkey; its owner is refused everywhere",
            "is it the hotkey of your Pylon identity? " + _reissue(folder),
        )
    return found.wrong(
        subject,
        "the chain has another key of this hotkey",
        "use the newer pair, or make one: " + _reissue(folder),
    )
