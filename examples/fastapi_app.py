"""A FastAPI application in which some routes are open and others need a hotkey.

uvicorn examples.fastapi_app:app --port 8000 --no-proxy-headers

It runs behind a proxy on the same machine that sends the certificate in X-Client-Cert. The
environment names the Pylon and the subnet: NEXUS_PYLON_ENDPOINT and NEXUS_PYLON_NETUID.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI

import nexus_auth
from nexus_auth.asgi import NexusAuthMiddleware, require_hotkey, verifier_from_state


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, object], None]:
    """Opens the verifier when the application starts, and closes it at the end."""
    async with nexus_auth.connect(
        os.environ["NEXUS_PYLON_ENDPOINT"],
        netuid=int(os.environ["NEXUS_PYLON_NETUID"]),
        open_access_token=os.environ.get("NEXUS_PYLON_OPEN_ACCESS_TOKEN"),
    ) as verifier:
        yield {"verifier": verifier}


app = FastAPI(lifespan=lifespan)
app.add_middleware(
    NexusAuthMiddleware,
    verifier=verifier_from_state(),
    trusted_proxies=["127.0.0.1", "::1"],
    on_denial="anonymous",
)


@app.get("/health")
async def health() -> dict[str, str]:
    """Answers every caller."""
    return {"status": "well"}


@app.get("/work")
async def work(
    hotkey: Annotated[nexus_auth.Hotkey, Depends(require_hotkey)],
) -> dict[str, str]:
    """Answers registered hotkeys only."""
    return {"caller": hotkey.address}
