"""The caller's hotkey in an application behind a proxy that asks the auth service itself.

Such a proxy sends `X-Hotkey`, and removes any that a client sends. The header proves something
only when that proxy sent it: the peer is checked as the gate checks it.
"""

# Annotations are evaluated here: FastAPI does not find the names of a callable object's module.

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, cast

from starlette.requests import HTTPConnection
from starlette.types import Scope

from nexus_auth.adapters.headers.names import HOTKEY_HEADER
from nexus_auth.adapters.starlette.answers import HOTKEY_FIELD
from nexus_auth.adapters.starlette.gate import HeaderBelief, lower_names
from nexus_auth.adapters.starlette.refusal import build_refusal
from nexus_auth.adapters.starlette.trusted_peers import TrustedPeers
from nexus_auth.domain.errors import InvalidHotkey
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from litestar.di import Provide


class HotkeyFromProxy:
    """Reads the caller's hotkey from `X-Hotkey`, where the peer is the proxy.

    Made by `hotkey_from_proxy`. It looks at nothing else: whether the hotkey is registered and may
    enter, the proxy has asked.

    Attributes:
        scheme_name: The name of the security scheme in OpenAPI.
        description: What the scheme asks of a client, for readers of the OpenAPI document.
    """

    scheme_name: str = "nexus-auth"
    description: str = (
        "Mutual TLS: show the client certificate of a hotkey that is registered on the subnet. The "
        f"reverse proxy checks it and sets {HOTKEY_HEADER}. What a client sends in that header is "
        "removed."
    )

    def __init__(
        self, trusted_proxies: Iterable[str], *, server_keeps_trailers_apart: bool = False
    ) -> None:
        """Sets whom to believe; see `hotkey_from_proxy` for the arguments."""
        self._belief = HeaderBelief(
            TrustedPeers.of(trusted_proxies), trailers_kept_apart=server_keeps_trailers_apart
        )

    def read(self, connection: HTTPConnection) -> Hotkey:
        """Gives the caller's hotkey, for Starlette: in an endpoint, or in a middleware.

        Args:
            connection: A request or a WebSocket that is not accepted yet.

        Raises:
            starlette.exceptions.HTTPException: 403, where no hotkey is proven.
            starlette.exceptions.WebSocketException: The same for a WebSocket, where the server
                cannot answer one with a response.
        """
        return self._read(connection.scope)

    async def __call__(self, connection: HTTPConnection) -> Hotkey:
        """Does the same as a dependency of FastAPI: `Depends(...)`."""
        return self._read(connection.scope)

    def for_litestar(self) -> "Provide":
        """Makes a dependency of Litestar: `dependencies={"hotkey": caller.for_litestar()}`."""
        # Litestar knows a scope by its own type alone, and is no dependency of ours.
        from litestar.di import Provide  # noqa: PLC0415
        from litestar.types import Scope as LitestarScope  # noqa: PLC0415

        async def provide(scope: LitestarScope) -> Hotkey:
            return self._read(cast("Scope", scope))

        return Provide(provide)

    def _read(self, scope: Scope) -> Hotkey:
        headers = lower_names(scope)
        denied = self._belief.find_denial(scope, headers)
        if denied is not None:
            raise build_refusal(scope, denied.reason)
        values = [value for name, value in headers if name == HOTKEY_FIELD]
        if len(values) != 1:
            raise build_refusal(scope, DenialReason.NO_CERTIFICATE)
        try:
            return Hotkey.parse(values[0].decode("latin-1"))
        except InvalidHotkey:
            raise build_refusal(scope, DenialReason.INVALID_HOTKEY) from None


def hotkey_from_proxy(
    *, trusted_proxies: Iterable[str], server_keeps_trailers_apart: bool = False
) -> HotkeyFromProxy:
    """Makes what reads the caller's hotkey behind a proxy that asks the auth service.

        caller = hotkey_from_proxy(trusted_proxies=["127.0.0.1", "::1"])

        async def work(hotkey: Annotated[Hotkey, Depends(caller)]): ...   # FastAPI
        hotkey = caller.read(request)                                     # Starlette
        dependencies={"hotkey": caller.for_litestar()}                    # Litestar

    Where FastAPI is installed, its OpenAPI document has a security scheme for it.

    Args:
        trusted_proxies: Addresses, networks or `unix`: the peers whose `X-Hotkey` is believed.
            Name the proxy that asks the auth service, and nothing that others can call from. An
            empty list trusts no peer. The peer is what the server reports as the client; see
            `NexusAuthMiddleware`.
        server_keeps_trailers_apart: As of `NexusAuthMiddleware`.
    """
    return _best_class()(trusted_proxies, server_keeps_trailers_apart=server_keeps_trailers_apart)


@cache
def _best_class() -> type[HotkeyFromProxy]:
    """A security scheme of FastAPI, which knows them by their class, where it is installed."""
    try:
        from fastapi.openapi.models import APIKey  # noqa: PLC0415 - no dependency of ours
        from fastapi.security.base import SecurityBase  # noqa: PLC0415 - as above
    except ImportError:
        return HotkeyFromProxy

    class HotkeyScheme(HotkeyFromProxy, SecurityBase):
        # OpenAPI's own type for this, mutualTLS, is none that FastAPI's models know (measured with
        # 0.165): the whole document would be an error.
        model = APIKey.model_validate(
            {
                "in": "header",
                "name": HOTKEY_HEADER,
                "description": HotkeyFromProxy.description,
            }
        )

    return HotkeyScheme
