from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files

import pytest

from nexus_auth.adapters.headers.formats import FORMATS
from nexus_auth.adapters.headers.names import CERTIFICATE_HEADERS, HeaderPreset
from nexus_auth.adapters.proxies.configuration import HEAD
from nexus_auth.adapters.proxies.dialects import DIALECTS
from nexus_auth.adapters.proxies.table import CONFIGURABLE, PROXIES
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.settings import Settings


def load(**environ: str) -> Settings:
    """The settings of an environment, with no env file around."""
    return Settings.load(environ={f"NEXUS_AUTH_{name}": value for name, value in environ.items()})


def test_without_settings_nginx_is_expected() -> None:
    """The original speaks nginx, and so does the default."""
    assert load().certificate_header == HeaderPreset("X-Client-Cert", "percent-encoded-pem")
    assert load().trusted_proxies is None


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_s_name_presets_header_and_format(proxy: str) -> None:
    """One word is enough."""
    assert load(PROXY=proxy).certificate_header == PROXIES[proxy].header


def test_what_is_said_one_by_one_outranks_the_preset() -> None:
    """Header and format can be anything that is known."""
    settings = load(PROXY="caddy", CERT_HEADER="Client-Cert", CERT_FORMAT="rfc9440")
    assert settings.certificate_header == HeaderPreset("Client-Cert", "rfc9440")
    assert load(PROXY="traefik", CERT_HEADER="X-Y").certificate_header.format == "base64-der"


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


def test_every_row_names_what_exists() -> None:
    """A header of the list that clients may not send, a format that can be read, and templates."""
    templates = files("nexus_auth.adapters.proxies") / "templates"
    used = {HEAD}
    for proxy in PROXIES.values():
        assert proxy.header.name in CERTIFICATE_HEADERS
        assert proxy.header.format in FORMATS
        assert bool(proxy.includes) == bool(proxy.includes_frame)
        used |= {*proxy.templates, *proxy.includes, proxy.includes_frame} - {""}
    for name in tuple(used):
        text = templates.joinpath(name).read_text("utf-8")
        used |= set(re.findall(r"@\{include (\S+)\}", text))
    assert sorted(used) == sorted(each.name for each in templates.iterdir())
    assert set(DIALECTS) <= set(CONFIGURABLE)


def test_the_table_loads_nothing_that_makes_configurations() -> None:
    """The command line and the settings read it at every start."""
    script = (
        "import sys\nimport nexus_auth.adapters.proxies.table\nprint('\\n'.join(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30
    )
    loaded = set(done.stdout.split())
    makers = {"configuration", "dialects", "site", "syntax_check"}
    assert not loaded & {f"nexus_auth.adapters.proxies.{name}" for name in makers}
    assert not loaded & {"importlib.resources", "ipaddress", "subprocess", "cryptography"}
