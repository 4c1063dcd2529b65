"""Measures what authorisation costs over real mutual TLS.

    python -m bench.tls            what docs/benchmarks.md shows, as a Markdown table

nginx runs with the generated configuration and with the shipped one, each beside the same
configuration without authorisation. `ab` is the client, since `wrk` has no client certificates.
nginx has one worker, so that its processor time for each request can be told: a busy machine
disturbs that less than the rate.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import callers, subjects
from bench.end_to_end import shipped_text, start_application
from bench.programs import BenchError, find_program, free_port, process_tree
from nexus_auth.adapters.proxies.configuration import build_configuration
from nexus_auth.adapters.proxies.site import Site, parse_tcp_address

ROUNDS: Final = 9
CONNECTIONS: Final = 8
KEEP_ALIVE_REQUESTS: Final = 20_000
HANDSHAKES: Final = 1_500
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """One load: requests in a second, and nginx's processor time for each, in microseconds."""

    per_second: float
    cpu_us: float


def without_authorisation(text: str, hotkey: str) -> str:
    """Takes authorisation out of a configuration, and nothing else: all are one caller."""
    granted = r"auth_request_set (\$\w+)\s+\$upstream_http_x_hotkey;"
    if re.search(granted, text) is None:
        raise BenchError("the configuration does not say where X-Hotkey comes from")
    text = re.sub(granted, rf"set \1 {hotkey};", text)
    text = re.sub(r"auth_request_set (\$\w+)\s+\S+;", r'set \1 "";', text)
    return re.sub(r"auth_request\s+/\S+;", "", text)


@dataclass(slots=True, kw_only=True)
class Gateway:
    """One nginx over TLS."""

    port: int
    worker: int
    identity: Path

    def load(self, *, keep_alive: bool) -> Measured:
        """Sends the requests of one round."""
        count = KEEP_ALIVE_REQUESTS if keep_alive else HANDSHAKES
        before = self._ticks()
        command = [find_program("ab"), "-q", *(["-k"] if keep_alive else [])]
        command += ["-E", str(self.identity), "-c", str(CONNECTIONS), "-n", str(count)]
        done = subprocess.run(
            [*command, f"https://127.0.0.1:{self.port}/"],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        rate = re.search(r"Requests per second:\s+([\d.]+)", done.stdout)
        failed = re.search(r"Failed requests:\s+0$", done.stdout, re.MULTILINE) is None
        if rate is None or failed or "Non-2xx" in done.stdout:
            raise BenchError(f"not every request was granted:\n{done.stdout}{done.stderr}")
        cpu_us = (self._ticks() - before) / _TICKS_PER_SECOND / count * 1e6
        return Measured(float(rate[1]), cpu_us)

    def _ticks(self) -> int:
        fields = Path(f"/proc/{self.worker}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])  # utime and stime, proc(5)


class Hall:
    """Starts every nginx before one service and one application."""

    def __init__(self, stage: subjects.Stage) -> None:
        self._stage = stage
        everybody = callers.callers(2)
        self.hotkey = everybody[0].hotkey.address
        self._identity = stage.folder / "caller.pem"
        self._identity.write_bytes(callers.key_pem(0) + everybody[0].pem)
        self._pair = stage.folder / "server.crt", stage.folder / "server.key"
        subprocess.run(
            [
                *(find_program("openssl"), "req", "-x509", "-noenc", "-days", "2"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-subj", "/CN=localhost", "-out", str(self._pair[0])),
                *("-keyout", str(self._pair[1])),
            ],
            capture_output=True,
            check=True,
        )
        service = subjects.our_service(
            stage, stage.start_pylon(everybody), name="nexus-auth", env={}
        )
        self._service = service.url.removeprefix("http://").rstrip("/")
        self._application = start_application(stage)

    def generated(self, name: str, edit: Callable[[str], str]) -> Gateway:
        """Nginx as `nexus-auth proxy-config nginx` configures it."""
        port, folder = free_port(), self._folder(name)
        site = Site(
            listen=parse_tcp_address(f"127.0.0.1:{port}"),
            app=parse_tcp_address(f"127.0.0.1:{self._application}"),
            auth=parse_tcp_address(self._service),
            tls_cert=str(self._pair[0]),
            tls_key=str(self._pair[1]),
            state_dir=str(folder),
        )
        (_, text), *_ = build_configuration("nginx", site).files
        text = text.replace("worker_processes auto;", "worker_processes 1;\ndaemon off;")
        text = text.replace("access_log off;", "access_log off; keepalive_requests 1000000;")
        return self._start(name, port, edit(text))

    def shipped(self, name: str, edit: Callable[[str], str]) -> Gateway:
        """Nginx as docker-compose.yml configures it."""
        port, folder = free_port(), self._folder(name)
        text = shipped_text(self._application, self._service, folder / "grants")
        text = re.sub(r"^\s*(access_log|error_log) [^;]*;", "", text, flags=re.MULTILINE)
        for old, new in {
            "listen 8443": f"listen 127.0.0.1:{port}",
            "/etc/nginx/ssl/nginx": str(self._pair[0].with_suffix("")),
        }.items():
            text = text.replace(old, new)
        main = self._stage.main_configuration(folder, edit(text))
        return self._start(name, port, main.replace("worker_processes 2;", "worker_processes 1;"))

    def _folder(self, name: str) -> Path:
        folder = self._stage.folder / name
        folder.mkdir()
        return folder

    def _start(self, name: str, port: int, text: str) -> Gateway:
        path = self._stage.folder / f"{name}.conf"
        path.write_text(text)
        command = [find_program("nginx"), "-e", f"{path}.log", "-c", str(path)]
        master = self._stage.start(name, command, port)
        # The port is open before the worker is there.
        while len(tree := process_tree(master)) == 1:
            time.sleep(0.01)
        return Gateway(port=port, worker=tree[1], identity=self._identity)


def measure() -> list[list[str]]:
    """Loads each configuration and its counterpart in turn; a row of the table for each."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="nexus-auth-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's workers may be another user
        stage = subjects.Stage(folder=folder)
        with stage.stack:
            hall = Hall(stage)
            for kind, start in (("generated", hall.generated), ("shipped", hall.shipped)):
                ours = start(kind, lambda text: text)
                bare = start(f"{kind}-bare", lambda text: without_authorisation(text, hall.hotkey))
                rows += [[kind, *_compare(ours, bare, keep_alive=each)] for each in (True, False)]
    return rows


def _compare(ours: Gateway, bare: Gateway, *, keep_alive: bool) -> list[str]:
    pairs = []
    for number in range(ROUNDS + 1):
        order = (ours, bare) if number % 2 else (bare, ours)
        found = {each.port: each.load(keep_alive=keep_alive) for each in order}
        pairs.append((found[ours.port], found[bare.port]))
    pairs = pairs[1:]  # the first one fills the caches
    rates = [one.per_second / other.per_second for one, other in pairs]
    times = [other.cpu_us / one.cpu_us for one, other in pairs]
    return [
        "keep-alive" if keep_alive else "a handshake for each request",
        f"{statistics.median(one.per_second for one, _ in pairs):,.0f}",
        f"{statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})",
        f"{statistics.median(one.cpu_us for one, _ in pairs):.1f} µs",
        f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
    ]


def main() -> int:
    """Prints the table."""
    heads = ["configuration", "connections", "requests/s", "of the rate without authorisation"]
    heads += ["processor time of nginx", "the same, without and with"]
    try:
        rows = measure()
    except BenchError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    for row in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
