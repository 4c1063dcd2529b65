from __future__ import annotations

import pytest

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.cli import main
from tests.integration.proxies.stack import PROGRAMS, make_server_certificate, open_folder
from tests.integration.real import require_program


@pytest.mark.parametrize("proxy", ["nginx", "envoy", "caddy", "haproxy"])
@pytest.mark.parametrize("listen", ["127.0.0.1:8443", ":8443", "localhost:8443"])
def test_the_proxy_s_own_check_accepts_what_is_printed(
    proxy: str, listen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`-check` asks the proxy itself, about files that are there and files that are not."""
    require_program(proxy, PROGRAMS[proxy])
    with open_folder() as folder:
        certificate, key = (str(path) for path in make_server_certificate(folder))
        command = ["proxy-config", proxy, "-listen", listen, "-check", "-tls-key", key]
        assert main([*command, "-tls-cert", certificate]) == exit_codes.DONE
        assert "check passed" in capsys.readouterr().err
        assert main([*command, "-tls-cert", f"{folder}/missing.crt"]) == exit_codes.FAILED
        said = capsys.readouterr()
        assert "missing.crt" in said.err or "tls.pem" in said.err
        assert "check not passed" in said.err
        assert f"NEXUS_AUTH_PROXY={proxy}" in said.out
