from __future__ import annotations

import inspect

import pytest

from nexus_auth.domain import errors
from nexus_auth.domain.reasons import DenialReason

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, Exception) and value.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_descends_from_one_root_and_is_drawn(error: type[Exception]) -> None:
    """One `except NexusAuthError` catches all, and the module's picture shows them all."""
    assert issubclass(error, errors.NexusAuthError)
    assert error is errors.NexusAuthError or error.__name__ in (errors.__doc__ or "")
    assert error.__doc__


def test_rejected_certificate_carries_reason_and_detail() -> None:
    """Callers branch on the reason, never on the text."""
    error = errors.CertificateRejected(DenialReason.NO_ORGANIZATION, "nobody")
    assert (error.reason, error.detail) == (DenialReason.NO_ORGANIZATION, "nobody")
    assert str(error) == "no-organization: nobody"


@pytest.mark.parametrize(
    ("source", "text"),
    [("the environment", "X (from the environment): bad"), (None, "X: bad")],
)
def test_configuration_error_is_one_line(source: str | None, text: str) -> None:
    """It says which setting, where its value came from, and what is wrong."""
    error = errors.ConfigurationError(setting="X", problem="bad", source=source)
    assert str(error) == text
    assert (error.setting, error.source, error.problem) == ("X", source, "bad")


def test_causes_are_those_of_the_metrics() -> None:
    """A closed set; an error that names none of its own is counted as another."""
    assert (
        *("unreachable", "refused", "failed", "invalid", "not-offered", "other"),
    ) == errors.CAUSES
    assert errors.RegistryError.cause == errors.RegistryUnavailable.cause == "other"
    assert errors.BulkNotOffered.cause == "not-offered"
    assert errors.RegistryAnswerInvalid.cause == "invalid"


def test_refused_issuing_says_whether_the_key_may_have_changed() -> None:
    """Only where the issuer's answer leaves that open."""
    assert not errors.IssuingRefused("no").key_may_have_changed
    refused = errors.IssuingRefused("no", key_may_have_changed=True)
    assert (str(refused), refused.key_may_have_changed) == ("no", True)
