"""Everything that takes part, started in order and ended together."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from nexus_auth.adapters.devnet import DevnetStore
from nexus_auth.entrypoints.demo.backend import EchoBackend
from nexus_auth.entrypoints.demo.people import KeyPair, a_hotkey, save_server_pair
from nexus_auth.entrypoints.demo.ports import LOOPBACK, ReservedPort
from nexus_auth.entrypoints.demo.processes import OURSELVES, Child, Children
from nexus_auth.entrypoints.demo.proxy import Proxy, Wiring

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.entrypoints.demo.interrupts import Interrupts
    from nexus_auth.entrypoints.demo.reporter import Reporter

NETUID: Final = 1
REFRESH_SECONDS: Final = 2
"""The service's default is 30; nobody likes to watch a demo wait."""

_REUSE_SECONDS: Final = 1
_TOKEN: Final = "demo-token-of-{name}"  # noqa: S105 - guards nothing but the demo's own Pylon
_PROBE_SECONDS: Final = 2.0


class Stage:
    """The running demo. Leaving the `with` block ends every child and removes every file."""

    def __init__(self, *, proxy: Proxy, interrupts: Interrupts, reporter: Reporter) -> None:
        self.proxy = proxy
        self.caller: Final[Hotkey] = a_hotkey("validator")
        self.miner: Final[Hotkey] = a_hotkey("miner")
        self.backend = EchoBackend()
        self.children: Children
        self.directory: Path
        self._interrupts = interrupts
        self._reporter = reporter
        self._ending = ExitStack()
        self._pylon_port, self._auth_port, self._admin_port, self._proxy_port = (
            ReservedPort() for _ in range(4)
        )
        self._pylon: Child
        self._service: Child

    def __enter__(self) -> Self:
        try:
            with self._interrupts.held():
                self.directory = Path(tempfile.mkdtemp(prefix="nexus-auth-demo-"))
                self._ending.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.children = Children(directory=self.directory, interrupts=self._interrupts)
            for port in (self._pylon_port, self._auth_port, self._admin_port, self._proxy_port):
                self._ending.callback(port.close)
            self._ending.callback(self.backend.close)
            self._ending.callback(self.children.stop_all)
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._interrupts.close()  # a second Ctrl-C must not leave anything behind
        self._ending.close()

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        return self._proxy_port.number

    @property
    def caller_pair(self) -> KeyPair:
        """What `generate` wrote for the caller."""
        return KeyPair.in_directory(self.directory / "validator")

    @property
    def miner_pair(self) -> KeyPair:
        """What `generate` wrote for the miner."""
        return KeyPair.in_directory(self.directory / "miner")

    @property
    def server_pair(self) -> KeyPair:
        """What the proxy shows its callers."""
        if self.proxy.serves_nameless_certificates:
            return self.miner_pair
        return KeyPair.in_directory(self.directory / "server")

    def _start(self) -> None:
        self._fill_pylon()
        self.start_pylon()
        self._reporter.part("development Pylon", f"http://{self._pylon_port.address}")
        self.generate("validator")
        self._reporter.part("validator", f"{self.caller} (nexus-auth generate)")
        self.generate("miner")
        self._reporter.part("miner", f"{self.miner} (nexus-auth generate)")
        self._start_service()
        self._reporter.part("nexus-auth", f"http://{self._auth_port.address}")
        self.backend.start()
        self._start_proxy()
        self._reporter.part(self.proxy.title, f"https://{self._proxy_port.address}, mutual TLS")

    def _fill_pylon(self) -> None:
        with DevnetStore.open(self._pylon_data) as store:
            for name, hotkey in (("validator", self.caller), ("miner", self.miner)):
                store.add_identity(
                    name, hotkey=hotkey, token=_TOKEN.format(name=name), netuid=NETUID
                )

    @property
    def _pylon_data(self) -> Path:
        return self.directory / "pylon.sqlite"

    def start_pylon(self) -> None:
        """Starts the development Pylon, on what it knew before."""
        address = self._pylon_port.address
        arguments = ("pylon", "--data", str(self._pylon_data), "--listen", address)
        self._pylon = self.children.start("pylon", (*OURSELVES, *arguments))
        self.children.wait_until(self._pylon_port.is_answered, child=self._pylon)

    def stop_pylon(self) -> None:
        """Stops the development Pylon and waits until the service has noticed."""
        position = self._service.log.stat().st_size
        self.children.stop(self._pylon)

        def has_noticed() -> bool:
            return any(
                line.get("level") in {"warning", "error"} for line in self._log_since(position)
            )

        self.children.wait_until(has_noticed, child=self._service)

    def generate(self, name: str, *arguments: str) -> None:
        """Has `nexus-auth generate` make a pair for one of the identities."""
        hotkey = self.caller if name == "validator" else self.miner
        self.children.run(
            f"generate {name}",
            [
                *(*OURSELVES, "generate", "-ss58-address", hotkey.address),
                *("-output-dir", str(self.directory / name), *arguments),
            ],
            environment=self._pylon_settings(name),
        )

    def _pylon_settings(self, name: str) -> dict[str, str]:
        return {
            "NEXUS_PYLON_ENDPOINT": f"http://{self._pylon_port.address}",
            "NEXUS_PYLON_NETUID": str(NETUID),
            "NEXUS_PYLON_IDENTITY_NAME": name,
            "NEXUS_PYLON_IDENTITY_TOKEN": _TOKEN.format(name=name),
        }

    def _start_service(self) -> None:
        settings = {
            **self._pylon_settings("miner"),
            "NEXUS_AUTH_LISTEN_ADDR": self._auth_port.address,
            "NEXUS_AUTH_ADMIN_ADDR": self._admin_port.address,
            "NEXUS_AUTH_PROXY": self.proxy.name,
            "NEXUS_AUTH_REFRESH_SECONDS": str(REFRESH_SECONDS),
            "NEXUS_AUTH_REUSE_SECONDS": str(_REUSE_SECONDS),
            "NEXUS_AUTH_POLICY_FILE": str(self._policy_file),
            "NEXUS_AUTH_LOG_FORMAT": "json",
        }
        self.admit("")
        self._service = self.children.start("nexus-auth", (*OURSELVES, "run"), environment=settings)
        self.children.wait_until(self._is_service_ready, child=self._service)

    def _is_service_ready(self) -> bool:
        connection = http.client.HTTPConnection(
            LOOPBACK, self._admin_port.number, timeout=_PROBE_SECONDS
        )
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _policy_file(self) -> Path:
        return self.directory / "policy.toml"

    def admit(self, rules: str) -> None:
        """Replaces the access policy by one of these rules; the service notices by itself."""
        new = self._policy_file.with_suffix(".new")
        new.write_text(f"[policies.demo]\n{rules}\n")
        new.replace(self._policy_file)

    def permit_caller(self) -> None:
        """Gives the caller a validator permit on the development chain."""
        with DevnetStore.open(self._pylon_data) as store:
            store.set_neuron(self.caller, netuid=NETUID, validator_permit=True)

    def _start_proxy(self) -> None:
        if not self.proxy.serves_nameless_certificates:
            save_server_pair(self.directory / "server")
        command = self.proxy.prepare(
            Wiring(
                directory=self.directory,
                port=self._proxy_port.number,
                server=self.server_pair,
                auth_port=self._auth_port.number,
                backend_port=self.backend.port,
            )
        )
        child = self.children.start(self.proxy.name, command)
        self.children.wait_until(self._proxy_port.is_answered, child=child)

    def _log_since(self, position: int) -> list[Mapping[str, object]]:
        with self._service.log.open("rb") as log:
            log.seek(position)
            lines = log.read().splitlines()
        found: list[Mapping[str, object]] = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                found.append(entry)
        return found

    def watch(self) -> None:
        """Looks after the children until somebody ends the demo.

        Raises:
            DemoFailed: When a child ends before.
        """
        while True:
            self.children.check()
            time.sleep(0.5)
