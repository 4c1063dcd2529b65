from __future__ import annotations

import pytest

from nexus_auth.entrypoints.cli import build_parser
from nexus_auth.entrypoints.commands import sidecar
from nexus_auth.entrypoints.settings import Settings, all_settings


def _flags(name: str) -> set[str]:
    parser = build_parser(only=name)
    return {action for action in vars(parser.parse_args([name])) if action != "execute"}


def test_it_has_the_flags_of_run_but_those_that_it_sets_itself() -> None:
    """A new setting of `run` is one of the sidecar too."""
    own = set(sidecar._OWN_SETTINGS)
    assert own <= {row.attribute for row in all_settings()}
    assert _flags("run") - _flags("sidecar") == own - {"socket_mode"}


def test_what_it_sets_itself_has_the_service_read_envoys_header_alone() -> None:
    """Whatever the environment says of the proxy."""
    environ = {
        "NEXUS_AUTH_PROXY": "nginx",
        "NEXUS_AUTH_CERT_HEADER": "X-Mine",
        "NEXUS_AUTH_CERT_FORMAT": "base64-der",
    }
    settings = Settings.load(flags=sidecar._OWN_SETTINGS, environ=environ)
    assert settings.certificate_header == sidecar._PROXY.header
    assert settings.trusted_proxies is not None
    assert settings.listen_addr.is_loopback


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_flags_are_taken_with_one_dash_or_two(dashes: str) -> None:
    """As with every command."""
    args = build_parser(only="sidecar").parse_args(
        ["sidecar", f"{dashes}app", "a:1", f"{dashes}listen", ":2", f"{dashes}output-dir", "c"]
    )
    assert (args.app, args.listen, args.output_dir) == ("a:1", ":2", "c")
