from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import nexus_auth
from nexus_auth.adapters.headers import names
from nexus_auth.adapters.headers.names import (
    FORGEABLE_HEADERS,
    CertificateFormat,
    with_dots,
    with_underscores,
)
from nexus_auth.adapters.proxies.table import PROXIES


def test_every_preset_s_header_is_removed_from_what_clients_send() -> None:
    """No proxy lets a client bring the header that any of them uses."""
    assert {proxy.header.name for proxy in PROXIES.values()} <= set(FORGEABLE_HEADERS)


def test_underscores_stand_for_hyphens_in_every_combination() -> None:
    """Two hyphens have four spellings."""
    assert set(with_underscores("a-b-c")) == {"a-b-c", "a_b-c", "a-b_c", "a_b_c"}
    assert with_underscores("X-Hotkey") == ("X-Hotkey", "X_Hotkey")


def test_dots_stand_for_hyphens_in_what_the_application_believes() -> None:
    """The hotkey and every fact about it, under each spelling."""
    assert set(with_dots("X-Hotkey-Uid")) == {
        *("X-Hotkey-Uid", "X.Hotkey-Uid", "X-Hotkey.Uid", "X.Hotkey.Uid")
    }
    for name in ("X-Hotkey", "X-Hotkey-Uid", "X-Hotkey-Validator", "X-Hotkey-Stake"):
        assert set(with_dots(name)) <= set(FORGEABLE_HEADERS)


def test_names_on_the_wire_are_those_of_the_contract() -> None:
    """Proxies, applications and logs rely on each, letter for letter."""
    assert (names.HOTKEY_HEADER, names.REASON_HEADER) == ("X-Hotkey", "X-Nexus-Auth-Reason")
    assert (names.REUSE_HEADER, names.POLICY_HEADER) == ("X-Accel-Expires", "X-Nexus-Auth-Policy")
    assert names.REQUEST_ID_HEADER == "X-Request-ID"
    assert names.ORIGINAL_URI_HEADERS == ("X-Original-URI", "X-Forwarded-Uri")
    assert names.ORIGINAL_METHOD_HEADERS == ("X-Original-Method", "X-Forwarded-Method")
    assert names.TRACE_PARENT_HEADER == "traceparent"
    assert names.HAND_WRITTEN_HEADER == "X-SSL-Client-Cert"
    assert (
        *("X-Client-Cert", "Client-Cert", "Client-Cert-Chain", "X-Forwarded-Client-Cert"),
        *("X-Forwarded-Tls-Client-Cert", "X-Forwarded-Tls-Client-Cert-Info"),
        *("X-Amzn-Mtls-Clientcert", "X-Amzn-Mtls-Clientcert-Leaf", "ssl-client-cert"),
        *("ssl-client-verify", "ssl-client-subject-dn", "ssl-client-issuer-dn"),
        *("X-Client-Cert-Subject", "X-Client-Cert-Issuer"),
    ) == names.CERTIFICATE_HEADERS
    assert [str(each) for each in CertificateFormat] == [
        *("percent-encoded-pem", "rfc9440", "xfcc", "base64-der")
    ]


def test_field_is_the_name_as_asgi_servers_give_it() -> None:
    """Lower case, bytes: what headers are compared with."""
    assert names.field_name("X-Hotkey") == b"x-hotkey"
    assert (names.POLICY_FIELD, names.REQUEST_ID_FIELD) == (b"x-nexus-auth-policy", b"x-request-id")


def test_no_client_may_bring_what_counts() -> None:
    """The facts of a grant, the choice of a policy, and whatever carries a certificate."""
    assert {names.POLICY_HEADER, *names.CERTIFICATE_HEADERS} <= set(FORGEABLE_HEADERS)
    assert set(with_underscores("X-Hotkey")) & set(FORGEABLE_HEADERS) == {"X-Hotkey"}


PACKAGE: Final = Path(nexus_auth.__path__[0])

WIRE_NAMES: Final = {
    *(names.HOTKEY_HEADER, names.REASON_HEADER, names.REUSE_HEADER, names.POLICY_HEADER),
    *(names.REQUEST_ID_HEADER, *names.ORIGINAL_URI_HEADERS, *names.ORIGINAL_METHOD_HEADERS),
    *(*names.FACT_HEADERS, *names.CERTIFICATE_HEADERS, names.HAND_WRITTEN_HEADER),
}


def test_no_other_module_spells_a_wire_name() -> None:
    """A header is renamed, added and looked for in one place."""
    known = {name.lower() for name in WIRE_NAMES}
    spelt = {
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "names.py"
        for text in strings(path)
        if text.lower() in known
    }
    assert spelt == set()


def strings(path: Path) -> set[str]:
    """Every text and every bytes that stands in a source file by itself."""
    constants = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    ]
    texts = {each for each in constants if isinstance(each, str)}
    return texts | {each.decode("latin-1") for each in constants if isinstance(each, bytes)}
