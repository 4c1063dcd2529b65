"""The application inside Granian's own wrapper for forwarding headers."""

from __future__ import annotations

from granian.utils.proxies import wrap_asgi_with_proxy_headers

from tests.integration.servers.application import app

wrapped = wrap_asgi_with_proxy_headers(app, trusted_hosts="*")
