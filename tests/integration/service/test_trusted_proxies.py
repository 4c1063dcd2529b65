from __future__ import annotations

import signal
import socket
import struct
from pathlib import Path

import pytest

from tests.integration.pylon.running import running_pylon
from tests.integration.real import free_port, wait_until_ready
from tests.integration.service.running import (
    TIMEOUT_SECONDS,
    a_header,
    register,
    request,
    running_service,
)


def test_only_a_trusted_proxy_is_answered(tmp_path: Path) -> None:
    """The same certificate from the same place: what counts is who is named."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        for named, status, reason in (
            ("127.0.0.0/8", 200, None),
            ("10.0.0.1,192.0.2.0/24,::1", 403, "untrusted-peer"),
        ):
            with running_service(tmp_path, pylon.url, NEXUS_AUTH_TRUSTED_PROXIES=named) as service:
                for _ in range(2):
                    answered = service.ask(a_header("alice"))
                    assert (answered.status, answered.reason) == (status, reason)
                assert service.lines("anybody_may_ask") == []


def test_unix_socket_is_trusted_by_what_it_is(tmp_path: Path) -> None:
    """Its directory says who may open it; the peer has no address that a setting could name."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(
            tmp_path,
            pylon.url,
            socket_path=tmp_path / "auth.sock",
            NEXUS_AUTH_TRUSTED_PROXIES="192.0.2.1",
        ) as service:
            for _ in range(2):  # By the application, then by the fast path.
                granted = service.ask(a_header("alice"))
                assert (granted.status, granted.reason) == (200, None)
            assert service.ask(a_header("bob")).reason == "not-registered"


def test_connection_that_was_reset_before_it_was_accepted_is_no_unix_socket(
    tmp_path: Path,
) -> None:
    """It has no peer's name, and nothing makes a peer without a name trusted."""
    count = 50
    head = b"GET / HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: " + a_header("alice") + b"\r\n\r\n"
    with running_pylon() as pylon:
        register(pylon, "alice")
        for listen in ("127.0.0.1:{}", ":{}"):
            port = free_port()
            with running_service(
                tmp_path,
                pylon.url,
                NEXUS_AUTH_LISTEN_ADDR=listen.format(port),
                NEXUS_AUTH_TRUSTED_PROXIES="192.0.2.1",
                NEXUS_AUTH_LOG_GRANTS="all",
            ) as service:
                # Nothing is accepted until every connection is gone again.
                service.process.send_signal(signal.SIGSTOP)
                for _ in range(count):
                    with socket.create_connection(("127.0.0.1", port)) as connection:
                        linger = struct.pack("ii", 1, 0)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        connection.sendall(head)
                service.process.send_signal(signal.SIGCONT)
                connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
                answered = request(connection, "/", {"X-Client-Cert": a_header("alice").decode()})
                assert answered.reason == "untrusted-peer"
                codes = [line["code"] for line in service.lines("decision")]
                assert set(codes) == {"untrusted-peer"}
                assert len(codes) > 1, "what was reset was not read"


@pytest.mark.parametrize(
    ("named", "keeps_query", "vouched", "asked"),
    [
        ("127.0.0.0/8", "false", True, "/a"),
        ("127.0.0.0/8", "true", True, "/a?token=s3cret"),
        ("10.0.0.1", "true", False, ""),
        ("", "false", False, "/a"),
    ],
)
def test_log_says_whether_a_trusted_proxy_vouched_for_the_request(
    tmp_path: Path, named: str, keeps_query: str, asked: str, *, vouched: bool
) -> None:
    """For a grant and for denials; the query is there only where it was asked for."""
    headers = {"X-Original-URI": "/a?token=s3cret", "X-Request-ID": "7f3a"}
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(
            tmp_path,
            pylon.url,
            NEXUS_AUTH_LOG_QUERY=keeps_query,
            NEXUS_AUTH_TRUSTED_PROXIES=named,  # empty is unset
        ) as service:
            for certificate in (a_header("alice"), a_header("bob"), None):
                service.ask(certificate, **headers)
            wait_until_ready(lambda: len(service.lines("decision")) == 3, what="the lines")
            lines = service.lines("decision")
    assert {line["vouched"] for line in lines} == {vouched}
    # Of a peer that is no trusted proxy no header is read.
    is_read = vouched or not named
    assert ({line["request_id"] for line in lines} == {"7f3a"}) is is_read
    assert {line["uri"] for line in lines} == {asked if is_read else "/"}


def test_listening_to_everybody_is_warned_of_once(tmp_path: Path) -> None:
    """Who names no proxies and listens beyond this machine is told what that means."""
    everywhere = f":{free_port()}"
    with running_service(
        tmp_path,
        "http://127.0.0.1:9",
        wait=False,
        NEXUS_AUTH_LISTEN_ADDR=everywhere,
        NEXUS_AUTH_WORKERS="2",
    ) as service:
        (line,) = service.lines("anybody_may_ask")
        assert line["level"] == "warning"
        assert line["listen"] == everywhere
        assert "NEXUS_AUTH_TRUSTED_PROXIES" in line["problem"]
