"""A Django project in one file, in which one view is open and another needs a hotkey.

gunicorn examples.django_app:application --bind 127.0.0.1:8000

It runs behind a proxy on the same machine that sends the certificate in X-Client-Cert. The
environment names the Pylon and the subnet (NEXUS_PYLON_ENDPOINT and NEXUS_PYLON_NETUID) and has
Django's DJANGO_SECRET_KEY.
"""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.urls import path

import nexus_auth
from nexus_auth.wsgi import NexusAuthMiddleware

settings.configure(
    SECRET_KEY=os.environ["DJANGO_SECRET_KEY"],
    ALLOWED_HOSTS=["*"],  # The proxy decides which names it serves.
    ROOT_URLCONF=__name__,
)


def health(_: HttpRequest) -> HttpResponse:
    """Answers every caller."""
    return HttpResponse("well", content_type="text/plain")


def work(request: HttpRequest) -> HttpResponse:
    """Answers registered hotkeys only."""
    hotkey = request.META.get("REMOTE_USER")
    if hotkey is None:
        return HttpResponseForbidden("who are you?", content_type="text/plain")
    return HttpResponse(f"hello {hotkey}", content_type="text/plain")


urlpatterns = [path("health", health), path("work", work)]

application = NexusAuthMiddleware(
    get_wsgi_application(),
    verifier=lambda: nexus_auth.connect(
        os.environ["NEXUS_PYLON_ENDPOINT"],
        netuid=int(os.environ["NEXUS_PYLON_NETUID"]),
        open_access_token=os.environ.get("NEXUS_PYLON_OPEN_ACCESS_TOKEN"),
    ),
    trusted_proxies=["127.0.0.1", "::1"],
    on_denial="anonymous",
)
