"""Runs the auth service and Envoy before one application, and ends with either of them.

Both are children of this process, which only starts them and waits for signals. Their socket, and
Envoy's configuration and admin listener, are in a folder that this user alone can enter.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import http.client
import json
import os
import select
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from nexus_auth.adapters.addresses import CannotListen, TcpAddress, bind, parse_listen_address
from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.files import replace_file
from nexus_auth.adapters.proxies.configuration import build_configuration
from nexus_auth.adapters.proxies.site import Site, parse_keepalive, parse_path, parse_upstream
from nexus_auth.adapters.proxies.syntax_check import find_program, write_configuration
from nexus_auth.adapters.proxies.table import PROXIES
from nexus_auth.domain.errors import ConfigurationError, NexusAuthError
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import parsed
from nexus_auth.entrypoints.cli import report
from nexus_auth.entrypoints.process import (
    allow_many_connections,
    clean_environment,
    ending_of,
    private_folder,
)
from nexus_auth.entrypoints.service import DRAIN_SECONDS, serve
from nexus_auth.entrypoints.settings import DEFAULT_ORIGIN, Settings, all_settings
from nexus_auth.entrypoints.signals import ENDING, STOPPING

log = structlog.get_logger(__name__)

AUTH: Final = "the auth service"
ENVOY: Final = "Envoy"

_PROXY: Final = PROXIES["envoy"]
_WATCHED: Final = (*ENDING, signal.SIGCHLD)
_FLAG: Final = "flag or default"
_POLL_SECONDS: Final = 0.05
_READY_SECONDS: Final = 60.0
"""Both start within two seconds; on a machine in trouble somewhat later."""
_KILL_SECONDS: Final = DRAIN_SECONDS + 5
_ASK_SECONDS: Final = 2.0
_PR_SET_PDEATHSIG: Final = 1
"""prctl(2)."""
_UNDER_WAY: Final = "/stats?filter=http.nexus_auth.downstream_rq_active"


class SidecarFailed(NexusAuthError):
    """A part could not be started, or ended before its time."""


@contextlib.contextmanager
def prepared(
    flags: Mapping[str, Any], pair_folder: Path, *, own_settings: Mapping[str, str]
) -> Iterator[Sidecar]:
    """Checks all that can be checked before anything is started.

    Args:
        flags: What the command line says, by attribute name; of a setting, or of a `Site`.
        pair_folder: Where the pair is that callers are shown.
        own_settings: By attribute name, the settings that are not the user's to choose.

    Raises:
        ConfigurationError: When a setting or a flag is wrong, or the pair or Envoy is missing.
        CredentialsError: When the pair cannot be used.
        CannotListen: When the address for callers is taken, or not ours to listen on.
        SidecarFailed: When there is no usable place for temporary files.
    """
    settings = Settings.load(flags=flags)
    app = parsed("-app", flags["app"], parse_upstream, source=_FLAG)
    keepalive = parsed("-app-keepalive", flags["app_keepalive"], parse_keepalive, source=_FLAG)
    pair = _usable_pair(pair_folder)
    program = find_program(_PROXY.check[0])
    if program is None:
        raise ConfigurationError(
            setting="envoy", problem="is not installed here: pip install 'nexus-auth[sidecar]'"
        )
    listen = _listen_address(flags["listen"])
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(private_folder())
            auth = parse_upstream(f"unix:{folder}/auth.sock")
        except (OSError, ValueError) as exc:
            raise SidecarFailed(
                f"no usable temporary folder ({exc}); name another in TMPDIR"
            ) from None
        site = Site(
            listen=listen,
            app=app,
            auth=auth,
            tls_cert=str(pair.certificate_path),
            tls_key=str(pair.key_path),
            app_keepalive=keepalive,
        )
        effective = Settings.load(flags={**flags, **own_settings, "listen_addr": str(auth)})
        unused = tuple(
            f"{row.name} has no effect on sidecar, which sets it itself"
            for row in all_settings()
            if row.attribute in own_settings and settings.origins[row.attribute] != DEFAULT_ORIGIN
        )
        effective = dataclasses.replace(effective, unknown=(*effective.unknown, *unused))
        yield Sidecar(effective, site, program, folder)


def _usable_pair(folder: Path) -> CredentialsDirectory:
    path = parsed("-output-dir", str(folder.absolute()), parse_path, source=_FLAG)
    pair = CredentialsDirectory(Path(path))
    if not all(file.is_file() for file in (pair.key_path, pair.certificate_path)):
        raise ConfigurationError(
            setting="-output-dir",
            source=_FLAG,
            problem=f"{path} holds no {pair.key_path.name} and {pair.certificate_path.name}; make "
            f"them: nexus-auth generate -ss58-address ADDR -output-dir {shlex.quote(path)}",
        )
    pair.load()
    return pair


def _listen_address(text: str) -> TcpAddress:
    """The address in numbers, after it was tried: Envoy would share a port with another Envoy."""
    address = parsed("-listen", text, parse_listen_address, source=_FLAG)
    if not isinstance(address, TcpAddress):
        raise ConfigurationError(
            setting="-listen", source=_FLAG, problem="callers connect over TCP: :8443 or host:port"
        )
    try:
        with bind(address) as probe:
            return TcpAddress(*probe.getsockname()[:2])
    except OSError as exc:
        raise CannotListen(address, "-listen", exc) from None


class _Over(Exception):
    """Ends the sidecar with an exit code; the reason was printed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Sidecar:
    """The two parts before an application."""

    def __init__(self, settings: Settings, site: Site, envoy: str, folder: Path) -> None:
        """Starts nothing.

        Args:
            settings: Those of the auth service.
            site: What Envoy is configured for.
            envoy: The program.
            folder: A folder of this user alone, which others remove.
        """
        self._settings = settings
        self._site = site
        self._configuration = build_configuration(_PROXY.name, site, directory=str(folder))
        self._envoy = envoy
        self._folder = folder
        self._running: dict[str, int] = {}
        self._is_ready = False
        self._reloads = 0
        self._listening_read, self._listening_write = os.pipe()

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT, or until a part dies; returns the exit code."""
        # Taken one by one, so that none comes at a bad moment.
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        allow_many_connections()
        code = exit_codes.DONE
        try:
            self._start(AUTH, self._serve)
            self._wait_until(self._is_deciding, AUTH)
            write_configuration(self._configuration, self._folder)
            self._start(ENVOY, self._become_envoy)
            self._wait_until(lambda: self._ask("GET", "/ready").startswith("LIVE"), ENVOY)
            self._is_ready = True
            _say(f"ready: mutual TLS on {self._site.listen}, application at {self._site.app}")
            while (received := self._next_signal(None)) not in STOPPING:
                if received == signal.SIGHUP:
                    self._reload()
            _say("stopping")
            self._drain()
        except _Over as exc:
            code = exc.code
        finally:
            self._stop(ENVOY)
            self._stop(AUTH)
        return code

    def _serve(self) -> int:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.close(self._listening_read)
        os.set_blocking(self._listening_write, False)
        return serve(self._settings, on_listening=self._note_listening)

    def _note_listening(self) -> None:
        with contextlib.suppress(OSError):  # full: workers were replaced again and again
            os.write(self._listening_write, b".")

    def _become_envoy(self) -> int:
        admin = {"address": {"pipe": {"path": str(self._admin), "mode": 0o600}}}
        command = [
            *(self._envoy, "-c", str(self._folder / self._configuration.files[0][0])),
            *("--config-yaml", json.dumps({"admin": admin})),
            *("--disable-hot-restart", "--log-level", "warning"),
            *("--log-format", "envoy: [%Y-%m-%d %T.%e][%l] %v", "--log-format-escaped"),
        ]
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(self._envoy, command, clean_environment())  # noqa: S606 - as a user starts it

    @property
    def _admin(self) -> Path:
        return self._folder / "admin.sock"

    def _reload(self) -> None:
        os.kill(self._running[AUTH], signal.SIGHUP)
        # Envoy reads the pair again where it is named in another way, even if it was overwritten
        # in place, which Envoy does not notice by itself.
        self._reloads += 1
        name, text = self._configuration.files[1]
        again = text.replace("/client.", "/./client.") if self._reloads % 2 else text
        replace_file(self._folder / name, again.encode())

    def _start(self, name: str, run: Callable[[], int]) -> None:
        """Starts a child that does not outlive this process."""
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._running[name] = pid
            return
        code = exit_codes.FAILED
        try:
            os.setsid()  # Ctrl-C in a terminal reaches the parent alone
            _die_with(parent)
            code = run()
        except NexusAuthError as exc:
            code = report(exc)
        except BaseException:
            log.exception("worker_failed")
        finally:
            os._exit(code)

    def _is_deciding(self) -> bool:
        return bool(select.select([self._listening_read], [], [], 0)[0])

    def _wait_until(self, is_so: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not is_so():
            if time.monotonic() > deadline:
                _say(f"{name} is not ready after {_READY_SECONDS:.0f} s")
                raise _Over(exit_codes.FAILED)
            if self._next_signal(_POLL_SECONDS) in STOPPING:
                raise _Over(exit_codes.DONE)

    def _next_signal(self, seconds: float | None) -> int | None:
        """Waits for a signal; notices a part that ended."""
        if seconds is None:
            number: int | None = signal.sigwait(_WATCHED)
        else:
            received = signal.sigtimedwait(_WATCHED, seconds)
            number = None if received is None else received.si_signo
        for name, pid in list(self._running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._running[name]
                code = os.waitstatus_to_exitcode(status)
                _say(f"{name} ended before its time ({ending_of(code)}); its last lines are above")
                # A part that does not start knows why.
                raise _Over(code if code > 0 and not self._is_ready else exit_codes.FAILED)
        return number

    def _drain(self) -> None:
        """Has Envoy take nothing new, and waits for what is under way, or for a second signal."""
        for order in ("/healthcheck/fail", "/drain_listeners"):
            self._ask("POST", order)
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline and not self._ask("GET", _UNDER_WAY).endswith(" 0\n"):
            if self._next_signal(_POLL_SECONDS) in STOPPING:
                return

    def _stop(self, name: str) -> None:
        pid = self._running.pop(name, None)
        if pid is None:
            return
        deadline = time.monotonic() + _KILL_SECONDS
        number = signal.SIGTERM
        while True:
            os.kill(pid, number)
            while not os.waitpid(pid, os.WNOHANG)[0]:
                left = deadline - time.monotonic()
                received = signal.sigtimedwait(_WATCHED, max(0.0, left))
                if received is None:
                    number = signal.SIGKILL
                    break
                if received.si_signo in STOPPING:
                    break
            else:
                return

    def _ask(self, method: str, path: str) -> str:
        """Asks Envoy's admin listener; the answer is empty where there is none."""
        connection = _AdminConnection(self._admin)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()


class _AdminConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ASK_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent is gone; Linux alone can do that."""
    if sys.platform == "linux":
        if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
            raise OSError("prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:  # it was gone before
            os._exit(exit_codes.FAILED)


def _say(text: str) -> None:
    print(f"nexus-auth: {text}", file=sys.stderr, flush=True)
