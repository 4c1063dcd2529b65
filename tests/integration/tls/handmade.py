"""A TLS 1.3 server made by hand, which does what no library would (RFC 8446)."""

from __future__ import annotations

import hashlib
import hmac
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.integration.tls.recording import Listener
from tests.tls_pairs import records_of

_AES_128_GCM_SHA256: Final = b"\x13\x01"
_X25519: Final = b"\x00\x1d"
_HELLO, _EXTENSIONS, _CERTIFICATE, _REQUEST, _VERIFY, _FINISHED = 2, 8, 11, 13, 15, 20

Sign = Callable[[bytes], bytes]
"""Signs the content of a CertificateVerify message."""


def _sized(content: bytes, octets: int = 2) -> bytes:
    return len(content).to_bytes(octets) + content


def _message(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + _sized(content, 3)


def _expand(secret: bytes, label: str, context: bytes, length: int) -> bytes:
    """HKDF-Expand-Label (§7.1), for what fits into one block."""
    info = length.to_bytes(2) + _sized(b"tls13 " + label.encode(), 1) + _sized(context, 1)
    return hmac.digest(secret, info + b"\x01", "sha256")[:length]


def _derive(secret: bytes, label: str, transcript: bytes) -> bytes:
    return _expand(secret, label, hashlib.sha256(transcript).digest(), 32)


class _Keys:
    """The keys of one direction (§7.3), and its records (§5.2)."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(_expand(secret, "key", b"", 16))
        self._nonce = int.from_bytes(_expand(secret, "iv", b"", 12))
        self._count = 0

    def _next_nonce(self) -> bytes:
        self._count += 1
        return (self._nonce ^ (self._count - 1)).to_bytes(12)

    def seal(self, content: bytes) -> bytes:
        """Handshake messages as records."""
        sealed = b""
        for begin in range(0, len(content), 16_000):
            inner = content[begin : begin + 16_000] + b"\x16"
            head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2)
            sealed += head + self._cipher.encrypt(self._next_nonce(), inner, head)
        return sealed

    def open(self, body: bytes) -> tuple[int, bytes]:
        """A record's content type, and its content."""
        head = b"\x17\x03\x03" + len(body).to_bytes(2)
        inner = self._cipher.decrypt(self._next_nonce(), body, head).rstrip(b"\0")
        return inner[-1], inner[:-1]


class HandmadeServer(Listener):
    """Shows any bytes as its certificates, and signs as it likes.

    Attributes:
        after: What the client has sent after the first message, decrypted: content types and
            contents.
    """

    def __init__(self, *certificates: bytes, sign: Sign | None) -> None:
        """Starts nothing yet.

        Args:
            certificates: What it shows, as DER or not.
            sign: Makes the proof; None leaves the whole message out.
        """
        super().__init__()
        self._certificates = certificates
        self._sign = sign
        self.after: list[tuple[int, bytes]] = []

    def serve(self, connection: socket.socket) -> None:
        """Takes a handshake as far as the client goes along."""
        stream = connection.makefile("rb")
        head = stream.read(5)
        client_hello = stream.read(int.from_bytes(head[3:]))
        at = 4 + 2 + 32
        session = client_hello[at + 1 : at + 1 + client_hello[at]]
        found = client_hello.index(_X25519 + b"\x00\x20") + 4
        ours = X25519PrivateKey.generate()
        shared = ours.exchange(X25519PublicKey.from_public_bytes(client_hello[found : found + 32]))
        share = _X25519 + _sized(ours.public_key().public_bytes_raw())
        extensions = b"\x00\x2b" + _sized(b"\x03\x04") + b"\x00\x33" + _sized(share)
        server_hello = _message(
            _HELLO,
            b"\x03\x03"
            + bytes(range(32))
            + _sized(session, 1)
            + _AES_128_GCM_SHA256
            + b"\0"
            + _sized(extensions),
        )
        transcript = client_hello + server_hello
        early = hmac.digest(bytes(32), bytes(32), "sha256")
        secret = hmac.digest(_derive(early, "derived", b""), shared, "sha256")
        server_secret = _derive(secret, "s hs traffic", transcript)
        client_keys = _Keys(_derive(secret, "c hs traffic", transcript))

        listed = b"".join(_sized(each, 3) + b"\0\0" for each in self._certificates)
        flight = _message(_EXTENSIONS, b"\0\0")
        flight += _message(_REQUEST, b"\0" + _sized(b"\x00\x0d" + _sized(_sized(b"\x08\x07"))))
        flight += _message(_CERTIFICATE, b"\0" + _sized(listed, 3))
        if self._sign is not None:
            digest = hashlib.sha256(transcript + flight).digest()
            signed = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + digest
            flight += _message(_VERIFY, b"\x08\x07" + _sized(self._sign(signed)))
        finished_key = _expand(server_secret, "finished", b"", 32)
        digest = hashlib.sha256(transcript + flight).digest()
        flight += _message(_FINISHED, hmac.digest(finished_key, digest, "sha256"))
        with suppress(OSError):
            connection.sendall(b"\x16\x03\x03" + _sized(server_hello))
            connection.sendall(_Keys(server_secret).seal(flight))
            received = stream.read()
            for kind, body in records_of(received):
                # ChangeCipherSpec says nothing (§5): it is there for machines in between.
                if kind == 23:
                    self.after.append(client_keys.open(body))
                elif kind != 20:
                    self.after.append((kind, body))


def signing_with(key: Ed25519PrivateKey) -> Sign:
    """Signs with a key, whatever certificate is shown."""
    return key.sign
