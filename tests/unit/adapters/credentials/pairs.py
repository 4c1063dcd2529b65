"""Pairs for tests of the credentials directory."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.domain.issuing import Credentials, build_credentials
from tests.builders import NOW, a_hotkey, a_key


def a_pair(name: str) -> Credentials:
    """Credentials for alice around the key that goes with a name."""
    return build_credentials(
        hotkey=a_hotkey("alice"),
        private_key=a_key(name).private_bytes_raw(),
        now=NOW,
        valid_for=timedelta(days=365),
        serial_number=7,
    )


def save(
    path: Path, pair: Credentials, *, will_notify: bool = False, is_requested: bool = False
) -> CredentialsDirectory:
    """Saves a pair the regular way; after a request for it, where it was requested."""
    with CredentialsDirectory(path, will_notify=will_notify).opened_for_writing() as directory:
        directory.finish_interrupted_work()
        with directory.reserved() as reservation:
            if is_requested:
                reservation.note_request()
            reservation.save(pair)
    return directory
