from __future__ import annotations

import inspect
from datetime import timedelta

from nexus_auth.adapters.pylon.client import (
    DEFAULT_CONNECT_TIMEOUT_SECONDS,
    DEFAULT_READ_TIMEOUT_SECONDS,
)
from nexus_auth.entrypoints.connecting import connect
from nexus_auth.entrypoints.settings import Settings


def test_the_service_and_the_library_start_from_the_same_values() -> None:
    """An application that embeds the verifier decides as the service beside it does."""
    settings = Settings.load(environ={})
    given = {
        name: parameter.default for name, parameter in inspect.signature(connect).parameters.items()
    }
    assert given["max_age"] == timedelta(minutes=settings.cache_duration_mins)
    assert given["refresh_every"] == timedelta(seconds=settings.refresh_seconds)
    assert given["leeway"] == timedelta(seconds=settings.leeway_seconds)


def test_the_service_is_as_patient_with_pylon_as_the_client_by_itself() -> None:
    """`connect` names no timeouts, and so gets the client's own."""
    settings = Settings.load(environ={})
    assert settings.pylon_connect_timeout_seconds == DEFAULT_CONNECT_TIMEOUT_SECONDS
    assert settings.pylon_read_timeout_seconds == DEFAULT_READ_TIMEOUT_SECONDS
