"""Writes what README.md shows of the program itself: its help, its settings, the demo's lines.

Run it after a change to any of them: `python scripts/update_readme.py`. A test compares.
The demo's lines are taken from a demo that really runs; `--no-demo` leaves them as they are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from nexus_auth.entrypoints.cli import build_parser
from nexus_auth.entrypoints.settings import Setting, all_settings

README: Final = Path(__file__).parent.parent / "README.md"
_BLOCK: Final = "<!-- generated: {name} -->\n{content}<!-- end -->"


def help_block() -> str:
    """What `nexus-auth --help` prints."""
    os.environ["COLUMNS"] = "100"
    return f"```text\n{build_parser().format_help()}```\n"


def settings_block() -> str:
    """Every setting as one row of a table."""
    rows = ["| environment | flag | default | meaning |", "|---|---|---|---|"]
    rows += [_row(setting) for setting in all_settings()]
    return "\n".join(rows) + "\n"


def _row(setting: Setting) -> str:
    flag = f"`-{setting.flag}`" if setting.flag else ""
    default = f"`{setting.default}`" if setting.default else "none"
    return f"| `{setting.name}` | {flag} | {default} | {setting.help} |".replace("|  |", "| |")


def demo_block() -> str:
    """The lines of a demo that is run now; ports differ from run to run."""
    done = subprocess.run(
        [sys.executable, "-m", "nexus_auth", "demo", "--proxy", "nginx"],
        check=True,
        capture_output=True,
        text=True,
    )
    return f"```text\n$ make demo\n{done.stdout}```\n"


def replaced(text: str, name: str, content: str) -> str:
    """Puts a block's new content into a page."""
    pattern = re.escape(_BLOCK.format(name=name, content="X")).replace("X", "(?s:.*?)", 1)
    block = _BLOCK.format(name=name, content=content)
    found, count = re.subn(pattern, lambda _: block, text, count=1)
    if not count:
        raise SystemExit(f"{README}: no block {name!r}")
    return found


def main() -> None:
    """Rewrites README.md."""
    text = README.read_text(encoding="utf-8")
    text = replaced(text, "help", help_block())
    text = replaced(text, "settings", settings_block())
    if "--no-demo" not in sys.argv:
        text = replaced(text, "demo", demo_block())
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
