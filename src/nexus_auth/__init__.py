"""Checks mutual-TLS client certificates against the keys that Bittensor hotkeys registered.

    async with nexus_auth.connect("http://pylon:8000", netuid=12) as verifier:
        match await verifier.verify(certificate):
            case nexus_auth.Granted(hotkey=hotkey): ...
            case nexus_auth.Denied(reason=reason): ...

Everything a user of the library needs is here, in `nexus_auth.asgi` and in `nexus_auth.testing`;
all other modules may change without notice.
"""

from __future__ import annotations

TYPE_CHECKING = False  # Type checkers know better; loading `typing` costs the command line time.
if TYPE_CHECKING:
    from nexus_auth.adapters.clock import utc_now
    from nexus_auth.adapters.synchronous import SyncVerifier
    from nexus_auth.domain.certificate import ClientCertificate
    from nexus_auth.domain.decision import Decision, Denied, Granted
    from nexus_auth.domain.errors import (
        CertificateRejected,
        ConfigurationError,
        CredentialsError,
        InvalidHotkey,
        IssuerUnavailable,
        IssuingError,
        IssuingRefused,
        NexusAuthError,
        RegistryAnswerInvalid,
        RegistryError,
        RegistryUnavailable,
    )
    from nexus_auth.domain.evaluate import evaluate
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron, StakeKind
    from nexus_auth.domain.policy import (
        AccessPolicy,
        MinStake,
        NotHotkeys,
        OnlyHotkeys,
        RequireActive,
        RequireUid,
        RequireValidatorPermit,
        Rule,
    )
    from nexus_auth.domain.ports import (
        CertIssuer,
        Clock,
        IssuedKeyPair,
        KeyRegistry,
        Registration,
    )
    from nexus_auth.domain.reasons import DenialReason
    from nexus_auth.domain.verifier import CertificateVerifier
    from nexus_auth.entrypoints.connecting import connect, connect_chain

    __version__: str

__all__ = [
    "AccessPolicy",
    "CertIssuer",
    "CertificateRejected",
    "CertificateVerifier",
    "ClientCertificate",
    "Clock",
    "ConfigurationError",
    "CredentialsError",
    "Decision",
    "DenialReason",
    "Denied",
    "Granted",
    "Hotkey",
    "InvalidHotkey",
    "IssuedKeyPair",
    "IssuerUnavailable",
    "IssuingError",
    "IssuingRefused",
    "KeyRegistry",
    "MinStake",
    "Neuron",
    "NexusAuthError",
    "NotHotkeys",
    "OnlyHotkeys",
    "Registration",
    "RegistryAnswerInvalid",
    "RegistryError",
    "RegistryUnavailable",
    "RequireActive",
    "RequireUid",
    "RequireValidatorPermit",
    "Rule",
    "StakeKind",
    "SyncVerifier",
    "connect",
    "connect_chain",
    "evaluate",
    "utc_now",
]

# Names are fetched when they are first used. The command line passes through here too, and its
# help would take seven times as long with the parser of certificates loaded.
_MODULES = {
    "nexus_auth.adapters.clock": ("utc_now",),
    "nexus_auth.adapters.synchronous": ("SyncVerifier",),
    "nexus_auth.domain.certificate": ("ClientCertificate",),
    "nexus_auth.domain.decision": ("Decision", "Denied", "Granted"),
    "nexus_auth.domain.errors": (
        *("CertificateRejected", "ConfigurationError", "CredentialsError", "InvalidHotkey"),
        *("IssuerUnavailable", "IssuingError", "IssuingRefused", "NexusAuthError"),
        *("RegistryAnswerInvalid", "RegistryError", "RegistryUnavailable"),
    ),
    "nexus_auth.domain.evaluate": ("evaluate",),
    "nexus_auth.domain.hotkey": ("Hotkey",),
    "nexus_auth.domain.neuron": ("Neuron", "StakeKind"),
    "nexus_auth.domain.policy": (
        *("AccessPolicy", "MinStake", "NotHotkeys", "OnlyHotkeys", "RequireActive", "RequireUid"),
        *("RequireValidatorPermit", "Rule"),
    ),
    "nexus_auth.domain.ports": (
        *("CertIssuer", "Clock", "IssuedKeyPair", "KeyRegistry", "Registration"),
    ),
    "nexus_auth.domain.reasons": ("DenialReason",),
    "nexus_auth.domain.verifier": ("CertificateVerifier",),
    "nexus_auth.entrypoints.connecting": ("connect", "connect_chain"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # A type checker would take any name for one that exists.

    def __getattr__(name: str) -> object:
        """Fetches a public name when it is first used."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 - reading it takes long.

            return version("nexus-auth")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415 - see above.

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Lists public names as well, fetched or not."""
        return sorted({*globals(), *__all__})
