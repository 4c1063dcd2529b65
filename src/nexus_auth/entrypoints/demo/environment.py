"""All that runs in the demo, started in order and ended together."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final

import httpx

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.files import replace_file
from nexus_auth.adapters.proxies.site import Site, parse_path
from nexus_auth.entrypoints.demo.backend import EchoBackend
from nexus_auth.entrypoints.demo.certificates import a_hotkey, save_self_made
from nexus_auth.entrypoints.demo.processes import (
    LOOPBACK,
    OURSELVES,
    Child,
    Children,
    DemoFailed,
    ReservedPort,
)
from nexus_auth.entrypoints.demo.proxy import Proxy
from nexus_auth.entrypoints.reporter import Reporter
from nexus_auth.entrypoints.signals import Interrupts
from nexus_auth.entrypoints.terminal import painted

_NETUID: Final = "1"
_REFRESH_SECONDS: Final = "2"
"""The service's default is 30; a demo should not wait that long for a rotated key."""

_REUSE_SECONDS: Final = "1"
_TOKEN: Final = "token-of-the-demo"  # noqa: S105 - guards nothing but the demo's own Pylon
_PROBE_SECONDS: Final = 2.0
_WARNING: Final = re.compile(rb'"level": *"(warning|error)"')


class Environment:
    """The running demo.

    Attributes:
        caller: The hotkey of the identity `validator`.
        miner: The hotkey of the identity `miner`.
        backend: The application behind the proxy.
        directory: Where all files are; each key pair is in a folder of its own.
        children: The running programs.
    """

    def __init__(self, *, proxy: Proxy, interrupts: Interrupts, ending: ExitStack) -> None:
        """Prepares everything and starts nothing.

        Args:
            proxy: What stands before the application.
            interrupts: Held where a signal would leave something behind.
            ending: Ends every child and removes every file.

        Raises:
            DemoFailed: When the directory cannot be named in a proxy's configuration.
        """
        self.caller: Final = a_hotkey("validator")
        self.miner: Final = a_hotkey("miner")
        self.proxy = proxy
        with interrupts.held():
            self.directory = Path(tempfile.mkdtemp(prefix="nexus-auth-demo-"))
            ending.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            parse_path(str(self.directory))
        except ValueError as exc:
            raise DemoFailed(f"{self.directory}: {exc}; name another folder in TMPDIR") from exc
        ports = [ending.enter_context(closing(ReservedPort())) for _ in range(4)]
        self._pylon_port, self._auth_port, self._admin_port, self._proxy_port = ports
        self.backend = ending.enter_context(closing(EchoBackend()))
        self.children = Children(directory=self.directory, interrupts=interrupts)
        ending.callback(self.children.stop_all)
        ending.callback(interrupts.close)  # at first: a second Ctrl-C must leave nothing behind
        self._pylon: Child
        self._service: Child

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        return self._proxy_port.address.port

    def pair(self, name: str) -> CredentialsDirectory:
        """The key pair in a folder: validator, validator-before, miner, stranger or impostor."""
        return CredentialsDirectory(self.directory / name)

    @property
    def pylon_flags(self) -> str:
        """How a command reaches Pylon, which needs no token to be read."""
        return f"-pylon-endpoint http://{self._pylon_port.address} -net-uid {_NETUID}"

    @property
    def server_pair(self) -> CredentialsDirectory:
        """What the proxy shows its callers."""
        return self.pair("miner")

    def start(self) -> None:
        """Starts every part, and shows each that runs.

        Raises:
            DemoFailed: When one does not start.
        """
        self.start_pylon()
        _show("development Pylon", f"http://{self._pylon_port.address}")
        for name, hotkey in (("validator", self.caller), ("miner", self.miner)):
            self._generate(name)
            _show(name, f"{hotkey} (nexus-auth generate)")
        save_self_made(self.directory / "stranger", hotkey=a_hotkey("stranger"))
        save_self_made(self.directory / "impostor", hotkey=self.caller)
        self._start_service()
        _show("nexus-auth", f"http://{self._auth_port.address}")
        self.backend.start()
        self._start_proxy()
        _show(self.proxy.title, f"https://{self._proxy_port.address}, mutual TLS")

    def start_pylon(self) -> None:
        """Starts the development Pylon, with the data that it left."""
        identities = (f"--identity=validator={self.caller}", f"--identity=miner={self.miner}")
        self._pylon = self.children.start(
            "pylon",
            [*self._pylon_command, f"--listen={self._pylon_port.address}", *identities],
            environment={"NEXUS_PYLON_DEV_TOKEN": _TOKEN},
        )
        self.children.wait_until(self._pylon_port.is_answered, child=self._pylon)

    @property
    def _pylon_command(self) -> tuple[str, ...]:
        return (*OURSELVES, "pylon", "--data", str(self.directory / "pylon.sqlite"))

    def stop_pylon(self) -> None:
        """Stops the development Pylon and waits until the service has noticed."""
        position = self._service.log.stat().st_size
        self.children.stop(self._pylon)

        def has_noticed() -> bool:
            return _WARNING.search(self._service.log.read_bytes()[position:]) is not None

        self.children.wait_until(has_noticed, child=self._service)

    def rotate_key(self) -> None:
        """Has a new key pair issued for the caller; the old one stays in `validator-before`."""
        shutil.copytree(self.directory / "validator", self.directory / "validator-before")
        self._generate("validator", "-force-recreate")

    def admit_validators_only(self) -> None:
        """Replaces the access policy; the service notices by itself."""
        self._write_policy("require_validator_permit = true")

    def permit_caller(self) -> None:
        """Gives the caller a validator permit on the development chain."""
        command = [*self._pylon_command, "--seed-only", f"--neuron={self.caller},permit=yes"]
        self.children.run("permit", command)

    def _generate(self, name: str, *arguments: str) -> None:
        hotkey = self.caller if name == "validator" else self.miner
        command = [*OURSELVES, "generate", "-ss58-address", hotkey.address]
        command += ["-output-dir", str(self.directory / name), *arguments]
        self.children.run(f"generate {name}", command, environment=self._settings(name))

    def _settings(self, name: str) -> dict[str, str]:
        """How an identity reaches Pylon."""
        return {
            "NEXUS_PYLON_ENDPOINT": f"http://{self._pylon_port.address}",
            "NEXUS_PYLON_NETUID": _NETUID,
            "NEXUS_PYLON_IDENTITY_NAME": name,
            "NEXUS_PYLON_IDENTITY_TOKEN": _TOKEN,
        }

    def _start_service(self) -> None:
        self._write_policy("")
        settings = {
            **self._settings("miner"),
            "NEXUS_AUTH_LISTEN_ADDR": str(self._auth_port.address),
            "NEXUS_AUTH_ADMIN_ADDR": str(self._admin_port.address),
            "NEXUS_AUTH_PROXY": self.proxy.name,
            "NEXUS_AUTH_REFRESH_SECONDS": _REFRESH_SECONDS,
            "NEXUS_AUTH_REUSE_SECONDS": _REUSE_SECONDS,
            "NEXUS_AUTH_POLICY_FILE": str(self.directory / "policy.toml"),
            "NEXUS_AUTH_LOG_FORMAT": "json",
        }
        self._service = self.children.start("nexus-auth", (*OURSELVES, "run"), environment=settings)
        self.children.wait_until(self._is_service_ready, child=self._service)

    def _write_policy(self, rules: str) -> None:
        replace_file(self.directory / "policy.toml", f"[policies.demo]\n{rules}\n".encode())

    def _is_service_ready(self) -> bool:
        url = f"http://{self._admin_port.address}/readyz"
        with suppress(httpx.HTTPError):
            return httpx.get(url, timeout=_PROBE_SECONDS, trust_env=False).is_success
        return False

    def _start_proxy(self) -> None:
        folder = self.directory / self.proxy.name
        site = Site(
            listen=self._proxy_port.address,
            app=TcpAddress(LOOPBACK, self.backend.server_port),
            auth=self._auth_port.address,
            tls_cert=str(self.server_pair.certificate_path),
            tls_key=str(self.server_pair.key_path),
            state_dir=str(folder),
        )
        child = self.children.start(self.proxy.name, self.proxy.prepare(folder, site))
        self.children.wait_until(self._proxy_port.is_answered, child=child)


def _show(name: str, what: str) -> None:
    """Shows a part that is running now."""
    Reporter().result(f"  {name:<18} {painted(what, 'dim', sys.stdout)}")
