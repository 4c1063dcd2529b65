"""A Starlette application behind a proxy that asks the auth service, and sends X-Hotkey.

uvicorn examples.behind_proxy_starlette:app --port 8000 --no-proxy-headers

The proxy is on the same machine, with the configuration that `nexus-auth proxy-config nginx -app
127.0.0.1:8000` prints.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nexus_auth.asgi import hotkey_from_proxy

caller = hotkey_from_proxy(trusted_proxies=["127.0.0.1", "::1"])


async def hello(request: Request) -> JSONResponse:
    """Greets the caller with its hotkey."""
    return JSONResponse({"hello": caller.read(request).address})


app = Starlette(routes=[Route("/", hello)])
