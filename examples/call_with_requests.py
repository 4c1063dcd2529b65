"""Calls a hotkey with requests.

python examples/call_with_requests.py HOTKEY https://203.0.113.7:8443/

The pair of `nexus-auth generate` is in ./certs. The environment names the Pylon and the subnet:
NEXUS_PYLON_ENDPOINT and NEXUS_PYLON_NETUID.
"""

import os
import ssl
import sys
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from nexus_auth.client import ServerNotProven, SyncCaller, connect


class HotkeyAdapter(HTTPAdapter):
    """Sends requests to one hotkey: requests itself takes no context, and checks authorities."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Gives urllib3 the context."""
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def proxy_manager_for(self, proxy: str, **_: Any) -> Any:
        """Refuses: through a proxy, requests would connect with a context of its own."""
        raise requests.exceptions.ProxyError(f"no hotkey is called through a proxy: {proxy}")

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Leaves the context as it is: neither `verify` nor `cert` says anything about a key."""


def session_for(context: ssl.SSLContext) -> requests.Session:
    """Makes a session for one hotkey; a redirect leads to the same hotkey, or is refused."""
    session = requests.Session()
    # Otherwise requests takes proxies, passwords (.netrc) and authorities from around it.
    session.trust_env = False
    # What is not https has no adapter, and is refused.
    session.adapters.clear()
    session.mount("https://", HotkeyAdapter(context))
    return session


def call(hotkey: str, url: str) -> None:
    """Sends one request, and shows the answer."""
    with (
        SyncCaller(
            lambda: connect(
                os.environ["NEXUS_PYLON_ENDPOINT"],
                netuid=int(os.environ["NEXUS_PYLON_NETUID"]),
                open_access_token=os.environ.get("NEXUS_PYLON_OPEN_ACCESS_TOKEN"),
                certificates="./certs",
            )
        ) as caller,
        session_for(caller.tls_context(hotkey)) as session,
    ):
        try:
            answer = session.get(url, timeout=30)
        except requests.ConnectionError as exc:
            problem = ServerNotProven.find(exc)
            if problem is None:
                raise
            sys.exit(str(problem))
        print(answer.status_code, answer.text)


if __name__ == "__main__":
    call(*sys.argv[1:])
