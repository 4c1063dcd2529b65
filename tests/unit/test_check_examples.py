"""What is type-checked as users would: see `scripts/check_examples.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import check_examples
from tests.pages import ROOT, blocks, pages


def test_every_python_block_is_a_file_or_an_example(tmp_path: Path) -> None:
    """Nothing that a page shows is left out."""
    check_examples.write_blocks(tmp_path)
    checked = [path.read_text() for path in [*tmp_path.iterdir(), *ROOT.glob("examples/*.py")]]
    shown = [each for page in pages() for each in blocks(page) if each.language == "python"]
    assert len(shown) > 10
    for block in shown:
        assert block.code in checked or check_examples.is_fragment(block.code), str(block)


def test_public_names_are_those_of_every_door() -> None:
    """A new public module is checked by itself."""
    assert {"nexus_auth", "nexus_auth.asgi", "nexus_auth.testing"} < {*check_examples.DOORS}
    names = [*check_examples.find_public_names()]
    assert "nexus_auth.domain.hotkey.Hotkey" in names
    assert "nexus_auth.adapters.starlette.behind_proxy.hotkey_from_proxy" in names
    assert "nexus_auth.testing.Subnet" in names


def test_pyright_is_strict_and_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A mistake is found without a network, and with no folder to keep a download in."""
    home = tmp_path / "home"
    home.mkdir()
    folder = tmp_path / "blocks"
    folder.mkdir()
    (folder / "wrong.py").write_text(
        "from nexus_auth import Denied\n\n\ndef show(denied: Denied) -> int:\n"
        "    return denied.reason\n\n\ndef untyped(value):\n    return value\n",
        encoding="utf-8",
    )
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert check_examples.run_pyright(folder) == 1
    said = capfd.readouterr().out
    assert 'is not assignable to "int"' in said
    assert "reportUnknownParameterType" in said
    assert [*home.iterdir()] == []
