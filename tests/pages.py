"""Reads the project's own documentation, for the tests that hold it to what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_FENCED: Final = re.compile(
    r"^( *)```(?P<language>\w*)\n(?P<code>.*?)^\1```$", re.MULTILINE | re.DOTALL
)
_SPAN: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README.md and everything under docs."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCED.finditer(text):
        indent = match[1]
        yield Block(
            page=str(page.relative_to(ROOT)),
            line=text.count("\n", 0, match.start()) + 1,
            language=match["language"],
            code="".join(
                line.removeprefix(indent) for line in match["code"].splitlines(keepends=True)
            ),
        )


def spans(page: Path) -> list[str]:
    """What stands between single backticks outside of fenced blocks."""
    return _SPAN.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))
