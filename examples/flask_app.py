"""A Flask application that only registered hotkeys may use.

gunicorn examples.flask_app:app --bind 127.0.0.1:8000

It runs behind a proxy on the same machine that sends the certificate in X-Client-Cert. The
environment names the Pylon and the subnet: NEXUS_PYLON_ENDPOINT and NEXUS_PYLON_NETUID.
"""

import os

from flask import Flask, request

import nexus_auth
from nexus_auth.wsgi import NexusAuthMiddleware

app = Flask(__name__)


@app.get("/")
def hello() -> str:
    """Greets the caller with its hotkey."""
    return f"hello {request.remote_user}"


# Inside of `app`, so that no way of serving it leaves the check out. (To mypy it is a method.)
app.wsgi_app = NexusAuthMiddleware(  # type: ignore[method-assign]
    app.wsgi_app,
    verifier=lambda: nexus_auth.connect(
        os.environ["NEXUS_PYLON_ENDPOINT"],
        netuid=int(os.environ["NEXUS_PYLON_NETUID"]),
        open_access_token=os.environ.get("NEXUS_PYLON_OPEN_ACCESS_TOKEN"),
    ),
    trusted_proxies=["127.0.0.1", "::1"],
)
