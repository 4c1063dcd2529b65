"""How the status page looks, by day and by night. No fonts or images: nothing is ever loaded."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --line: #e3e6eb; --text: #1b2330; --soft: #5d6878;
  --good: #12805c; --good-soft: #e4f4ed; --warn: #96610a; --warn-soft: #fdf1d9;
  --bad: #b3261e; --bad-soft: #fbe7e5; --granted: #2a9d75; --denied: #d65745;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10141a; --card: #181d25; --line: #2a313c; --text: #e4e8ee; --soft: #97a3b4;
    --good: #5fd0a5; --good-soft: #12291f; --warn: #e8b65a; --warn-soft: #2d2413;
    --bad: #f28b82; --bad-soft: #331a18; --granted: #3fae86; --denied: #d9695a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
header, main { max-width: 1160px; margin: 0 auto; padding: 0 20px; }
header {
  display: flex; flex-wrap: wrap; align-items: baseline; justify-content: space-between;
  gap: 4px 20px; padding-top: 26px; padding-bottom: 14px;
}
h1 { margin: 0; font-size: 20px; letter-spacing: -0.01em; }
h2 { margin: 0; font-size: 17px; }
h3 { margin: 0; font-size: 14px; font-weight: 600; }
p { margin: 0; }
header p, .note, .nothing, .axis, th { color: var(--soft); font-size: 13px; }
.sep { opacity: 0.5; padding: 0 3px; }
main { display: grid; gap: 16px; padding-bottom: 40px; }
.banner {
  display: flex; gap: 14px; align-items: baseline; padding: 14px 18px; border-radius: 10px;
  border: 1px solid transparent;
}
.banner.good { background: var(--good-soft); } .banner.good h2 { color: var(--good); }
.banner.warn { background: var(--warn-soft); } .banner.warn h2 { color: var(--warn); }
.banner.bad { background: var(--bad-soft); } .banner.bad h2 { color: var(--bad); }
.dot { flex: none; width: 10px; height: 10px; border-radius: 50%; }
.good .dot { background: var(--good); } .warn .dot { background: var(--warn); }
.bad .dot { background: var(--bad); }
.error { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 16px; }
.tile, .card {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
.tile { display: flex; flex-direction: column; padding: 14px 16px; }
.name { font-size: 13px; color: var(--soft); }
.value { font-size: 24px; font-weight: 600; letter-spacing: -0.02em; line-height: 1.35; }
.value, .number, time { font-variant-numeric: tabular-nums; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
.stack { display: grid; gap: 16px; align-content: start; }
.pair > .card { align-self: start; }
.card { padding: 14px 16px; min-width: 0; }
.caption, .axis { display: flex; justify-content: space-between; gap: 12px; }
.caption { align-items: baseline; margin-bottom: 10px; }
svg { display: block; width: 100%; height: 90px; border-bottom: 1px solid var(--line); }
rect.granted { fill: var(--granted); } rect.denied { fill: var(--denied); }
rect.hit { fill: transparent; } rect.hit:hover { fill: var(--soft); fill-opacity: 0.18; }
.axis { padding-top: 4px; font-size: 12px; }
.nothing { padding-top: 8px; }
.scroll { overflow-x: auto; margin: 8px -16px -6px; padding: 0 16px; }
table { width: 100%; border-collapse: collapse; font-size: 14px; }
th { text-align: left; font-weight: 500; padding: 6px 14px 6px 0; white-space: nowrap; }
td { padding: 8px 14px 8px 0; border-top: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
td time { white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
.mono, .request, .code {
  font-family: ui-monospace, SFMono-Regular, Menlo, "Liberation Mono", monospace; font-size: 12px;
}
.code { font-weight: 600; white-space: nowrap; }
.mono, .request { overflow-wrap: anywhere; }
.request { display: block; color: var(--soft); }
.under { display: block; min-width: min(44ch, 30vw); max-width: 60ch; }
.number .under { min-width: 0; }
@media (max-width: 860px) { .pair { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 640px) {
  .stacks, .stacks thead, .stacks tbody { display: block; }
  .stacks tr { display: grid; grid-template-columns: 11ch minmax(0, 1fr); }
  .stacks th, .stacks td { padding-right: 0; }
  .stacks :is(th, td):nth-child(3) { grid-column: 1 / -1; border-top: 0; padding-top: 0; }
  .under { min-width: 0; }
  .code { white-space: normal; }
}
"""
