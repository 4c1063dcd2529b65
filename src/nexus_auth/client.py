"""For those who call hotkeys: no byte of a request leaves before the server is proven.

    async with connect("http://pylon:8000", netuid=12, certificates="./certs") as caller:
        async with caller.http_client() as http:
            answer = await http.get("https://203.0.113.7:8443/", extensions={"hotkey": HOTKEY})

A handshake completes only with the key that is registered for the hotkey at that moment, whatever
the address, the names and the issuer of the certificate; the caller shows the pair of `generate`.
`docs/calling.md` shows each part at work.
"""

from __future__ import annotations

from nexus_auth.adapters.tls.caller import Caller, SyncCaller
from nexus_auth.domain.errors import (
    HotkeyNotRegistered,
    RequestRefused,
    ServerKeyMismatch,
    ServerKeyUnknown,
    ServerNotProven,
)
from nexus_auth.entrypoints.caller import connect, connect_chain

__all__ = [
    "Caller",
    "HotkeyNotRegistered",
    "RequestRefused",
    "ServerKeyMismatch",
    "ServerKeyUnknown",
    "ServerNotProven",
    "SyncCaller",
    "connect",
    "connect_chain",
]
