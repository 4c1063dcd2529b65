"""Is the key pair on disk whole, valid, and what the chain has?"""

from __future__ import annotations

import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.credentials.directory import CERTIFICATE_NAME, KEY_NAME
from nexus_auth.adapters.files import load_bytes
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.errors import CertificateRejected, CredentialsError
from nexus_auth.domain.evaluate import evaluate_alone
from nexus_auth.domain.issuing import parse_private_key
from nexus_auth.entrypoints.diagnostics.findings import Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from nexus_auth.domain.hotkey import Hotkey

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
    """Looks at `client.key` and `client.crt`, without asking anybody."""
    path = folder / CERTIFICATE_NAME
    try:
        certificate = ClientCertificate.from_pem(load_bytes(path, _MAX_FILE_BYTES))
    except FileNotFoundError as exc:
        # Where the key is there, generate alone would refuse.
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
    refused = evaluate_alone(certificate, now, leeway=leeway)
    if refused is not None:
        validity = _wrong(f"{refused.reason.value}: {refused.detail}", renew)
    elif not certificate.is_self_signed():
        validity = _wrong("bad-signature: not signed with its own key", renew)
    elif days < _SOON_DAYS:
        validity = Finding(
            subject=_SUBJECT,
            outcome=Outcome.WARNING,
            text=f"{certificate.hotkey}, {days} days left",
            next_step=renew,
        )
    else:
        validity = Finding(
            subject=_SUBJECT, outcome=Outcome.OK, text=f"{certificate.hotkey}, {days} days left"
        )
    return PairCheck(findings=(validity, _check_key(folder, certificate)), certificate=certificate)


def _generate(folder: Path, how: str, hotkey: Hotkey | None = None) -> str:
    """The command that writes into this folder; whose it is to be only a certificate can say."""
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
        return Finding(
            subject=subject,
            outcome=Outcome.WRONG,
            text=f"{str(path)!r}: {exc.strerror}",
            next_step="without it the certificate cannot be used; " + _reissue(folder),
        )
    except CredentialsError as exc:
        return Finding(
            subject=subject,
            outcome=Outcome.WRONG,
            text=f"{str(path)!r}: {exc}",
            next_step=_reissue(folder),
        )
    if key.public_key().public_bytes_raw() != certificate.public_key:
        return Finding(
            subject=subject,
            outcome=Outcome.WRONG,
            text=f"{str(path)!r} is not the key of the certificate beside it",
            next_step=_reissue(folder),
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding(
            subject=subject,
            outcome=Outcome.WARNING,
            text=f"{str(path)!r} can be read by others (mode {mode:04o})",
            next_step=f"chmod 600 {shlex.quote(str(path))}",
        )
    return Finding(subject=subject, outcome=Outcome.OK, text="belongs to the certificate")


def check_published(
    folder: Path, certificate: ClientCertificate, keys: Mapping[Hotkey, bytes]
) -> Finding:
    """Says whether the chain has the key of the certificate that is in a folder."""
    subject = "on chain"
    published = keys.get(certificate.hotkey)
    if published == certificate.public_key:
        return Finding(subject=subject, outcome=Outcome.OK, text="the chain has this key")
    if published is None:
        return Finding(
            subject=subject,
            outcome=Outcome.WRONG,
            text="the chain has no key of this hotkey; its owner is refused everywhere",
            next_step="is it the hotkey of your Pylon identity? " + _reissue(folder),
        )
    return Finding(
        subject=subject,
        outcome=Outcome.WRONG,
        text="the chain has another key of this hotkey",
        next_step="use the newer pair, or make one: " + _reissue(folder),
    )


def _no_certificate(text: str, next_step: str) -> PairCheck:
    return PairCheck(findings=(_wrong(text, next_step),), certificate=None)


def _wrong(text: str, next_step: str) -> Finding:
    return Finding(subject=_SUBJECT, outcome=Outcome.WRONG, text=text, next_step=next_step)
