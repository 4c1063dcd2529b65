"""Both ends of a TLS connection for tests: pairs on disk, a server's context, a pinned caller."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nexus_auth.adapters.credentials.directory import CERTIFICATE_NAME, KEY_NAME
from nexus_auth.adapters.tls.context import PinnedContext
from nexus_auth.adapters.tls.pair import ClientPair
from nexus_auth.domain.ports import Registration
from tests.builders import SubjectKey, a_certificate, a_hotkey, a_key, public_bytes, to_pem

MINER: Final = a_hotkey("miner")
"""Which hotkey is called."""
CALLER: Final = a_hotkey("caller")
"""Which hotkey calls."""

_LONG: Final = timedelta(days=3650)
_TODAY: Final = datetime.now(UTC)
"""One moment, so that a certificate that is built twice is the same one."""


def today_certificate(
    name: str = "miner", key: SubjectKey | None = None, **deviations: object
) -> x509.Certificate:
    """A certificate of a name, as `a_certificate` builds it, that is valid on today's clock."""
    defaults: dict[str, object] = {"not_before": _TODAY - _LONG, "not_after": _TODAY + _LONG}
    return a_certificate(
        hotkey=a_hotkey(name),
        key=a_key(name) if key is None else key,
        **(defaults | deviations),  # type: ignore[arg-type] # those of `a_certificate`
    )


def write_pair(folder: Path, name: str, *, key: str | None = None) -> Path:
    """Writes `client.key` and `client.crt` of a name, around its own key or another's."""
    folder.mkdir(exist_ok=True)
    private = a_key(key or name)
    (folder / KEY_NAME).write_bytes(key_pem(private))
    (folder / CERTIFICATE_NAME).write_bytes(to_pem(today_certificate(name, private)))
    return folder


def key_pem(key: SubjectKey) -> bytes:
    """A private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def server_context(
    folder: Path,
    *,
    key: SubjectKey | None = None,
    chain: tuple[x509.Certificate, ...] = (),
    asks: str | None = "caller",
) -> ssl.SSLContext:
    """A server's context.

    Args:
        folder: Where its files may stand.
        key: Its private key; the miner's by default.
        chain: What it shows; the certificate of the miner around its key by default.
        asks: Whose key is in the certificate of the caller that it asks for. Python's `ssl` asks
            only for what it has an authority for.
    """
    key = a_key("miner") if key is None else key
    file = folder / "server.pem"
    shown = chain or (today_certificate("miner", key),)
    file.write_bytes(key_pem(key) + b"".join(map(to_pem, shown)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if asks is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(
            cadata=to_pem(today_certificate("caller", a_key(asks))).decode()
        )
    return context


@dataclass
class Registry:
    """What a caller knows of the miner, and how often it was asked."""

    key: str | None = "miner"
    expires_at: datetime = _TODAY + _LONG
    asked: int = 0

    def __call__(self) -> Registration | None:
        self.asked += 1
        if self.key is None:
            return None
        return Registration(public_key=public_bytes(a_key(self.key)), expires_at=self.expires_at)


def pinned_context(
    folder: Path | None = None, expected: Callable[[], Registration | None] | None = None
) -> PinnedContext:
    """The context of a caller of the miner, which shows the pair in a folder."""
    return PinnedContext(
        hotkey=MINER,
        expected=expected or Registry(),
        pair=None if folder is None else ClientPair(folder),
    )


@dataclass
class Handshake:
    """A client and a server over memory buffers.

    Attributes:
        sent: All that the client has sent.
    """

    client: ssl.SSLObject
    server: ssl.SSLObject
    to_client: ssl.MemoryBIO
    to_server: ssl.MemoryBIO
    from_client: ssl.MemoryBIO
    from_server: ssl.MemoryBIO
    sent: bytearray = field(default_factory=bytearray)

    @classmethod
    def between(
        cls, client: ssl.SSLContext, server: ssl.SSLContext, *, name: str | None = None
    ) -> Handshake:
        """Begins one."""
        to_client, from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        to_server, from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        return cls(
            client=client.wrap_bio(to_client, from_client, server_hostname=name),
            server=server.wrap_bio(to_server, from_server, server_side=True),
            to_client=to_client,
            to_server=to_server,
            from_client=from_client,
            from_server=from_server,
        )

    def move(self) -> None:
        """Moves what each end has written to the other."""
        written = self.from_client.read()
        self.sent += written
        self.to_server.write(written)
        self.to_client.write(self.from_server.read())

    def run(self) -> None:
        """Completes it at both ends, or raises what the client's end raises."""
        for step in (self.client, self.server, self.client, self.server):
            try:
                step.do_handshake()
            except ssl.SSLWantReadError:
                pass
            finally:
                self.move()

    def server_completed(self) -> bool:
        """Whether what the client has sent completes the server's handshake."""
        self.move()
        try:
            self.server.do_handshake()
        except ssl.SSLError:
            return False
        return True


def records_of(received: bytes | bytearray) -> list[tuple[int, bytes]]:
    """The TLS records in a stream, with their content types (RFC 8446 §5.1)."""
    stream, records = bytes(received), []
    while stream:
        end = 5 + int.from_bytes(stream[3:5])
        records.append((stream[0], stream[5:end]))
        stream = stream[end:]
    return records


def is_client_hello_alone(stream: bytes | bytearray) -> bool:
    """Whether a stream is one unencrypted ClientHello message, and nothing else."""
    records = records_of(stream)
    if [kind for kind, _ in records] != [22]:
        return False
    message = records[0][1]
    return message[0] == 1 and int.from_bytes(message[1:4]) == len(message) - 4
