"""Calls a hotkey with aiohttp.

python examples/call_with_aiohttp.py HOTKEY https://203.0.113.7:8443/

The pair of `nexus-auth generate` is in ./certs. The environment names the Pylon and the subnet:
NEXUS_PYLON_ENDPOINT and NEXUS_PYLON_NETUID.
"""

import asyncio
import os
import sys

import aiohttp

from nexus_auth.client import ServerNotProven, connect


async def call(hotkey: str, url: str) -> None:
    """Sends one request, and shows the answer."""
    async with connect(
        os.environ["NEXUS_PYLON_ENDPOINT"],
        netuid=int(os.environ["NEXUS_PYLON_NETUID"]),
        open_access_token=os.environ.get("NEXUS_PYLON_OPEN_ACCESS_TOKEN"),
        certificates="./certs",
    ) as caller:
        # All connections of this session are to one hotkey. For several, make one context each,
        # and name it in the request: session.get(url, ssl=context). They share no connection.
        connector = aiohttp.TCPConnector(ssl=await caller.tls_context(hotkey))
        # aiohttp takes no proxy from the environment unless trust_env says so.
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                # The context guards redirects to other https servers, but not to http.
                async with session.get(url, allow_redirects=False) as answer:
                    print(answer.status, await answer.text())
            except aiohttp.ClientError as exc:
                problem = ServerNotProven.find(exc)
                if problem is None:
                    raise
                sys.exit(str(problem))


if __name__ == "__main__":
    asyncio.run(call(*sys.argv[1:]))
