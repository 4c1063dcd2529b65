"""Checks mutual-TLS client certificates against the keys that Bittensor hotkeys registered."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """Finds `__version__` when it is asked for: reading package metadata costs at every import."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - see the docstring.

        return version("nexus-auth")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
