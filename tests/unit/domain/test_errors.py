from __future__ import annotations

import copy
import inspect
import pickle

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


def _examples() -> list[errors.NexusAuthError]:
    return [
        errors.ServerKeyMismatch(hotkey="a", expected="b", found="c", named="d"),
        errors.HotkeyNotRegistered("a"),
        errors.ServerKeyUnknown("a", "no news"),
        errors.ConfigurationError(setting="X", problem="bad", source="flag"),
        errors.IssuerUnavailable("down", key_may_have_changed=False),
        errors.CertificateRejected(DenialReason.NO_ORGANIZATION, "nobody"),
        errors.InvalidHotkey("no"),
    ]


@pytest.mark.parametrize("error", _examples(), ids=lambda error: type(error).__name__)
def test_error_survives_copying_and_another_process(error: errors.NexusAuthError) -> None:
    """A pool of processes ends when an error of a task cannot be unpickled."""
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


MISMATCH = errors.ServerKeyMismatch(hotkey="a", expected="b", found=None)


def _raised_from(error: Exception) -> Exception:
    outer = OSError("no connection")
    outer.__cause__ = error
    return outer


def _raised_beside(error: Exception) -> Exception:
    outer = OSError("no connection")
    outer.__context__ = error
    return outer


def _with_reason(error: Exception) -> Exception:
    outer = OSError("no connection")
    outer.reason = error  # type: ignore[attr-defined] # as urllib does
    return outer


@pytest.mark.parametrize(
    "wrapped",
    [
        MISMATCH,
        _raised_from(MISMATCH),
        _raised_beside(MISMATCH),
        _with_reason(MISMATCH),
        OSError("key", MISMATCH),
        ExceptionGroup("several", [ValueError(), MISMATCH]),
        _raised_from(_with_reason(RuntimeError(_raised_beside(MISMATCH)))),
    ],
    ids=["itself", "cause", "context", "reason", "argument", "group", "all"],
)
def test_error_is_found_in_what_a_library_makes_of_it(wrapped: BaseException) -> None:
    """One line after `except`, whatever the library."""
    assert errors.ServerNotProven.find(wrapped) is MISMATCH
    assert errors.ServerKeyMismatch.find(wrapped) is MISMATCH
    assert errors.HotkeyNotRegistered.find(wrapped) is None


def test_error_that_is_not_there_is_not_found() -> None:
    """Rings and long chains end."""
    one, other = OSError(), OSError()
    one.__context__, other.__context__ = other, one
    assert errors.ServerNotProven.find(one) is None
    chain: Exception = MISMATCH
    for _ in range(200):
        chain = RuntimeError(chain)
    assert errors.ServerNotProven.find(chain) is None
    assert errors.ServerNotProven.find(RuntimeError(1, None, [MISMATCH])) is None
