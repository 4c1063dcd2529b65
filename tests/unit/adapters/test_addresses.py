from __future__ import annotations

import pytest

from nexus_auth.adapters.addresses import TcpAddress


@pytest.mark.parametrize(
    ("host", "is_numeric", "is_loopback"),
    [
        ("127.0.0.1", True, True),
        ("::1", True, True),
        ("10.0.0.1", True, False),
        ("localhost", False, True),
        ("localhost.example.org", False, False),
        ("", False, False),
    ],
)
def test_only_this_machine_is_loopback(host: str, *, is_numeric: bool, is_loopback: bool) -> None:
    """A name is believed to be this machine's only where it is `localhost` itself."""
    address = TcpAddress(host, 80)
    assert (address.is_numeric, address.is_loopback) == (is_numeric, is_loopback)
