from __future__ import annotations

from nexus_auth.entrypoints import exit_codes


def test_exit_codes_are_those_of_the_contract() -> None:
    """Scripts rely on these numbers."""
    assert (exit_codes.DONE, exit_codes.FAILED) == (0, 1)
    assert (exit_codes.USAGE, exit_codes.UNREACHABLE) == (2, 3)
