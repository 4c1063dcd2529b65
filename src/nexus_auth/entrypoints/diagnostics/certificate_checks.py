"""Checks the key pair on disk: whether it is whole, valid, and the one on chain."""

from __future__ import annotations

import shlex
import stat
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from nexus_auth.adapters.credentials.directory import (
    CERTIFICATE_NAME,
    KEY_NAME,
    PENDING_KEY_NAME,
    CredentialsDirectory,
    CredentialsUnusable,
)
from nexus_auth.adapters.files import load_bytes
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.errors import CertificateRejected, CredentialsError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import parse_private_key
from nexus_auth.entrypoints.description import judge_offline
from nexus_auth.entrypoints.diagnostics.findings import Finding, Outcome

_SUBJECT: Final = "certificate"
_SOON_DAYS: Final = 30
_MAX_FILE_BYTES: Final = 64 * 1024


def check_pair(
    folder: Path, now: datetime, leeway: timedelta
) -> tuple[list[Finding], ClientCertificate | None]:
    """Looks at `client.key` and `client.crt`, offline.

    Args:
        folder: Where they are.
        now: The time to judge the validity by (aware, UTC).
        leeway: By how much the validity may begin later than now.

    Returns:
        What was found, and the certificate; None where there is no readable one.
    """
    path = folder / CERTIFICATE_NAME
    try:
        certificate = ClientCertificate.from_pem(load_bytes(path, _MAX_FILE_BYTES))
    except (OSError, CertificateRejected) as exc:
        problem = exc.strerror if isinstance(exc, OSError) else exc
        if isinstance(exc, FileNotFoundError):
            # Beside a key, generate without -reuse-key would fail; with a pending one, alone.
            has_key, is_pending = (folder / KEY_NAME).exists(), (folder / PENDING_KEY_NAME).exists()
            how = "-reuse-key" if has_key else "-local" if is_pending else ""
            next_step = _generate(folder, how) + " makes one"
        elif isinstance(exc, OSError):
            next_step = "let there be a file that you can read"
        else:
            next_step = _reissue(folder)
        text = f"{str(path)!r}: {problem}"
        wrong = Finding(_SUBJECT, Outcome.WRONG, text, next_step)
        return [wrong, *_check_earlier_runs(folder)], None
    days = (certificate.not_after - now).days
    # Nothing is wrong with the key: the chain, and other machines with this key, are left alone.
    renew = _generate(folder, "-reuse-key", certificate.hotkey) + " makes another around its key"
    text = f"{certificate.hotkey}, {days} days left"
    denial = judge_offline(certificate, now, leeway)
    if denial is not None:
        text = f"{denial.reason.value}: {denial.detail}"
        validity = Finding(_SUBJECT, Outcome.WRONG, text, renew)
    elif days < _SOON_DAYS:
        validity = Finding(_SUBJECT, Outcome.WARNING, text, renew)
    else:
        validity = Finding(_SUBJECT, Outcome.OK, text)
    findings = [validity, _check_key(folder, certificate)]
    return findings + _check_earlier_runs(folder, certificate.hotkey), certificate


def _check_earlier_runs(folder: Path, hotkey: Hotkey | None = None) -> list[Finding]:
    """What interrupted runs of `generate` left: a pair, a request without an answer, a key."""
    directory = CredentialsDirectory(folder)
    try:
        findings = _check_pending(directory)
        if directory.has_unfinished_work():
            text = "an interrupted run left a newer pair, which is not in its place"
            next_step = _generate(folder, "", hotkey) + " finishes it"
        elif (at := directory.requested_at()) is not None:
            text = f"a run asked Pylon for a key pair at {at:%Y-%m-%d %H:%M:%S} UTC, and ended "
            text += "without the answer: the key on chain may be another one"
            next_step = _generate(folder, "", hotkey) + " looks, and says what to do"
        else:
            return findings
    except CredentialsUnusable as exc:
        findings, text, next_step = [], str(exc), "let it be readable"
    return [*findings, Finding("earlier runs", Outcome.WARNING, text, next_step)]


def _check_pending(directory: CredentialsDirectory) -> list[Finding]:
    pending = directory.pending_key()
    if pending is None:
        return []
    text = (
        f"{str(directory.pending_key_path)!r}, made here at {pending.made_at:%Y-%m-%d %H:%M:%S} "
        f"UTC for {pending.hotkey}, is not in its place yet; its public half is "
        f"{pending.public_key.hex()}"
    )
    next_step = _generate(directory.path, "-local", pending.hotkey) + " goes on with it"
    return [Finding("pending key", Outcome.WARNING, text, next_step)]


def _generate(folder: Path, how: str, hotkey: Hotkey | None = None) -> str:
    """The command that writes into this folder; its hotkey is known where a certificate is."""
    address = "ADDR" if hotkey is None else hotkey.address
    return (
        f"nexus-auth generate -ss58-address {address} -output-dir {shlex.quote(str(folder))} {how}"
    ).rstrip()


def _reissue(folder: Path) -> str:
    return _generate(folder, "-force-recreate") + " replaces the pair"


def _check_key(folder: Path, certificate: ClientCertificate) -> Finding:
    path, outcome, next_step = folder / KEY_NAME, Outcome.WRONG, _reissue(folder)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = parse_private_key(load_bytes(path, _MAX_FILE_BYTES))
    except OSError as exc:
        text = f"{str(path)!r}: {exc.strerror}"
        next_step = f"without it the certificate cannot be used; {next_step}"
    except CredentialsError as exc:
        text = f"{str(path)!r}: {exc}"
    else:
        if key.public_key().public_bytes_raw() != certificate.public_key:
            text = f"{str(path)!r} is not the key of the certificate beside it"
        elif mode & (stat.S_IRWXG | stat.S_IRWXO):
            text = f"{str(path)!r} can be read by others (mode {mode:04o})"
            outcome, next_step = Outcome.WARNING, f"chmod 600 {shlex.quote(str(path))}"
        else:
            text, outcome, next_step = "belongs to the certificate", Outcome.OK, ""
    return Finding("private key", outcome, text, next_step)


def check_published(
    folder: Path, certificate: ClientCertificate, published: bytes | None
) -> Finding:
    """Says whether the key on chain is that of the certificate in a folder.

    `published` is what the chain has for its hotkey; None where it has no key.
    """
    if published == certificate.public_key:
        return Finding("on chain", Outcome.OK, "the chain has this key")
    pending, replace = None, _reissue(folder)
    with suppress(CredentialsUnusable):  # which is among the findings already
        pending = CredentialsDirectory(folder).pending_key()
    if pending is not None:
        replace = _generate(folder, "-local", pending.hotkey) + " has the pending key published"
    if published is None:
        text = "the chain has no key of this hotkey; its owner is refused everywhere"
        question = "" if pending else "is it the hotkey that you mean? "
        next_step = question + replace
    elif pending is not None and published == pending.public_key:
        text = f"the chain has another key of this hotkey: that of {PENDING_KEY_NAME}"
        next_step = _generate(folder, "-local", pending.hotkey) + " puts it in its place"
    else:
        text = "the chain has another key of this hotkey" + (" than both" if pending else "")
        next_step = (
            "did another machine or a later run make one? Then use that pair. bt-ddos-shield puts "
            f"its own key back, in the same slot: share one key (docs/issuing.md). Else {replace}"
        )
    return Finding("on chain", Outcome.WRONG, text, next_step)
