"""Runs the service: binds, starts one process or several, ends them in good order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal

import structlog
import uvicorn
import uvloop

from nexus_auth.adapters.addresses import Address, CannotListen, SocketFile, UnixAddress, bind
from nexus_auth.adapters.observability.decision_log import SUMMARY_SECONDS, DecisionLog
from nexus_auth.adapters.uvicorn.head_protocol import (
    MAX_ADMIN_CONNECTIONS,
    MAX_CONNECTIONS,
    HeadProtocol,
    Shared,
)
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.container import (
    UNSEALED_STORE,
    Container,
    build_container,
    build_news_sign,
    build_shared_reports,
)
from nexus_auth.entrypoints.logs import configure_logging
from nexus_auth.entrypoints.process import (
    Server,
    allow_many_connections,
    private_folder,
    supervise,
)
from nexus_auth.entrypoints.settings import DEFAULT_ORIGIN
from nexus_auth.entrypoints.signals import STOPPING, let_through

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from nexus_auth.adapters.observability.shared_memory import SharedReports
    from nexus_auth.adapters.starlette.auth_app import FastPath
    from nexus_auth.entrypoints.settings import Settings

DRAIN_SECONDS: Final = 10
"""How long requests under way may take after SIGTERM. A decision takes a few seconds at most."""

FILES_KEPT_FREE: Final = MAX_ADMIN_CONNECTIONS + 128

log = structlog.get_logger(__name__)


def serve(settings: Settings, *, on_listening: Callable[[], object] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, and returns the exit code.

    Args:
        settings: The effective settings.
        on_listening: Is called when decisions are made, by each worker.

    Raises:
        ConfigurationError: When the settings cannot be served with.
        CannotListen: When an address is taken, or not ours to listen on.
    """
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    # What cannot work is said before anything is opened.
    container = build_container(settings)
    container.policies()
    if settings.source == "chain":
        container.chain()  # a package of an extra may be missing
    container.shared_snapshots()
    container.traces()
    for problem in settings.unknown:
        log.warning("unknown_setting", problem=problem)
    if settings.has_unsealed_network_store:
        log.warning("unsealed_store", problem=UNSEALED_STORE)
    if settings.trusted_proxies is None and not settings.listen_addr.is_loopback:
        log.warning(
            "anybody_may_ask",
            listen=str(settings.listen_addr),
            problem="a certificate is public: any client that reaches this address can show any "
            "certificate and get a grant; let only the proxy reach it, or name the proxy in "
            "NEXUS_AUTH_TRUSTED_PROXIES",
        )
    allow_many_connections()
    with _shared_among_workers(settings) as shared, contextlib.ExitStack() as stack:
        auth = stack.enter_context(_listening("listen_addr", settings))
        admin = _admin_listener(settings, stack)
        # As it turned out, so that what is logged is what is so.
        effective = shared if admin is not None else dataclasses.replace(shared, admin_addr=None)
        reports = build_shared_reports(settings.workers)
        sign = build_news_sign(settings.workers)

        def run_worker(number: int, parent_gone: int | None) -> int:
            # The first one answers for health and readiness, and so does its replacement.
            own_admin = admin if number == 0 else None
            if admin is not None and own_admin is None:
                admin.socket.close()
            own = build_container(effective, news_sign=sign)
            worker = _Worker(own, number, reports, parent_gone, on_listening)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(worker.run(auth, own_admin))

        if settings.workers == 1:
            return run_worker(0, None)
        return supervise(
            settings.workers,
            run_worker,
            stop_listening=stack.close,
            grace_seconds=DRAIN_SECONDS + 5,
        )


def _admin_listener(settings: Settings, stack: contextlib.ExitStack) -> _Listener | None:
    """Opens the admin listener until the stack ends; None where there is none.

    The default address may be taken: a second service on this machine has the same, and a
    deployment that was made for the original may have its auth listener there. Neither named an
    admin listener, so neither ends for want of one.
    """
    if settings.admin_addr is None:
        return None
    try:
        return stack.enter_context(_listening("admin_addr", settings))
    except CannotListen as exc:
        if settings.origins["admin_addr"] != DEFAULT_ORIGIN:
            raise
        log.warning(
            "no_admin_listener",
            problem=f"{exc}; there are no health paths and no metrics. Name another address in "
            "NEXUS_AUTH_ADMIN_ADDR, or off",
        )
        return None


@contextlib.contextmanager
def _shared_among_workers(settings: Settings) -> Iterator[Settings]:
    """Gives several workers without a snapshot store a private one, until the block ends.

    So they fetch as often as one does, and the replacement of a worker knows what it knew.
    """
    is_wanted = settings.workers > 1 and settings.registry == "snapshot"
    if not is_wanted or settings.snapshot_store is not None:
        yield settings
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(private_folder())
        except OSError as exc:
            log.warning("workers_share_nothing", problem=f"no temporary folder: {exc.strerror}")
            yield settings
        else:
            yield dataclasses.replace(settings, snapshot_store=f"file:{folder}/snapshot.json")


class _Listener:
    """A listening socket, and the file by which a unix socket is found."""

    def __init__(self, opened: socket.socket, address: Address) -> None:
        self.socket = opened
        self._file = SocketFile(address.path) if isinstance(address, UnixAddress) else None

    def remove_file(self) -> None:
        """Removes the file of a unix socket. Comes before the socket is closed."""
        if self._file is not None:
            self._file.remove()


@contextlib.contextmanager
def _listening(attribute: str, settings: Settings) -> Iterator[_Listener]:
    """Listens on the address that a setting names, until the block ends."""
    address: Address = getattr(settings, attribute)
    try:
        opened = bind(address, mode=settings.socket_mode)
    except OSError as exc:
        raise CannotListen(address, settings.origins[attribute], exc) from exc
    with opened:
        listener = _Listener(opened, address)
        try:
            yield listener
        finally:
            listener.remove_file()


class _Worker:
    """Both listeners in one event loop."""

    def __init__(
        self,
        container: Container,
        number: int,
        board: SharedReports | None,
        parent_gone: int | None,
        on_listening: Callable[[], object] | None = None,
    ) -> None:
        self._on_listening = on_listening
        self._settings: Settings = container.settings()
        self._parent_gone = parent_gone
        self._container = container
        self._monitor = self._container.monitor(shared_reports=board, worker=number)
        self._servers: list[Server] = []
        self._draining = False

    async def run(self, auth: _Listener, admin: _Listener | None) -> int:
        """Serves until a signal ends it."""
        loop = asyncio.get_running_loop()
        for number in STOPPING:
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._container.policies().reload)
        if self._parent_gone is not None:
            loop.add_reader(self._parent_gone, self._stop_alone)

        app = self._container.auth_app(lifespan=self._open)
        auth_server = self._server(app, auth, fast_path=app.fast_path, lifespan="on")
        try:
            with let_through():
                async with self._admin_server(admin):
                    await auth_server.serve(sockets=[auth.socket])
        except SystemExit:
            # uvicorn's way to say that the lifespan failed, which is in the log.
            return exit_codes.FAILED
        log.info("stopped")
        return exit_codes.DONE

    @contextlib.asynccontextmanager
    async def _admin_server(self, admin: _Listener | None) -> AsyncIterator[None]:
        """Answers for health and readiness, to the very end."""
        if admin is None:
            yield
            return
        app = self._container.admin_app(monitor=self._monitor, is_draining=lambda: self._draining)
        server = self._server(app, admin, fast_path=None, lifespan="off")
        task = asyncio.create_task(server.serve(sockets=[admin.socket]))
        try:
            yield
        finally:
            server.should_exit = True
            await task

    def _server(
        self,
        app: ASGIApp,
        listener: _Listener,
        *,
        fast_path: FastPath | None,
        lifespan: Literal["on", "off"],
    ) -> Server:
        shared = Shared(
            max_connections=MAX_ADMIN_CONNECTIONS if fast_path is None else _max_connections(),
            count_malformed=self._container.counters().count_malformed,
        )
        config = uvicorn.Config(
            app,
            http=functools.partial(HeadProtocol, fast_path=fast_path, shared=shared),  # type: ignore[arg-type] # it is called like a class
            ws="none",
            interface="asgi3",
            lifespan=lifespan,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        # A worker that ends is replaced, and its replacement listens on the same file.
        is_alone = self._parent_gone is None
        server = Server(config, on_stop=listener.remove_file if is_alone else None)
        self._servers.append(server)
        return server

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        """Opens what decisions need, and closes it when the last one is taken."""
        registry, source = self._container.registry(), self._container.source()
        policies, traces = self._container.policies(), self._container.traces()
        decisions: DecisionLog = self._container.decision_log()
        await registry.start()
        await self._monitor.start()
        # Only a snapshot holds neurons, and only with one are policies accepted that need them.
        await policies.start(on_need=getattr(registry, "refresh", None))
        if traces is not None:
            await traces.start()
        summaries = asyncio.create_task(_summarise(decisions))
        log.info(
            "listening",
            address=str(self._settings.listen_addr),
            admin=str(self._settings.admin_addr or "off"),
            **{self._settings.source: self._settings.source_address},
            registry=self._settings.registry,
            pid=os.getpid(),
        )
        if self._on_listening is not None:
            self._on_listening()
        # The collector need not look at what lives as long as the process.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            summaries.cancel()
            decisions.summarise()
            if traces is not None:
                await traces.aclose()
            await self._monitor.aclose()
            await policies.aclose()
            await registry.aclose()
            await source.aclose()

    def _stop(self) -> None:
        """Drains; a second signal does not wait for anything."""
        log.info("stopping")
        for server in self._servers[:1]:
            server.force_exit = server.should_exit
            server.should_exit = True
        self._draining = True

    def _stop_alone(self) -> None:
        """Drains because the supervisor is gone, which would end or replace this process."""
        if self._parent_gone is not None:
            asyncio.get_running_loop().remove_reader(self._parent_gone)
        log.warning("supervisor_gone")
        self._stop()


def _max_connections() -> int:
    """How many connections the auth listener may have: never all files that may be open.

    Some stay free for the admin listener and for what the service itself opens.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(files - FILES_KEPT_FREE, files // 2))


async def _summarise(decisions: DecisionLog) -> None:
    while True:
        await asyncio.sleep(SUMMARY_SECONDS)
        decisions.summarise()
