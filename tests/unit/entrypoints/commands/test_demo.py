"""How the demo says how it went; what it runs is tested with real programs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nexus_auth.entrypoints.cli import main
from nexus_auth.entrypoints.demo import environment, proxy, scenarios


class _Environment:
    """A demo in which nothing runs."""

    children = SimpleNamespace(tails=lambda: "pylon, last lines:\n    boom")

    def __init__(self, **_: object) -> None:
        pass

    def start(self) -> None:
        """Starts nothing."""


@pytest.mark.parametrize(
    ("all_right", "code", "verdict"),
    [(True, 0, "All as it must be."), (False, 1, "Not all is as it must be.")],
)
def test_verdict_is_one_sentence_and_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    all_right: bool,  # noqa: FBT001 - a table
    code: int,
    verdict: str,
) -> None:
    """After a failure the last lines of every program follow."""
    monkeypatch.setattr(proxy, "find_proxy", lambda _: None)
    monkeypatch.setattr(environment, "Environment", _Environment)
    monkeypatch.setattr(scenarios, "run_scenarios", lambda *_: all_right)
    assert main(["demo"]) == code
    shown = capsys.readouterr().out
    assert f"\n{verdict}\n" in shown
    assert ("boom" in shown) is not all_right
