"""Turns results into text for a terminal, a page for the documentation, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.verifier import YARDSTICK

_DOCS: Final = Path(__file__).parents[1] / "docs"
PAGE: Final = _DOCS / "benchmarks.md"
PICTURE: Final = _DOCS / "benchmarks.svg"
_BEGIN: Final = "<!-- results: written by `make bench` -->"
_END: Final = "<!-- end of results -->"

Table = tuple[str, list[str], list[list[str]]]


def tables(results: dict[str, Any]) -> list[Table]:
    """Every table: its title, its heads, its rows."""
    return [
        _loads("The service by itself", results["direct"]),
        _loads("A whole request through nginx", results["through nginx"]),
        _side_by_side(results["side by side"]),
        _timed("The verifier as a library", "decision", results["verifier"]),
        _timed(
            "What a stranger can make the service spend, by kind of certificate",
            "what is presented",
            results["flood"],
        ),
        _start_up(results),
    ]


def _loads(title: str, rows: dict[str, dict[str, float]]) -> Table:
    return (
        title,
        ["subject", "of the yardstick", "spread", "requests/s", "median", "p99"],
        [
            [
                name,
                f"{row['ratio']:.2f}",
                f"{row['lowest']:.2f} to {row['highest']:.2f}",
                f"{row['per_second']:,.0f}",
                f"{row['p50_ms']:.2f} ms",
                f"{row['p99_ms']:.2f} ms",
            ]
            for name, row in rows.items()
        ],
    )


def _side_by_side(rows: list[dict[str, Any]]) -> Table:
    return (
        "Side by side",
        ["subject", "compared with", "requests/s", "spread", "p99"],
        [
            [
                row["ours"],
                row["other"],
                f"{row['rate']:.2f} times",
                f"{row['lowest']:.2f} to {row['highest']:.2f}",
                f"{row['p99']:.2f} times",
            ]
            for row in rows
        ],
    )


_Figures = dict[str, dict[str, float]]


def _timed(title: str, what: str, rows: _Figures) -> Table:
    return (
        title,
        [what, "time", f"of {YARDSTICK}", "spread"],
        [
            [
                name,
                f"{row['us']:.2f} µs",
                f"{row['ratio']:.3f}",
                f"{row['lowest']:.3f} to {row['highest']:.3f}",
            ]
            for name, row in rows.items()
        ],
    )


def _start_up(results: dict[str, Any]) -> Table:
    times = results["start-up"]
    empty, parser = times["an empty interpreter"], times["import cryptography.x509"]
    rows = [
        [
            name,
            f"{seconds * 1000:.0f} ms",
            f"{seconds / empty:.1f} empty interpreters, {seconds / parser:.2f} of the second line",
        ]
        for name, seconds in times.items()
    ]
    rows += [
        [f"{name}: from start to listening", f"{seconds * 1000:.0f} ms", ""]
        for name, seconds in results["ready"].items()
    ]
    rows += [
        [f"{name}: memory of a worker after the load", f"{mb:.1f} MB", ""]
        for name, mb in results["memory"].items()
    ]
    return "Start-up and memory", ["what", "cost", "in other words"], rows


def as_text(results: dict[str, Any]) -> str:
    """The tables for a terminal."""
    lines = []
    for title, heads, rows in tables(results):
        widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
        lines += ["", title, "-" * len(title)]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [heads, *rows]
        ]
    return "\n".join(lines)


def _as_markdown(results: dict[str, Any]) -> str:
    machine = results["machine"]
    lines = [
        "Measured on {processors} processors, Python {python}, {system}.".format(**machine),
    ]
    for title, heads, rows in tables(results):
        lines += ["", f"### {title}", "", "| " + " | ".join(heads) + " |"]
        lines.append("|" + "---|" * len(heads))
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def write_documents(results: dict[str, Any]) -> None:
    """Puts the tables into the documentation, and draws the picture beside them."""
    page = PAGE.read_text()
    head, rest = page.split(_BEGIN)
    _, tail = rest.split(_END)
    PAGE.write_text(f"{head}{_BEGIN}\n\n{_as_markdown(results)}\n\n{_END}{tail}")
    PICTURE.write_text(_as_svg(results))


_ROW: Final = 30
_LEFT: Final = 340
_WIDTH: Final = 800
_STYLE: Final = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .bar { fill: #8c959f; }
  .ours { fill: #1a7f37; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .bar { fill: #6e7681; }
    .ours { fill: #3fb950; }
  }
"""


def _as_svg(results: dict[str, Any]) -> str:
    """Bars of requests per second as ratios of the yardstick; no background of its own."""
    parts = []
    at = 24
    for title, section in (
        ("The service by itself", "direct"),
        ("A whole request through nginx", "through nginx"),
    ):
        parts.append(f'<text class="title" x="0" y="{at}">{escape(title)}</text>')
        at += 12
        for name, row in results[section].items():
            length = max(1, round((_WIDTH - _LEFT - 60) * min(row["ratio"], 1.0)))
            kind = "bar ours" if name.startswith(("nexus-auth", "our ")) else "bar"
            parts.append(
                f'<text x="{_LEFT - 10}" y="{at + 16}" text-anchor="end">{escape(name)}</text>'
            )
            parts.append(
                f'<rect class="{kind}" x="{_LEFT}" y="{at + 2}" width="{length}" height="20"/>'
            )
            parts.append(f'<text x="{_LEFT + length + 8}" y="{at + 16}">{row["ratio"]:.2f}</text>')
            at += _ROW
        at += 28
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {at}" role="img" '
        'aria-label="Requests per second as ratios of nginx answering return 200">\n'
        f"<style>{_STYLE}</style>\n{body}\n</svg>\n"
    )
