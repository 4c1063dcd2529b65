"""Turns results into text for a terminal, a page for the documentation, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

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
        _verifier(results["verifier"]),
        _flood(results["flood"], results["verifier"]["one Ed25519 verification"]),
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


def _verifier(rows: dict[str, float]) -> Table:
    unit = rows["one Ed25519 verification"]
    return (
        "The verifier as a library",
        ["decision", "time", "of one Ed25519 verification"],
        [[name, f"{value:.2f} µs", f"{value / unit:.3f}"] for name, value in rows.items()],
    )


def _flood(rows: dict[str, float], unit: float) -> Table:
    return (
        "What a stranger can make the service spend, by kind of certificate",
        ["what is presented", "time", "of one Ed25519 verification"],
        [[name, f"{value:.1f} µs", f"{value / unit:.2f}"] for name, value in rows.items()],
    )


def _start_up(results: dict[str, Any]) -> Table:
    times = results["start-up"]
    empty = times["an empty interpreter"]
    rows = [
        [name, f"{seconds * 1000:.0f} ms", f"{seconds / empty:.1f} empty interpreters"]
        for name, seconds in times.items()
    ]
    rows += [
        [f"{name}: from start to listening", f"{seconds * 1000:.0f} ms", ""]
        for name, seconds in results["ready"].items()
    ]
    rows += [
        [f"{name}: memory of a worker after the load", f"{mib:.1f} MiB", ""]
        for name, mib in results["memory"].items()
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
_LEFT: Final = 300
_WIDTH: Final = 760
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
