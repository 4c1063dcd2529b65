"""The callers that every target knows: alice and bob are registered, mallory is not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote

from nexus_auth.domain.verifier import CertificateVerifier
from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_der, to_pem
from tests.fakes import FakeClock, FakeRegistry

T = TypeVar("T")

ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
REGISTERED: Final = {ALICE: public_bytes(a_key("alice")), BOB: public_bytes(a_key("bob"))}

_CERTIFICATES: Final = {
    name: a_certificate(hotkey=a_hotkey(name), key=a_key(name))
    for name in ("alice", "bob", "mallory")
}
DER: Final[Mapping[str, bytes]] = {name: to_der(each) for name, each in _CERTIFICATES.items()}
ESCAPED: Final[Mapping[str, bytes]] = {
    name: quote(to_pem(each), safe="").encode("ascii") for name, each in _CERTIFICATES.items()
}
"""Certificates as PEM in which all but letters, digits and `-._~` is percent-encoded."""

_PLACES: Final = {b"{%s}" % name.encode("ascii"): text for name, text in ESCAPED.items()}


def with_certificates(text: bytes) -> bytes:
    """Puts certificates in the places of `{alice}`, `{bob}` and `{mallory}`.

    So that inputs stay short, and a change of one byte seldom hits a certificate.
    """
    for place, certificate in _PLACES.items():
        text = text.replace(place, certificate)
    return text


def a_verifier() -> CertificateVerifier:
    """A fresh verifier whose registry knows alice and bob."""
    return CertificateVerifier(registry=FakeRegistry(dict(REGISTERED)), clock=FakeClock())


_loop: asyncio.AbstractEventLoop | None = None


def event_loop() -> asyncio.AbstractEventLoop:
    """The one loop of all targets: making one takes longer than most of them."""
    global _loop  # noqa: PLW0603 - one for the process, made when it is needed
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
    return _loop


def close_event_loop() -> None:
    """Closes the loop, for tests that look for what was left open."""
    global _loop  # noqa: PLW0603 - as above
    if _loop is not None:
        _loop.close()
        _loop = None


def at_once(outcome: Coroutine[Any, Any, T]) -> T:
    """Takes the outcome of a coroutine that waits for nothing, without an event loop."""
    try:
        outcome.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    outcome.close()
    raise AssertionError("it waited")
