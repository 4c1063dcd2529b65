"""Calls hotkeys with httpx from code without an event loop, several at a time.

    export NEXUS_PYLON_ENDPOINT=http://pylon:8000 NEXUS_PYLON_NETUID=12
    python examples/call_with_httpx_sync.py HOTKEY=203.0.113.7:8443 HOTKEY=203.0.113.8:8443 ...

`./certs` holds the pair that `nexus-auth generate` made.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

from nexus_auth.client import SyncCaller, connect


def main(*servers: str) -> int:
    """Calls each server once, and prints what became of it."""
    hotkeys = {host: hotkey for hotkey, _, host in (each.partition("=") for each in servers)}
    failed = 0
    with (
        SyncCaller(
            lambda: connect(
                os.environ["NEXUS_PYLON_ENDPOINT"],
                netuid=int(os.environ["NEXUS_PYLON_NETUID"]),
                open_access_token=os.environ.get("NEXUS_PYLON_OPEN_ACCESS_TOKEN"),
                certificates="./certs",
            )
        ) as caller,
        # A URL of any other host is refused.
        caller.http_client(hotkeys=hotkeys, timeout=10) as http,
        ThreadPoolExecutor() as threads,
    ):
        calls = {host: threads.submit(http.get, f"https://{host}/") for host in hotkeys}
        for host, call in calls.items():
            try:
                print(host, call.result().status_code)
            except httpx.HTTPError as exc:  # A server that is not its hotkey among them.
                print(host, exc, file=sys.stderr)
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
