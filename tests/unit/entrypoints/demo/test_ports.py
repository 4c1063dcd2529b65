from __future__ import annotations

import socket
import sys

import pytest

from nexus_auth.entrypoints.demo.ports import LOOPBACK, ReservedPort


def test_reserved_port_can_be_listened_on_by_who_it_is_meant_for() -> None:
    """A server takes it in the usual way, and is then noticed."""
    port = ReservedPort()
    assert not port.is_answered()
    with socket.create_server((LOOPBACK, port.number)):
        assert port.is_answered()
    port.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep it")
def test_reserved_port_is_given_to_nobody_else() -> None:
    """Who asks for a port of this number without sharing does not get it."""
    port = ReservedPort()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((LOOPBACK, port.number))
    port.close()
