"""A whole request through nginx: the client's request, the question to the service, the answer.

TLS is left out, since wrk has no client certificates: the certificate comes in a header that
stands in for `$ssl_client_escaped_cert`. All else is the configuration as it is used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from bench.programs import BenchError, free_port
from bench.subjects import PLAIN_HEADER, Stage, Subject

_ROOT: Final = Path(__file__).parents[1]
_VARIABLE: Final = "$http_" + PLAIN_HEADER.lower().replace("-", "_")


def start_application(stage: Stage) -> int:
    """The application behind: an nginx of its own that answers at once."""
    port = free_port()
    stage.start_nginx(
        "application",
        f"  server {{ listen 127.0.0.1:{port}; location / {{ return 200 'hello'; }} }}",
        port,
    )
    return port


def _address(subject: Subject) -> str:
    return subject.url.removeprefix("http://").rstrip("/")


def _original_way(port: int, application: int, service: str) -> str:
    """The way of the original's configuration: a new connection for every question."""
    return f"""
  server {{
    listen 127.0.0.1:{port};
    location / {{
      auth_request /auth;
      auth_request_set $client_hotkey $upstream_http_x_hotkey;
      proxy_pass http://127.0.0.1:{application};
      proxy_set_header Host $host;
      proxy_set_header X-Hotkey $client_hotkey;
    }}
    location = /auth {{
      internal;
      proxy_pass http://{service};
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Host $host;
      proxy_set_header X-Original-URI $request_uri;
      proxy_set_header X-Original-Method $request_method;
      proxy_set_header X-Client-Cert {_VARIABLE};
    }}
  }}"""


def _without_authorisation(port: int, application: int) -> str:
    return f"""
  upstream application {{ server 127.0.0.1:{application}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://application;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}"""


def shipped_text(application: int, service: str, cache: Path) -> str:
    """The configuration that the project ships, with addresses and a cache of ours."""
    text = (_ROOT / "nginx" / "conf.d" / "default.conf").read_text()
    # The example application is the last of its servers, and has no part in this.
    text = text[: text.rindex("\nserver {")]
    return _replaced(
        text,
        {
            "server 127.0.0.1:8000 max_fails=0;": f"server 127.0.0.1:{application};",
            "set $nexus_auth auth:8080;": f"set $nexus_auth {service};",
            "/var/cache/nginx/nexus_auth": str(cache),
        },
    )


def shipped_configuration(port: int, application: int, service: str, cache: Path) -> str:
    """The same with its TLS taken out."""
    text = shipped_text(application, service, cache)
    text = re.sub(r"^\s*ssl_[a-z_]+ [^;]*;", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(access_log|error_log) [^;]*;", "", text, flags=re.MULTILINE)
    return _replaced(
        text,
        {
            "listen 8443 ssl http2;": f"listen 127.0.0.1:{port};",
            "$ssl_client_escaped_cert": _VARIABLE,
            # A longer key than the real one, which `python -m bench.tls` measures.
            "$ssl_client_fingerprint": _VARIABLE,
        },
    )


def _replaced(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        if old not in text:
            raise BenchError(f"the shipped configuration no longer says {old!r}: adapt the bench")
        text = text.replace(old, new)
    return text


def subjects(stage: Stage, service: Subject, original: Subject | None) -> list[Subject]:
    """Every way through nginx, each in an nginx of its own."""
    application = start_application(stage)
    found = []

    def add(name: str, server: str, port: int) -> None:
        stage.start_nginx(name.replace(" ", "-").replace(",", ""), server, port)
        url = f"http://127.0.0.1:{port}/"
        found.append(Subject(name=name, url=url, header=PLAIN_HEADER))

    port = free_port()
    add("nginx without authorisation", _without_authorisation(port, application), port)
    port = free_port()
    cache = stage.folder / "cache"
    add(
        "our configuration",
        shipped_configuration(port, application, _address(service), cache),
        port,
    )
    if original is not None:
        port = free_port()
        server = _original_way(port, application, _address(original))
        add("the original and its configuration", server, port)
    port = free_port()
    add(
        "the original's configuration, our service",
        _original_way(port, application, _address(service)),
        port,
    )
    return found
