"""`docs/library.md`: the call that it shows, to a real miner."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.integration.proxies.stack import open_folder
from tests.integration.tls.miner import running_miner
from tests.pages import ROOT


def test_call_of_the_page_reaches_the_owner_of_the_hotkey_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it stands in the page, but for the Pylon; another registered hotkey is not called."""
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    found = re.search(r"^## Calling others\n.*?```python\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    with open_folder() as folder, running_miner(folder) as miner:
        pylon = f'"{miner.pylon.url}", open_access_token="{miner.pylon.open_access_token}"'
        example = found[1].replace('"http://127.0.0.1:8000"', pylon)
        assert example != found[1]
        names: dict[str, Any] = {"__name__": "snippet"}
        exec(compile(example, "library.md", "exec"), names)  # noqa: S102 - our own page
        (folder / "certs").symlink_to(folder / "validator")
        monkeypatch.chdir(folder)
        url = f"https://127.0.0.1:{miner.port}/"
        answer = asyncio.run(names["ask"](miner.hotkey("miner").address, url))
        assert miner.hotkey("validator").address in answer
        for other in ("validator", "mallory"):
            answer = asyncio.run(names["ask"](miner.hotkey(other).address, url))
            assert answer.startswith("not called: ")
