"""A Litestar application behind a proxy that asks the auth service, and sends X-Hotkey.

uvicorn examples.behind_proxy_litestar:app --port 8000 --no-proxy-headers

The proxy is on the same machine, with the configuration that `nexus-auth proxy-config nginx -app
127.0.0.1:8000` prints.
"""

from litestar import Litestar, get
from litestar.di import NamedDependency
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from nexus_auth import Hotkey
from nexus_auth.asgi import hotkey_from_proxy

caller = hotkey_from_proxy(trusted_proxies=["127.0.0.1", "::1"])
scheme = SecurityScheme(type="mutualTLS", description=caller.description)


@get("/")
async def hello(hotkey: NamedDependency[Hotkey]) -> dict[str, str]:
    """Greets the caller with its hotkey."""
    return {"hello": hotkey.address}


app = Litestar(
    [hello],
    dependencies={"hotkey": caller.for_litestar()},
    openapi_config=OpenAPIConfig(
        title="An application behind a proxy",
        version="1.0.0",
        components=Components(security_schemes={caller.scheme_name: scheme}),
        security=[{caller.scheme_name: []}],
    ),
)
