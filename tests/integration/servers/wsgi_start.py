"""Starts the servers that have no command of their own, by name, address and port."""

from __future__ import annotations

import sys
from wsgiref.simple_server import make_server

from tests.integration.servers.wsgi_application import application


def main(name: str, address: str, port: str) -> None:
    """Serves until it is stopped; Django starts from its settings, as `runserver` does."""
    if name == "wsgiref":
        make_server(address, int(port), application).serve_forever()
    elif name == "werkzeug":
        from werkzeug.serving import run_simple

        run_simple(address, int(port), application)
    else:
        import django
        from django.conf import settings
        from django.core.management import call_command

        settings.configure(
            ALLOWED_HOSTS=["*"],
            WSGI_APPLICATION="tests.integration.servers.wsgi_application.application",
        )
        django.setup()
        call_command("runserver", f"{address}:{port}", use_reloader=False, skip_checks=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
