"""A Starlette application that only registered hotkeys may use.

uvicorn examples.starlette_app:app --port 8000 --no-proxy-headers

It runs behind a proxy on the same machine that sends the certificate in X-Client-Cert. The
environment names the Pylon and the subnet: NEXUS_PYLON_ENDPOINT and NEXUS_PYLON_NETUID.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import nexus_auth
from nexus_auth.asgi import NexusAuthMiddleware, verifier_from_state


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, object], None]:
    """Opens the verifier when the application starts, and closes it at the end."""
    async with nexus_auth.connect(
        os.environ["NEXUS_PYLON_ENDPOINT"],
        netuid=int(os.environ["NEXUS_PYLON_NETUID"]),
        open_access_token=os.environ.get("NEXUS_PYLON_OPEN_ACCESS_TOKEN"),
    ) as verifier:
        yield {"verifier": verifier}


async def hello(request: Request) -> PlainTextResponse:
    """Greets the caller with its hotkey."""
    return PlainTextResponse(f"hello {request.user.hotkey}")


app = Starlette(
    routes=[Route("/", hello)],
    lifespan=lifespan,
    middleware=[
        Middleware(
            NexusAuthMiddleware,
            verifier=verifier_from_state(),
            trusted_proxies=["127.0.0.1", "::1"],
        )
    ],
)
