"""Calls a hotkey with httpx, asynchronously.

    export NEXUS_PYLON_ENDPOINT=http://pylon:8000 NEXUS_PYLON_NETUID=12
    python examples/call_with_httpx.py HOTKEY https://203.0.113.7:8443/

`./certs` holds the pair that `nexus-auth generate` made. The request leaves only when the server
has proven to hold the key that is registered for HOTKEY.
"""

from __future__ import annotations

import asyncio
import os
import sys

import httpx

from nexus_auth.client import HotkeyNotRegistered, ServerKeyMismatch, connect


async def main(hotkey: str, url: str) -> int:
    """Makes two calls over one connection, and prints the answers."""
    async with (
        connect(
            os.environ["NEXUS_PYLON_ENDPOINT"],
            netuid=int(os.environ["NEXUS_PYLON_NETUID"]),
            open_access_token=os.environ.get("NEXUS_PYLON_OPEN_ACCESS_TOKEN"),
            certificates="./certs",
        ) as caller,
        caller.http_client(timeout=10) as http,
    ):
        try:
            for question in ("first", "second"):
                answer = await http.post(
                    url, json={"question": question}, extensions={"hotkey": hotkey}
                )
                print(answer.status_code, answer.text)
        except ServerKeyMismatch as exc:
            print(f"not {exc.hotkey}: expected {exc.expected}, found {exc.found}", file=sys.stderr)
        except HotkeyNotRegistered as exc:
            print(f"no key is registered for {exc.hotkey}", file=sys.stderr)
        except httpx.HTTPError as exc:
            print(f"the call failed: {exc}", file=sys.stderr)
        else:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
