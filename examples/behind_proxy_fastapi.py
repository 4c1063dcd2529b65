"""A FastAPI application behind a proxy that asks the auth service, and sends X-Hotkey.

uvicorn examples.behind_proxy_fastapi:app --port 8000 --no-proxy-headers

The proxy is on the same machine, with the configuration that `nexus-auth proxy-config nginx -app
127.0.0.1:8000` prints.
"""

from typing import Annotated

from fastapi import Depends, FastAPI

from nexus_auth import Hotkey
from nexus_auth.asgi import hotkey_from_proxy

caller = hotkey_from_proxy(trusted_proxies=["127.0.0.1", "::1"])
app = FastAPI()


@app.get("/")
async def hello(hotkey: Annotated[Hotkey, Depends(caller)]) -> dict[str, str]:
    """Greets the caller with its hotkey."""
    return {"hello": hotkey.address}
