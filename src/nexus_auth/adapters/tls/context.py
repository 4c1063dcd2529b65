"""A TLS context that completes a handshake with one hotkey alone.

Python's `ssl` checks certificates against authorities, and has no way to pin a key. So the check
stands at the end of the handshake, in the one place where nothing has left this machine yet: in
TLS 1.3 the client's certificate and its Finished message (RFC 8446 §4.4) are made when the server
has proven its key, and wait in a memory buffer until the check has passed. Older versions of TLS
send the client's certificate before the server has proven anything, so they are not spoken.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self, cast

from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.tls.pair import ClientPair
from nexus_auth.adapters.tls.sockets import PinnedSocket
from nexus_auth.domain.errors import NexusAuthError, ServerKeyMismatch, ServerKeyUnknown
from nexus_auth.domain.server import ServerCertificate, check_server

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.ports import Clock, Registration

ExpectedKey = Callable[[], "Registration | None"]
"""Gives what is registered for the hotkey and may be used now; None where no key is known."""

_PARENT: Final[Any] = ssl.SSLContext
"""Whose properties are set here, and shadowed below."""

_APPLICATION_VERIFICATION: Final = 50
"""X509_V_ERR_APPLICATION_VERIFICATION, of OpenSSL's `x509_vfy.h`."""


class _VerificationError(ssl.SSLCertVerificationError):
    """Has what event loops and HTTP clients read in an error that OpenSSL has made."""

    errno = ssl.SSL_ERROR_SSL
    library = "SSL"
    reason = "CERTIFICATE_VERIFY_FAILED"
    verify_code = _APPLICATION_VERIFICATION
    verify_message = "application verification failure"

    def __str__(self) -> str:
        return str(self.args[0])

    strerror = property(__str__)


class ServerKeyRefused(ServerKeyMismatch, _VerificationError):
    """The same for code that knows the errors of `ssl` alone: event loops and HTTP clients."""

    @classmethod
    def of(cls, exc: ServerKeyMismatch) -> Self:
        """Makes one of an error of the domain."""
        return cls(hotkey=exc.hotkey, expected=exc.expected, found=exc.found, named=exc.named)


class ServerUnknown(ServerKeyUnknown, _VerificationError):
    """As above."""


class PinnedObject(ssl.SSLObject):
    """One TLS connection over memory buffers. Carries nothing before the server is proven."""

    # `_create` of the parent makes instances without `__init__`.
    _outgoing: ssl.MemoryBIO | None = None
    _is_proven = False

    # No session of an earlier connection: each handshake is a whole one, with the server's proof.
    session = None

    def hold(self, outgoing: ssl.MemoryBIO) -> None:
        """Names the buffer that holds what the other side has not been sent."""
        self._outgoing = outgoing

    def do_handshake(self) -> None:
        """Completes the handshake, or raises `ServerKeyRefused` or `ServerUnknown`."""
        self._is_proven = False
        super().do_handshake()
        try:
            cast("PinnedContext", self.context).check(self)
        except BaseException:
            # The client's certificate and its Finished message: they do not leave.
            if self._outgoing is not None:
                self._outgoing.read()
            raise
        self._is_proven = True

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the parent's name
        """As the parent's; never completes a handshake by itself."""
        self._require_proof()
        return super().read(len, buffer)

    def write(self, data: Any) -> int:
        """As the parent's; never completes a handshake by itself."""
        self._require_proof()
        return super().write(data)

    def unwrap(self) -> None:
        """As the parent's; says nothing to a server that is not proven."""
        self._require_proof()
        super().unwrap()

    def _require_proof(self) -> None:
        # OpenSSL would complete the handshake on the way, and pass by the check.
        if not self._is_proven:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the server is not proven: call do_handshake")


class PinnedContext(ssl.SSLContext):
    """A client's context for connections to one hotkey, at any address.

    For whatever takes an `ssl.SSLContext`: asyncio, uvloop, httpx, aiohttp, urllib3, http.client.
    A library's own settings for versions, authorities and host names change nothing: the key is
    what counts.

    The registered key is asked for at the end of each handshake, so that a context may live long.
    Threads may share it.
    """

    sslobject_class = PinnedObject

    def __new__(cls, **_: object) -> Self:
        """Makes a client's context."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self,
        *,
        hotkey: Hotkey,
        expected: ExpectedKey,
        pair: ClientPair | None = None,
        clock: Clock = utc_now,
    ) -> None:
        """Reads the pair.

        Args:
            hotkey: The hotkey that the server must prove to be.
            expected: Is called once in each handshake; what it raises refuses the server.
            pair: What the caller shows; read again before the next handshake after it has changed.
                None shows what `load_cert_chain` has loaded, or nothing.
            clock: Says whether what is registered may still be used.

        Raises:
            CredentialsError: If the pair cannot be used.
        """
        self.hotkey = hotkey
        self._expected = expected
        self._pair = pair
        self._clock = clock
        self._stamp: object = None
        self._loading = threading.Lock()
        _PARENT.check_hostname.__set__(self, False)  # noqa: FBT003
        _PARENT.verify_mode.__set__(self, ssl.CERT_NONE)
        _PARENT.minimum_version.__set__(self, ssl.TLSVersion.TLSv1_3)
        with self._loading:
            self._follow_pair()

    def _follow_pair(self) -> None:
        if self._pair is None:
            return
        stamp = self._pair.stamp()
        if stamp != self._stamp:
            self._pair.load_into(self)
            # After it: what failed is tried again by the next handshake.
            self._stamp = stamp

    def check(self, connection: ssl.SSLObject) -> None:
        """Checks the server of a handshake.

        Raises:
            ServerKeyRefused: If it holds another key.
            ServerUnknown: If no key may be used now for the hotkey.
        """
        try:
            registration = self._expected()
        except Exception as exc:  # event loops handle the errors of `ssl` alone
            known = exc if isinstance(exc, NexusAuthError) else None
            raise ServerUnknown(self.hotkey.address, known) from exc
        if registration is None or self._clock() > registration.expires_at:
            raise ServerUnknown(self.hotkey.address)
        if connection.version() != "TLSv1.3":
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the server speaks no TLS 1.3")
        shown = ServerCertificate.from_der(connection.getpeercert(binary_form=True) or b"")
        try:
            check_server(shown, self.hotkey, registration)
        except ServerKeyMismatch as exc:
            raise ServerKeyRefused.of(exc) from None

    @property
    def verify_mode(self) -> ssl.VerifyMode:
        """Always `CERT_REQUIRED`: a server is always checked, though not by OpenSSL."""
        return ssl.CERT_REQUIRED

    @verify_mode.setter
    def verify_mode(self, _: object) -> None: ...

    @property
    def check_hostname(self) -> bool:
        """Always true: that the server is the right one is checked here, by its key."""
        return True

    @check_hostname.setter
    def check_hostname(self, _: object) -> None: ...

    @property
    def minimum_version(self) -> ssl.TLSVersion:
        """Always TLS 1.3: older versions show the client's certificate before the check."""
        return ssl.TLSVersion.TLSv1_3

    @minimum_version.setter
    def minimum_version(self, _: object) -> None: ...

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the parent's signature
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> PinnedObject:
        """As the parent's, for clients alone.

        Raises:
            CredentialsError: If the caller's own pair has changed, and cannot be used.
        """
        if server_side or session is not None:
            raise ValueError("this context is a client's, and resumes no session")
        # OpenSSL takes the pair from the context here, and does not expect it to change meanwhile.
        with self._loading:
            self._follow_pair()
            made = super().wrap_bio(incoming, outgoing, server_hostname=server_hostname or None)
        pinned = cast("PinnedObject", made)
        pinned.hold(outgoing)
        return pinned

    def wrap_socket(  # type: ignore[override]  # noqa: PLR0917 - no SSLSocket; the same arguments
        self,
        sock: socket.socket,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the parent's signature
        do_handshake_on_connect: bool = True,  # noqa: FBT001, FBT002
        suppress_ragged_eofs: bool = True,  # noqa: FBT001, FBT002
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> PinnedSocket:
        """As the parent's, for clients alone, on a connected socket that blocks.

        Returns:
            A socket that is no `ssl.SSLSocket`, whose handshake cannot be stopped in time.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        connection = self.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        return PinnedSocket(
            sock,
            connection,
            incoming=incoming,
            outgoing=outgoing,
            handshakes=do_handshake_on_connect,
            suppress_ragged_eofs=suppress_ragged_eofs,
        )
