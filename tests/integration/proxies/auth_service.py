"""The auth services behind the proxy: a real one, and one that answers nonsense."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import uvicorn

from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.headers.formats import FORMATS
from nexus_auth.adapters.headers.names import GrantHeader
from nexus_auth.adapters.observability.facts import RequestView
from nexus_auth.adapters.proxies.table import PROXIES
from nexus_auth.adapters.starlette.auth_app import AuthApp
from nexus_auth.adapters.starlette.gate import Gate, admit_registered
from nexus_auth.domain.decision import Decision
from nexus_auth.domain.policy import PolicySet
from nexus_auth.domain.ports import Headers
from nexus_auth.domain.verifier import CertificateVerifier
from tests.builders import a_hotkey, a_key, public_bytes
from tests.fakes import FakeRegistry
from tests.integration.real import wait_until_ready


class _MoodyHandler(socketserver.StreamRequestHandler):
    timeout = 30
    server: _MoodyServer

    def handle(self) -> None:
        try:
            while True:
                line = self.rfile.readline(1 << 20)
                if not line:
                    return
                if line != b"\r\n":
                    continue
                if not self.server.answer:
                    return
                self.wfile.write(self.server.answer)
        except OSError:
            pass


class _MoodyServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    answer: bytes = b""


class MoodyAuthService:
    """Gives every request the same raw `answer`; closes the connection when that is empty."""

    def __init__(self, port: int) -> None:
        self._server = _MoodyServer(("127.0.0.1", port), _MoodyHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def answers(self, status_line: str, *headers: str, body: str = "Access granted") -> None:
        """Says what is answered from now on."""
        lines = [f"HTTP/1.1 {status_line}", *headers, f"Content-Length: {len(body)}"]
        self._server.answer = ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")

    def hangs_up(self) -> None:
        """Closes every connection without an answer from now on."""
        self._server.answer = b""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Listener:
    """A `DecisionObserver` that keeps what it was told, and what the log would say of it."""

    def __init__(self) -> None:
        self.headers: list[Headers] = []
        self.facts: list[dict[str, str | bool | None]] = []
        self._view = RequestView(knows_proxies=True)

    def decided(
        self, decision: Decision, *, seconds: float, method: bytes, target: bytes, headers: Headers
    ) -> None:
        """See `DecisionObserver`."""
        del seconds
        self.headers.append(headers)
        self.facts.append(self._view.facts(decision, method, target, headers))


class AuthService:
    """The real auth application, in a thread. It knows the keys of those in `knows`.

    Its `registry` can be changed under way.
    """

    def __init__(
        self,
        proxy: str,
        place: int | Path,
        *,
        reuse_seconds: int,
        host: str = "127.0.0.1",
        knows: Sequence[str] = (),
        policies: PolicySet | None = None,
        tell: frozenset[GrantHeader] = frozenset(),
    ) -> None:
        preset = PROXIES[proxy].header
        self.registry = FakeRegistry(expires_at=datetime.now(UTC) + timedelta(days=1))
        for name in knows:
            self.registry.keys[a_hotkey(name)] = public_bytes(a_key(name))
        self.listener = Listener()
        gate = Gate(
            verifier=CertificateVerifier(registry=self.registry, clock=utc_now),
            header=preset.name,
            der_from=FORMATS[preset.format],
            trusted_peers=None,
            policies=admit_registered if policies is None else lambda: policies,
            reads_policy_header=True,
        )
        app = AuthApp(
            gate=gate,
            clock=utc_now,
            reuse=timedelta(seconds=reuse_seconds),
            observers=[self.listener],
            grant_headers=tell,
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=host,
                port=place if isinstance(place, int) else 0,
                uds=str(place) if isinstance(place, Path) else None,
                log_level="critical",
                http="httptools",
                ws="none",
                lifespan="off",
            )
        )
        self._thread = threading.Thread(target=self._server.run)

    @property
    def port(self) -> int:
        """The TCP port that it got."""
        port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until_ready(lambda: self._server.started, what="the auth service")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
