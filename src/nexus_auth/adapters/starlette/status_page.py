"""The status page: one HTML document with everything in it, and nothing that can run.

`status_page.html` holds the document and its parts, `status_page.css` how it looks by day and by
night; no fonts or images are loaded. `_fill` puts values into a part and escapes each that is not
HTML made by it: printable ASCII stays, everything else becomes visible. The Content-Security-Policy
forbids what would get through all the same.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from string import Formatter
from typing import TYPE_CHECKING, Any, Final

import nexus_auth
from nexus_auth.adapters.observability.counters import NO_CAUSE
from nexus_auth.adapters.observability.facts import DENIED, GRANTED
from nexus_auth.domain.health import Freshness
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from nexus_auth.adapters.observability.report import Overview
    from nexus_auth.domain.health import PolicyHealth, RegistryHealth

RELOAD_SECONDS: Final = 15

CALLERS_SHOWN: Final = 50
DENIALS_SHOWN: Final = 20

_HEADLINES: Final = {
    Freshness.FRESH: ("good", "Serving", "Registered callers are let in."),
    Freshness.STALE: (
        "warn",
        "Serving stale",
        "No news from {source}. Registered callers are let in by what it said last.",
    ),
    Freshness.STARTING: ("warn", "Starting", "Nothing is known of registered keys yet."),
    Freshness.EXPIRED: (
        "bad",
        "Closed",
        "What {source} said last is too old to be used. Every caller is denied.",
    ),
}


_SOURCES: Final = {"pylon": "Pylon", "chain": "the chain"}


class _Html(str):
    """HTML in which every value was escaped."""

    __slots__ = ()


_STYLE: Final = _Html("\n" + files(__package__).joinpath("status_page.css").read_text("utf-8"))
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode("utf-8")).digest()).decode()

PAGE_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_TEMPLATE: Final = files(__package__).joinpath("status_page.html").read_text("utf-8")
_, *_NAMED_PARTS = re.split(r"\n\n<!-- (\w+) -->\n", re.sub(r"\n {2,}", "", _TEMPLATE))
_PARTS: Final = dict(zip(_NAMED_PARTS[::2], _NAMED_PARTS[1::2], strict=True))


class _EscapingFormatter(Formatter):
    """Formats as `str.format` does, escapes every value that is not HTML already, joins lists."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list):
            return "".join(self.format_field(each, format_spec) for each in value)
        return value if isinstance(value, _Html) else _text(format(value, format_spec))


def _fill(part: str, **values: object) -> _Html:
    """Fills in the places of a part of `status_page.html`."""
    return _Html(_EscapingFormatter().format(_PARTS[part], **values))


def _text(value: str) -> str:
    shown = "".join(
        each if " " <= each <= "~" else each.encode("unicode_escape").decode("ascii")
        for each in value
    )
    return html.escape(shown)


def render_page(overview: Overview, *, is_draining: bool, policy: PolicyHealth) -> str:
    """Renders the page. `is_draining` says whether the service is about to end."""
    registry, seconds = overview.registry, overview.seconds[GRANTED]
    source = _SOURCES.get(registry.source, registry.source)
    tone, word, sentence = _HEADLINES[registry.freshness]
    sentence = sentence.format(source=source)
    if is_draining:
        tone, word, sentence = "warn", "Draining", "The service has been told to end."
    granted = {minute: counts[0] for minute, counts in overview.minutes.items()}
    denied = {minute: counts[1] for minute, counts in overview.minutes.items()}
    fetches = sum(overview.fetches.values())
    return _fill(
        "page",
        reload_seconds=RELOAD_SECONDS,
        word=word,
        style=_STYLE,
        version=nexus_auth.__version__,
        overview=overview,
        workers=f"{overview.workers} worker{'' if overview.workers == 1 else 's'}",
        now=_moment(overview.at, "%Y-%m-%d %H:%M:%S"),
        banner=_fill(
            "banner", tone=tone, title=word, sentence=sentence, trouble=_trouble(registry)
        ),
        broken_policy=_broken_policy(policy),
        age="no age" if registry.age is None else f"{_span(registry.age.total_seconds())} old",
        block=_block(registry),
        source=source,
        granted=sum(granted.values()),
        denied=sum(denied.values()),
        median=_at_most(seconds.quantile(0.5)),
        slowest=_at_most(seconds.quantile(0.99)),
        fetches=fetches,
        failed=fetches - overview.fetches.get(NO_CAUSE, 0),
        grants_chart=_chart("Grants a minute", GRANTED, granted),
        denials_chart=_chart("Denials a minute", DENIED, denied),
        denials=_denials(overview),
        callers=_callers(overview),
        codes=_codes(overview),
        certificates=_certificates(overview),
    )


def _trouble(registry: RegistryHealth) -> str:
    if registry.last_error is None:
        return ""
    since = ""
    if registry.failing_since is not None:
        since = _fill("since", time=_moment(registry.failing_since.timestamp(), "%H:%M:%S"))
    return _fill("trouble", problem=registry.last_error, since=since)


def _block(registry: RegistryHealth) -> str:
    if registry.block is None or registry.block_age is None:
        return ""
    # A number and its unit stay together where the line is broken.
    span = _Html(_span(registry.block_age.total_seconds()).replace(" ", "&nbsp;"))
    return _fill("block", block=registry.block, span=span)


def _broken_policy(policy: PolicyHealth) -> str:
    if policy.problem is None:
        return ""
    return _fill(
        "banner",
        tone="warn",
        title="Policy file is broken",
        sentence=_fill("stay", time=_moment(policy.loaded_at.timestamp(), "%Y-%m-%d %H:%M:%S")),
        trouble=_fill("trouble", problem=policy.problem, since=""),
    )


# The last hour.

_CHART_WIDTH: Final = 600
_CHART_HEIGHT: Final = 90
_BAR_GAP: Final = 2


def _chart(title: str, kind: str, counts: Mapping[int, int]) -> _Html:
    top = max(counts.values(), default=0)
    step = _CHART_WIDTH / max(1, len(counts))
    bars = []
    for index, (minute, count) in enumerate(counts.items()):
        x = index * step
        if count:
            # A minute with few decisions must differ from one with none.
            height = max(2.0, count / top * _CHART_HEIGHT)
            y, width = _CHART_HEIGHT - height, step - _BAR_GAP
            bars.append(_fill("bar", kind=kind, x=x, y=y, width=width, height=height))
        # The mouse finds the whole column.
        at = _utc(minute * 60)
        bars.append(_fill("column", x=x, width=step, height=_CHART_HEIGHT, at=at, count=count))
    return _fill(
        "chart",
        title=title,
        top=top,
        width=_CHART_WIDTH,
        height=_CHART_HEIGHT,
        label=f"{title}: {sum(counts.values()):,} in the last hour, at most {top:,}",
        bars=bars,
        first=_utc(min(counts, default=0) * 60),
        last=_utc(max(counts, default=0) * 60),
    )


# The tables.


def _card(kind: str, rows: list[_Html], *, more: str = "") -> _Html:
    return _fill(kind, rows=rows, more=more) if rows else _fill(f"no_{kind}")


def _denials(overview: Overview) -> _Html:
    denials = overview.denials[::-1]
    rows = [
        _fill(
            "denial",
            time=_moment(seen.at, "%H:%M:%S"),
            seen=seen,
            explanation=DenialReason(seen.code).explanation,
            detail=_fill("detail", detail=seen.detail) if seen.detail else "",
            claimed=_fill("hotkey", hotkey=seen.hotkey) if seen.hotkey else _fill("no_hotkey"),
        )
        for seen in denials[:DENIALS_SHOWN]
    ]
    more = _fill("earlier_denials") if len(denials) > DENIALS_SHOWN else ""
    return _card("denials", rows, more=more)


def _codes(overview: Overview) -> _Html:
    counts = sorted(
        ((count, code) for code, count in overview.codes.items() if count and code != GRANTED),
        reverse=True,
    )
    total = sum(count for count, _ in counts)
    rows = [_fill("code", code=code, count=each, share=each / total) for each, code in counts]
    return _card("codes", rows)


def _callers(overview: Overview) -> _Html:
    callers = overview.callers[::-1]
    rows = [
        _fill("caller", seen=seen, span=_span(overview.at - seen.at))
        for seen in callers[:CALLERS_SHOWN]
    ]
    hidden = len(callers) - CALLERS_SHOWN
    return _card(
        "callers", rows, more=_fill("earlier_callers", hidden=hidden) if hidden > 0 else ""
    )


def _certificates(overview: Overview) -> _Html:
    rows = []
    for seen in overview.certificates:
        left = seen.not_after - overview.at
        words = "over" if left < 0 else f"in {_span(left)}"
        day = _moment(seen.not_after, "%Y-%m-%d")
        begin = seen.fingerprint[:12]
        rows.append(_fill("certificate", seen=seen, begin=begin, day=day, left=words))
    return _card("certificates", rows)


# Words.


def _moment(at: float, form: str) -> _Html:
    return _fill("time", at=_utc(at), shown=_utc(at).strftime(form))


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))


def _span(seconds: float) -> str:
    """A span in its largest unit, rounded down."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _at_most(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.001:  # noqa: PLR2004 - a millisecond
        return _Html(f"&le; {seconds * 1e6:g} &micro;s")
    return _Html(f"&le; {seconds * 1e3:g} ms" if seconds < 1 else f"&le; {seconds:g} s")
