"""Checks that links between the project's Markdown pages lead to a file and a heading."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

_LINK: Final = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)")
_HEADING: Final = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*$", re.MULTILINE)
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def find_pages() -> list[Path]:
    """Finds the Markdown pages of the project."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def find_anchors(page: Path) -> set[str]:
    """Finds the names under which GitHub makes a page's headings reachable."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", match["text"].lower()).replace(" ", "-")
        for match in _HEADING.finditer(text)
    }


def find_broken_links(page: Path) -> Iterator[str]:
    """Finds the links of one page that lead nowhere; links to other sites are not followed."""
    for match in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists():
            yield f"{page.relative_to(ROOT)}: {target}: no such file"
        elif anchor and goal.suffix == ".md" and anchor not in find_anchors(goal):
            yield f"{page.relative_to(ROOT)}: {target}: no such heading"


def main() -> int:
    """Reports every broken link."""
    pages = find_pages()
    broken = [problem for page in pages for problem in find_broken_links(page)]
    for problem in broken:
        print(problem)
    print(f"{len(pages)} pages, {len(broken)} broken links")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
