from __future__ import annotations

import pytest

from nexus_auth.adapters.headers.presets import PRESETS, HeaderPreset, certificate_header
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.settings import Settings


def load(**environ: str) -> Settings:
    """The settings of an environment, with no env file around."""
    return Settings.load(environ={f"NEXUS_AUTH_{name}": value for name, value in environ.items()})


def test_without_settings_nginx_is_expected() -> None:
    """The original speaks nginx, and so does the default."""
    assert load().certificate_header == HeaderPreset("X-Client-Cert", "percent-encoded-pem")
    assert load().trusted_proxies is None


@pytest.mark.parametrize("proxy", PRESETS)
def test_a_proxy_s_name_presets_header_and_format(proxy: str) -> None:
    """One word is enough."""
    assert load(PROXY=proxy).certificate_header == PRESETS[proxy]


def test_what_is_said_one_by_one_outranks_the_preset() -> None:
    """Header and format can be anything that is known."""
    settings = load(PROXY="caddy", CERT_HEADER="Client-Cert", CERT_FORMAT="rfc9440")
    assert settings.certificate_header == HeaderPreset("Client-Cert", "rfc9440")
    assert certificate_header(proxy="traefik", name="X-Y").format == "base64-der"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROXY", "apache"),
        ("CERT_FORMAT", "pem"),
        ("CERT_HEADER", "X_Client_Cert"),
        ("CERT_HEADER", "X-Client-Cert: a"),
        ("CERT_HEADER", "X-Hotkey\n"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "everyone"),
    ],
)
def test_a_wrong_value_is_a_configuration_error(name: str, value: str) -> None:
    """A slip is told by the setting's name."""
    with pytest.raises(ConfigurationError, match=f"NEXUS_AUTH_{name}"):
        load(**{name: value})
