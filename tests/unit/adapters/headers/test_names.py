from __future__ import annotations

from nexus_auth.adapters.headers.names import FORGEABLE_HEADERS, with_dots, with_underscores
from nexus_auth.adapters.headers.presets import PRESETS


def test_every_preset_s_header_is_removed_from_what_clients_send() -> None:
    """No proxy lets a client bring the header that any of them uses."""
    assert {preset.name for preset in PRESETS.values()} <= set(FORGEABLE_HEADERS)


def test_underscores_stand_for_hyphens_in_every_combination() -> None:
    """Two hyphens have four spellings."""
    assert set(with_underscores("a-b-c")) == {"a-b-c", "a_b-c", "a-b_c", "a_b_c"}
    assert with_underscores("X-Hotkey") == ("X-Hotkey", "X_Hotkey")


def test_dots_stand_for_hyphens_in_what_the_application_believes() -> None:
    """The hotkey and every fact about it, under each spelling."""
    assert set(with_dots("X-Hotkey-Uid")) == {
        *("X-Hotkey-Uid", "X.Hotkey-Uid", "X-Hotkey.Uid", "X.Hotkey.Uid")
    }
    for name in ("X-Hotkey", "X-Hotkey-Uid", "X-Hotkey-Validator", "X-Hotkey-Stake"):
        assert set(with_dots(name)) <= set(FORGEABLE_HEADERS)
