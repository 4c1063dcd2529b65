"""`docs/library.md`, Flask and Django: its snippets run."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nexus_auth import SyncVerifier
from nexus_auth.testing import Subnet
from tests.pages import ROOT

SECTION = (
    (ROOT / "docs" / "library.md")
    .read_text(encoding="utf-8")
    .partition("\n## Flask and Django\n")[2]
    .partition("\n## ")[0]
)


def snippets(heading: str) -> list[str]:
    """The Python below a heading of the section."""
    part = SECTION.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    return re.findall(r"```python\n(.*?)```", part, re.DOTALL)


def run_python(script: str, folder: Path, *, options: tuple[str, ...] = ()) -> None:
    """Runs a script on its own, with our plugins left out where it is pytest's."""
    done = subprocess.run(
        [sys.executable, *options, script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("heading", "example"), [("Flask", "flask_app.py"), ("Django", "django_app.py")]
)
def test_applications_shown_are_the_examples(heading: str, example: str) -> None:
    """The page shows what the integration tests run."""
    assert snippets(heading)[0] == (ROOT / "examples" / example).read_text(encoding="utf-8")


REMOTE_USERS = """
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="__main__",
    INSTALLED_APPS=[
        "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    MIDDLEWARE=MIDDLEWARE,
    AUTHENTICATION_BACKENDS=AUTHENTICATION_BACKENDS,
)
django.setup()

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import Client as ViewClient
from django.urls import path
from werkzeug.test import Client

from nexus_auth.testing import Subnet
from nexus_auth.wsgi import NexusAuthMiddleware

urlpatterns = [path("", lambda request: HttpResponse(request.user.get_username() or "nobody"))]
call_command("migrate", verbosity=0)
subnet = Subnet()
alice, bob = subnet.register("alice"), subnet.register("bob")
client = Client(NexusAuthMiddleware(
    get_wsgi_application(), verifier=subnet.verifier, trusted_proxies=["127.0.0.1"],
    on_denial="anonymous", proxy_removes_spellings=True,
))
proxy = {"environ_base": {"REMOTE_ADDR": "127.0.0.1"}}


def ask(headers):
    return client.get("/", headers=headers, **proxy).text


assert ask({}) == "nobody"
assert ask({"Remote-User": alice.hotkey.address, "X-Hotkey": alice.hotkey.address}) == "nobody"
assert ask(alice.headers) == alice.hotkey.address
# The session's cookie alone is nobody, also once the key was replaced; another caller is another.
assert client.get_cookie("sessionid") is not None
assert ask({}) == "nobody"
assert ask(alice.headers) == alice.hotkey.address
assert ask(bob.headers) == bob.hotkey.address
subnet.rotate(bob)
assert ask(bob.headers) == "nobody"
# A view alone, as the page says.
view = ViewClient().get("/", REMOTE_USER=alice.hotkey.address)
assert view.content.decode() == alice.hotkey.address
"""


def test_callers_become_users_of_django(tmp_path: Path) -> None:
    """By Django's own middleware for remote users, with a certificate and never with a cookie."""
    script = tmp_path / "users.py"
    script.write_text(snippets("Django")[1] + REMOTE_USERS, encoding="utf-8")
    run_python(str(script), tmp_path)


def test_test_of_an_application_passes(tmp_path: Path) -> None:
    """A subnet author's first test works as it is shown."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (test,) = snippets("Tests of a WSGI application")
    (tmp_path / "test_app.py").write_text(test, encoding="utf-8")
    plugins = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist")
    run_python("test_app.py", tmp_path, options=("-m", "pytest", "-q", *plugins))


def test_header_by_itself_is_decoded() -> None:
    """A certificate of Caddy's, one of nobody's, and what is none."""
    names: dict[str, Any] = {}
    (snippet,) = snippets("The header by yourself")
    exec(compile(snippet, "library.md", "exec"), names)  # noqa: S102 - our own page
    subnet = Subnet()
    alice, mallory = subnet.register("alice"), subnet.stranger("mallory")
    with SyncVerifier(subnet.verifier) as verifier:
        for caller, expected in ((alice, "Granted"), (mallory, "Denied")):
            value = base64.b64encode(caller.der).decode()
            assert names["decide"](verifier, value) == expected
        assert names["decide"](verifier, "%") == "no: bad-encoding"
