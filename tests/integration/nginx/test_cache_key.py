"""What a certificate gains whose fingerprint is another's: docs/security.md draws on these tests.

Nobody can make two certificates of one SHA-1 here, so nginx's key is cut to its first digit: then
every sixteenth certificate has the fingerprint of another.
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_der, to_pem
from tests.integration.nginx.test_development_configuration import (
    House,
    Recorder,
    running_house,
    save_caller,
)
from tests.integration.proxies.client import connect, exchange, http1_request
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import free_port, require_program, wait_until_ready
from tests.integration.service.running import register, running_service

KEY: Final = "proxy_cache_key $uri$ssl_client_fingerprint;"
FIRST_DIGIT: Final = 'map $ssl_client_fingerprint $first { "~^(?<digit>.)" $digit; }\n'


def with_a_weak_key(text: str) -> str:
    """Cuts the cache key of the shipped configuration to four bits of the fingerprint."""
    assert KEY in text
    return FIRST_DIGIT + text.replace(KEY, "proxy_cache_key $uri$first;")


@pytest.fixture
def pylon() -> Iterator[RunningPylon]:
    """A development Pylon that knows alice and bob."""
    with running_pylon() as pylon:
        register(pylon, "alice", "bob")
        yield pylon


@pytest.fixture
def house(pylon: RunningPylon, tmp_path: Path) -> Iterator[House]:
    """Nginx with the weak key before a real service, whose grants are worth a second."""
    application, service_folder = Recorder(answers_always=True), tmp_path / "service"
    service_folder.mkdir()
    with (
        running_service(
            service_folder,
            pylon.url,
            NEXUS_AUTH_REUSE_SECONDS="1",
            NEXUS_AUTH_REFRESH_SECONDS="2",
        ) as service,
        application.serving(),
        running_house(
            tmp_path, Recorder(port=service.port), application, edit=with_a_weak_key
        ) as house,
    ):
        yield house


def save_colliding(
    folder: Path,
    name: str,
    *,
    hotkey: str,
    key: str,
    digit: str | None = None,
    ends: timedelta = timedelta(hours=1),
) -> str:
    """Writes certificate and key of a caller, and gives the certificate's first digit.

    Args:
        folder: Where to.
        name: What the caller is called.
        hotkey: Whose hotkey the certificate names.
        key: Whose key it has.
        digit: The digit that its fingerprint begins with; None for any.
        ends: When it ends, from now.
    """
    now = datetime.now(tz=UTC).replace(microsecond=0)
    for serial in range(1, 4096):
        certificate = a_certificate(
            hotkey=a_hotkey(hotkey),
            key=a_key(key),
            not_before=now - timedelta(days=1),
            not_after=now + ends,
            serial_number=serial,
        )
        found = fingerprint(certificate)[0]
        if digit in {None, found}:
            private = a_key(key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (folder / f"{name}.pem").write_bytes(private + to_pem(certificate))
            return found
    raise AssertionError("one in sixteen should have it")


def fingerprint(certificate: x509.Certificate) -> str:
    """What nginx calls the fingerprint."""
    return hashlib.sha1(to_der(certificate), usedforsecurity=False).hexdigest()


def names_seen(house: House) -> set[str | None]:
    """Under which hotkeys requests reached the application."""
    return {seen.get("x-hotkey") for seen in house.application.seen}


@pytest.mark.parametrize(
    ("hotkey", "key"),
    [
        ("bob", "alice"),  # another's hotkey, under the maker's key
        ("alice", "another"),  # the maker's hotkey, under a key that is not registered
        ("carol", "another"),  # nothing of it is registered
    ],
)
def test_colliding_certificate_gains_only_the_name_of_its_maker_and_only_for_a_while(
    house: House, hotkey: str, key: str
) -> None:
    """By itself it is denied; beside the maker's grant it is the maker, until that grant ends."""
    digit = save_colliding(house.folder, "maker", hotkey="alice", key="alice")
    save_colliding(house.folder, "twin", hotkey=hotkey, key=key, digit=digit)
    assert house.request("twin") == 403
    wait_until_ready(
        lambda: house.request("maker") == 200 and house.request("twin") == 200,
        what="the maker's grant for the twin",
    )
    wait_until_ready(lambda: house.request("twin") == 403, what="the end of the grant")
    assert names_seen(house) == {a_hotkey("alice").address}


def test_denial_of_a_colliding_certificate_harms_no_registered_caller(house: House) -> None:
    """Denials are never kept, so a twin cannot shut anybody out."""
    digit = save_colliding(house.folder, "maker", hotkey="alice", key="alice")
    save_colliding(house.folder, "twin", hotkey="carol", key="another", digit=digit)
    for _ in range(3):
        house.request("twin")
        assert house.request("maker") == 200


def test_second_key_after_a_rotation_gains_what_the_first_had(
    house: House, pylon: RunningPylon
) -> None:
    """Both keys are one maker's; the old one ends within a refresh, as without a collision."""
    digit = save_colliding(house.folder, "old", hotkey="alice", key="alice")
    save_colliding(house.folder, "new", hotkey="alice", key="new", digit=digit)
    assert house.request("old") == 200
    pylon.store.set_certificate(a_hotkey("alice"), public_bytes(a_key("new")))
    wait_until_ready(lambda: house.request("old") == 403, what="the end of the old key")
    wait_until_ready(lambda: house.request("new") == 200, what="the new key")
    assert names_seen(house) == {a_hotkey("alice").address}


def test_expired_certificate_gains_nothing_from_a_grant(house: House) -> None:
    """Nginx refuses it before any location is looked for."""
    digit = save_colliding(house.folder, "maker", hotkey="alice", key="alice")
    save_colliding(
        house.folder, "late", hotkey="alice", key="alice", digit=digit, ends=-timedelta(hours=1)
    )
    for _ in range(3):
        assert house.request("maker") == 200
        assert house.request("late") == 400
    assert len(house.application.seen) == 3


def test_grant_of_a_certificate_that_ends_soon_ends_with_it(house: House) -> None:
    """Even where another of its fingerprint would still be good."""
    digit = save_colliding(
        house.folder, "short", hotkey="alice", key="alice", ends=timedelta(seconds=4)
    )
    save_colliding(house.folder, "twin", hotkey="carol", key="another", digit=digit)
    house.request("short")
    wait_until_ready(lambda: house.request("short") == 400, what="the end of the certificate")
    wait_until_ready(lambda: house.request("twin") == 403, what="the end of its grant")


def with_validators(text: str) -> str:
    """Copies both locations for another policy, as the comment in the configuration says."""
    begin, auth = text.index("    location / {"), text.index("    location = /auth {")
    end = text.index("\n    }\n", auth) + len("\n    }\n")
    copied = (
        text[begin:end]
        .replace("location / {", "location /validators/ {")
        .replace("location = /auth {", "location = /auth-validators {")
        .replace("auth_request /auth;", "auth_request /auth-validators;")
        .replace("# proxy_set_header X-Nexus-Auth-Policy", "proxy_set_header X-Nexus-Auth-Policy")
    )
    return text[:end] + copied + text[end:]


def test_grant_under_one_policy_is_none_under_another(tmp_path: Path) -> None:
    """The same certificate is decided on once for each of them."""
    auth = Recorder(hotkeys={save_caller(tmp_path, "alice"): a_hotkey("alice").address})
    application = Recorder(answers_always=True)
    with (
        auth.serving(),
        application.serving(),
        running_house(tmp_path, auth, application, edit=with_validators) as house,
    ):
        for target in ("/", "/validators/", "/", "/validators/"):
            assert house.request("alice", target=target) == 200
        policies = [seen.get("x-nexus-auth-policy") for seen in auth.seen]
        assert policies == [None, "validators"]


def on_two_ports(second: int, verify: str) -> Callable[[str], str]:
    """Adds a second server that shares the TLS sessions of the first.

    Both tell the application the fingerprint and the certificate.
    """

    def edit(text: str) -> str:
        told = (
            "proxy_set_header X-Seen-Fingerprint $ssl_client_fingerprint;\n"
            "proxy_set_header X-Seen-Certificate $ssl_client_escaped_cert;\n"
            "proxy_set_header X-Hotkey $client_hotkey;"
        )
        text = text.replace("proxy_set_header X-Hotkey $client_hotkey;", told)
        begin = text.index("\nserver {")
        server = text[begin : text.index("\nserver {", begin + 1)]
        assert "ssl_session_cache shared:nexus_tls:10m;" in server
        server = re.sub(r"listen 127\.0\.0\.1:\d+", f"listen 127.0.0.1:{second}", server)
        return text + server.replace("optional_no_ca", verify)

    return edit


@contextmanager
def two_servers(folder: Path, verify: str) -> Iterator[tuple[House, int]]:
    """The development set-up with a second server; alice and bob are registered."""
    auth = Recorder(
        hotkeys={save_caller(folder, name): a_hotkey(name).address for name in ("alice", "bob")}
    )
    application, second = Recorder(answers_always=True), free_port()
    with (
        auth.serving(),
        application.serving(),
        running_house(folder, auth, application, edit=on_two_ports(second, verify)) as house,
    ):
        yield house, second


SESSIONS: Final = {
    "TLS 1.2, ticket": (ssl.TLSVersion.TLSv1_2, True),
    "TLS 1.2, session id": (ssl.TLSVersion.TLSv1_2, False),
    "TLS 1.3": (ssl.TLSVersion.TLSv1_3, True),
}


def context_of(house: House, caller: str, kind: str) -> ssl.SSLContext:
    """A caller's own context."""
    version, with_ticket = SESSIONS[kind]
    context = ssl.create_default_context(cafile=house.folder / "nginx.crt")
    context.load_cert_chain(house.folder / f"{caller}.pem")
    context.minimum_version = context.maximum_version = version
    if not with_ticket:
        context.options |= ssl.OP_NO_TICKET
    return context


def ask_twice(context: ssl.SSLContext, first: int, then: int) -> tuple[list[int], bool]:
    """The statuses of two connections, and whether the second resumed the first's session."""
    with connect(first, context) as connection:
        statuses = [exchange(connection, http1_request()).status]
        session = connection.session
    with connect(then, context, session=session) as connection:
        statuses.append(exchange(connection, http1_request()).status)
        return statuses, bool(connection.session_reused)


@pytest.mark.parametrize("kind", SESSIONS)
def test_resumed_session_has_the_fingerprint_of_the_certificate_that_was_proven(
    tmp_path: Path, kind: str
) -> None:
    """In the same server and in another that shares the sessions, with others' grants around."""
    with two_servers(tmp_path, "optional_no_ca") as (house, second):
        for caller in ("alice", "bob"):
            for then in (house.port, second):
                context = context_of(house, caller, kind)
                statuses, resumed = ask_twice(context, house.port, then)
                assert statuses == [200, 200]
                assert resumed or then == second
        for seen in house.application.seen:
            pem = unquote(seen["x-seen-certificate"])
            der = base64.b64decode("".join(pem.split("\n")[1:-2]))
            digest = hashlib.sha1(der, usedforsecurity=False).hexdigest()
            assert seen["x-seen-fingerprint"] == digest
            assert house.auth.hotkeys[seen["x-seen-certificate"]] == seen["x-hotkey"]


@pytest.mark.parametrize("kind", SESSIONS)
def test_session_that_began_without_a_certificate_has_no_fingerprint(
    tmp_path: Path, kind: str
) -> None:
    """Also where the server in which it began asks for none: it uses nobody's grant."""
    with two_servers(tmp_path, "off") as (house, second):
        for _ in range(2):
            assert house.request("alice") == 200
        statuses, _ = ask_twice(context_of(house, "alice", kind), second, second)
        assert statuses == [403, 403]
        with connect(second, context_of(house, "alice", kind)) as connection:
            exchange(connection, http1_request())
            session, context = connection.session, connection.context
        with connect(house.port, context, session=session) as connection:
            answer = exchange(connection, http1_request())
            # Either nginx does not resume it, and alice proves her key, or there is no certificate.
            assert answer.status == (403 if connection.session_reused else 200)


def test_openssl_and_nginx_agree_on_what_is_hashed(tmp_path: Path) -> None:
    """The fingerprint covers every byte of the certificate that the auth service is shown."""
    require_program("openssl", "apt-get install openssl")
    with two_servers(tmp_path, "optional_no_ca") as (house, _):
        assert house.request("alice") == 200
        pem = (house.folder / "alice.pem").read_bytes()
        certificate = x509.load_pem_x509_certificate(pem)
        assert house.application.seen[0]["x-seen-fingerprint"] == fingerprint(certificate)
