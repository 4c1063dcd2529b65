"""The caller's pair: loaded whole or not at all, and loaded again when its files change."""

from __future__ import annotations

import os
import shutil
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from nexus_auth.adapters.tls import pair as pair_module
from nexus_auth.adapters.tls.pair import ClientPair
from nexus_auth.domain.errors import CredentialsError
from tests.builders import a_key
from tests.tls_pairs import write_pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pair of the caller."""
    return write_pair(tmp_path / "caller", "caller")


def _client() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def test_stamp_changes_with_each_file_and_stays_otherwise(folder: Path) -> None:
    """Looked at before each handshake; a new file counts, also one of the same time and size."""
    pair = ClientPair(folder)
    seen = [pair.stamp()]
    assert pair.stamp() == seen[0]
    for name in ("client.key", "client.crt"):
        file = folder / name
        entry = file.stat()
        copy = folder / "copy"
        shutil.copy(file, copy)
        os.utime(copy, ns=(entry.st_atime_ns, entry.st_mtime_ns))
        copy.replace(file)
        seen.append(pair.stamp())
        assert pair.stamp() == seen[-1]
        file.unlink()
        seen.append(pair.stamp())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("broken", ["client.key", "client.crt"])
def test_pair_that_is_not_whole_is_an_error_of_ours(folder: Path, broken: str) -> None:
    """And says where; no part of the key is in the text."""
    (folder / broken).unlink()
    with pytest.raises(CredentialsError, match="caller"):
        ClientPair(folder).load_into(_client())


def test_halves_of_two_pairs_are_refused(folder: Path) -> None:
    """OpenSSL would say so too, after it has replaced the certificate."""
    write_pair(folder.parent / "other", "other")
    shutil.copy(folder.parent / "other" / "client.key", folder)
    with pytest.raises(CredentialsError, match="not that of the certificate"):
        ClientPair(folder).load_into(_client())


def test_key_with_a_passphrase_is_refused_without_asking(folder: Path) -> None:
    """A question on the terminal would stop a service for ever."""
    secret = a_key("caller").private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
    )
    (folder / "client.key").write_bytes(secret)
    with pytest.raises(CredentialsError, match="unencrypted") as refused:
        ClientPair(folder).load_into(_client())
    assert secret.split(b"\n")[1].decode() not in str(refused.value)
    with pytest.raises(CredentialsError):
        pair_module._refuse_passphrase()


def test_pair_that_is_being_replaced_is_read_when_it_is_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file is replaced a moment after the first one."""
    new = write_pair(folder.parent / "new", "caller", key="renewed")
    (new / "client.key").replace(folder / "client.key")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        (new / "client.crt").replace(folder / "client.crt")

    monkeypatch.setattr("time.sleep", pause)
    ClientPair(folder).load_into(_client())
    assert len(pauses) == 1


def test_pair_that_is_replaced_while_it_is_loaded_is_loaded_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OpenSSL has read is what was checked."""
    loads: list[Path] = []

    class Context(ssl.SSLContext):
        def load_cert_chain(self, certfile: object, *arguments: object, **named: object) -> None:
            loads.append(folder)
            if len(loads) == 1:
                write_pair(folder, "caller", key="renewed")

    monkeypatch.setattr("time.sleep", lambda _: None)
    ClientPair(folder).load_into(Context(ssl.PROTOCOL_TLS_CLIENT))
    assert len(loads) == 2


def test_pair_that_never_rests_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of tries is bounded."""

    class Context(ssl.SSLContext):
        def load_cert_chain(self, certfile: object, *arguments: object, **named: object) -> None:
            (folder / "client.key").touch()
            os.utime(folder / "client.key", ns=(0, next(times)))

    times = iter(range(100))
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(CredentialsError, match="changes all the time"):
        ClientPair(folder).load_into(Context(ssl.PROTOCOL_TLS_CLIENT))


def test_error_of_openssl_is_one_of_ours(folder: Path) -> None:
    """An adapter lets no error of others through."""

    class Context(ssl.SSLContext):
        def load_cert_chain(self, certfile: object, *arguments: object, **named: object) -> None:
            raise ssl.SSLError(1, "ca md too weak")

    with pytest.raises(CredentialsError, match="ca md too weak") as refused:
        ClientPair(folder).load_into(Context(ssl.PROTOCOL_TLS_CLIENT))
    assert refused.value.__cause__ is None


def test_pair_that_changes_all_the_time_is_never_loaded_by_halves(folder: Path) -> None:
    """Two threads load while a third one replaces: a whole pair, or an error of ours."""
    problems: list[BaseException] = []
    ends = threading.Event()

    def load() -> None:
        while not ends.is_set():
            try:
                ClientPair(folder).load_into(_client())
            except CredentialsError:
                pass
            except BaseException as exc:  # noqa: BLE001 - the test shows it
                problems.append(exc)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(20):
        new = write_pair(folder.parent / "new", "caller", key=f"key {number}")
        for name in ("client.key", "client.crt"):
            (new / name).replace(folder / name)
    ends.set()
    for thread in threads:
        thread.join()
    assert problems == []
    ClientPair(folder).load_into(_client())
