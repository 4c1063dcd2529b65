"""A caller with grpcio: `grpc.aio` over the TLS of a context of nexus-auth.

grpcio accepts no server with an Ed25519 key, so it does no TLS here. It speaks to a unix socket in
a private folder, and what it sends there goes to the server over a connection of the context.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncGenerator


@contextlib.asynccontextmanager
async def grpc_target(context: ssl.SSLContext, host: str, port: int) -> AsyncGenerator[str, None]:
    """Gives the target for `grpc.aio.insecure_channel` until the block ends.

        context = await caller.tls_context(HOTKEY)
        async with grpc_target(context, "203.0.113.7", 8443) as target:
            async with grpc.aio.insecure_channel(target) as channel:
                ...

    A server that is not proven is grpcio's UNAVAILABLE.
    """
    context.set_alpn_protocols(["h2"])
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(10):
            there, to_there = await asyncio.open_connection(host, port, ssl=context)
        await asyncio.gather(_copy(reader, to_there), _copy(there, writer))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(connect(reader, writer))
        connections[task] = writer
        with contextlib.suppress(OSError):  # ssl.SSLError and TimeoutError are some
            await task
        del connections[task]
        writer.close()

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/grpc.sock"
        server = await asyncio.start_unix_server(serve, path)
        try:
            yield f"unix:{path}"
        finally:
            server.close()
            for writer in connections.values():
                writer.close()
            await asyncio.gather(*connections, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()
