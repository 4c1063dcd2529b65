"""The status page: one HTML document with everything in it, and nothing that can run.

Rendered from strings: a page of this size needs no template engine. Every piece of text goes
through `_text`, which leaves printable ASCII and escapes it for HTML. The Content-Security-Policy
forbids what a forgotten escape would let through. `status_page.css` is how it looks by day and by
night; no fonts or images are loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import nexus_auth
from nexus_auth.adapters.observability.facts import DENIED, GRANTED
from nexus_auth.adapters.observability.source import NO_CAUSE
from nexus_auth.domain.health import Freshness
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from nexus_auth.adapters.observability.report import CertificateSeen, DenialSeen, Overview
    from nexus_auth.domain.health import PolicyHealth, RegistryHealth

RELOAD_SECONDS: Final = 15

CALLERS_SHOWN: Final = 50
DENIALS_SHOWN: Final = 20

_HEADLINES: Final = {
    Freshness.FRESH: ("good", "Serving", "Registered callers are let in."),
    Freshness.STALE: (
        "warn",
        "Serving stale",
        "Pylon does not answer. Registered callers are let in by what it said last.",
    ),
    Freshness.STARTING: ("warn", "Starting", "Nothing is known of registered keys yet."),
    Freshness.EXPIRED: (
        "bad",
        "Closed",
        "What Pylon said last is too old to be used. Everybody is denied.",
    ),
}

_STYLE: Final = "\n" + files(__package__).joinpath("status_page.css").read_text("utf-8")
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


def render_page(
    overview: Overview, *, is_draining: bool, policy: PolicyHealth | None = None
) -> str:
    """Renders the page.

    Args:
        overview: The counts of all workers.
        is_draining: Whether the service is about to end.
        policy: The state of the access policies, where there are any.
    """
    tone, word, sentence = _HEADLINES[overview.registry.freshness]
    if is_draining:
        tone, word, sentence = "warn", "Draining", "The service has been told to end."
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">'
        f"<title>{word} - nexus-auth</title><style>{_STYLE}</style></head><body>"
        f"{_header(overview)}<main>"
        f"{_banner(tone, word, f'{sentence}{_trouble(overview.registry)}')}"
        f"{_broken_policy(policy)}{_tiles(overview)}{_charts(overview)}"
        f"{_latest_denials(overview)}"
        f'<div class="pair">{_callers(overview)}<div class="stack">{_codes(overview)}'
        f"{_ending(overview)}</div></div>"
        "</main></body></html>\n"
    )


def _banner(tone: str, title: str, text: str) -> str:
    return (
        f'<section class="banner {tone}"><span class="dot"></span><div><h2>{title}</h2>'
        f"<p>{text}</p></div></section>"
    )


def _header(overview: Overview) -> str:
    workers = f"{overview.workers} worker{'' if overview.workers == 1 else 's'}"
    return (
        "<header><h1>nexus-auth</h1>"
        f'<p>version {_text(nexus_auth.__version__)} <span class="sep">/</span> {workers} '
        f'<span class="sep">/</span> {_moment(overview.at, "%Y-%m-%d %H:%M:%S")} UTC</p></header>'
    )


def _trouble(registry: RegistryHealth) -> str:
    if registry.last_error is None:
        return ""
    since = ""
    if registry.failing_since is not None:
        since = f" since {_moment(registry.failing_since.timestamp(), '%H:%M:%S')} UTC"
    return f'<br><span class="error">{_text(registry.last_error)}</span>{since}'


def _broken_policy(policy: PolicyHealth | None) -> str:
    if policy is None or policy.problem is None:
        return ""
    loaded_at = _moment(policy.loaded_at.timestamp(), "%Y-%m-%d %H:%M:%S")
    return _banner(
        "warn",
        "Policy file is broken",
        f"The policies read at {loaded_at} UTC stay in force."
        f'<br><span class="error">{_text(policy.problem)}</span>',
    )


# The numbers on top.


def _tiles(overview: Overview) -> str:
    registry = overview.registry
    granted = sum(counts[0] for counts in overview.minutes.values())
    denied = sum(counts[1] for counts in overview.minutes.values())
    age = "no age" if registry.age is None else f"{_span(registry.age.total_seconds())} old"
    fetches = sum(overview.fetches.values())
    failed = fetches - overview.fetches.get(NO_CAUSE, 0)
    seconds = overview.seconds[GRANTED]
    return (
        '<section class="tiles">'
        + _tile("Known hotkeys", f"{registry.size:,}", f"{_text(registry.mode)}, {age}")
        + _tile("Granted", f"{granted:,}", "in the last hour")
        + _tile("Denied", f"{denied:,}", "in the last hour")
        + _tile(
            "Time of a grant",
            _at_most(seconds.quantile(0.5)),
            f"99 of 100: {_at_most(seconds.quantile(0.99))}",
        )
        + _tile("Questions to Pylon", f"{fetches:,}", f"{failed:,} failed")
        + _tile("Remembered", f"{overview.remembered:,}", "certificates")
        + "</section>"
    )


def _tile(name: str, value: str, note: str) -> str:
    return (
        f'<div class="tile"><span class="name">{name}</span>'
        f'<span class="value">{value}</span><span class="note">{note}</span></div>'
    )


# The last hour.

_CHART_WIDTH: Final = 600
_CHART_HEIGHT: Final = 90
_BAR_GAP: Final = 2


def _charts(overview: Overview) -> str:
    granted = {minute: counts[0] for minute, counts in overview.minutes.items()}
    denied = {minute: counts[1] for minute, counts in overview.minutes.items()}
    left, right = (
        _chart("Grants a minute", GRANTED, granted),
        _chart("Denials a minute", DENIED, denied),
    )
    return f'<section class="pair">{left}{right}</section>'


def _chart(title: str, kind: str, counts: Mapping[int, int]) -> str:
    top = max(counts.values(), default=0)
    step = _CHART_WIDTH / max(1, len(counts))
    bars = []
    for index, (minute, count) in enumerate(counts.items()):
        x = f"{index * step:.1f}"
        if count:
            # A minute with few decisions must differ from one with none.
            height = max(2.0, count / top * _CHART_HEIGHT)
            bars.append(
                f'<rect class="{kind}" x="{x}" y="{_CHART_HEIGHT - height:.1f}" '
                f'width="{step - _BAR_GAP:.1f}" height="{height:.1f}" rx="1"/>'
            )
        # The mouse finds the whole column.
        bars.append(
            f'<rect class="hit" x="{x}" y="0" width="{step:.1f}" height="{_CHART_HEIGHT}">'
            f"<title>{_clock(minute)} UTC: {count:,}</title></rect>"
        )
    total = sum(counts.values())
    first, last = _clock(min(counts, default=0)), _clock(max(counts, default=0))
    return (
        f'<div class="card chart"><div class="caption"><h3>{title}</h3>'
        f'<span class="note">at most {top:,}</span></div>'
        f'<svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}: {total:,} in the last hour, at most {top:,}">'
        f"{''.join(bars)}</svg>"
        f'<div class="axis"><span>{first}</span><span>{last} UTC</span></div></div>'
    )


def _clock(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%H:%M")


# The tables.


def _latest_denials(overview: Overview) -> str:
    denials = overview.denials[::-1]
    return _card(
        "Latest denials",
        ("Time", "Why", "Claimed hotkey and request"),
        [_denial(each) for each in denials[:DENIALS_SHOWN]],
        nothing="Nobody has been denied since the service started.",
        more="Earlier ones are in the log." if len(denials) > DENIALS_SHOWN else "",
        stacks=True,
    )


def _denial(seen: DenialSeen) -> Sequence[str]:
    explanation = DenialReason(seen.code).explanation
    detail = f'<span class="note under">{_text(seen.detail)}</span>' if seen.detail else ""
    claimed = '<span class="note">no hotkey</span>' if seen.hotkey is None else _hotkey(seen.hotkey)
    return (
        _moment(seen.at, "%H:%M:%S"),
        f'{_code(seen.code)}<span class="note under">{explanation}</span>{detail}',
        f'{claimed}<span class="request">{_text(seen.method)} {_text(seen.uri)}</span>',
    )


def _codes(overview: Overview) -> str:
    counts = sorted(
        ((count, code) for code, count in overview.codes.items() if count and code != GRANTED),
        reverse=True,
    )
    total = sum(count for count, _ in counts)
    return _card(
        "Denials by code",
        ("Code", "#Times", "#Share"),
        [(_code(code), f"{count:,}", f"{count / total:.0%}") for count, code in counts],
        nothing="None since the service started.",
    )


def _callers(overview: Overview) -> str:
    callers = overview.callers[::-1]
    hidden = len(callers) - CALLERS_SHOWN
    return _card(
        "Callers",
        ("Hotkey", "#Last visit", "#Grants"),
        [
            (_hotkey(each.hotkey), f"{_span(overview.at - each.at)} ago", f"{each.times:,}")
            for each in callers[:CALLERS_SHOWN]
        ],
        nothing="Nobody has been granted entry since the service started.",
        more=f"and {hidden:,} that came earlier" if hidden > 0 else "",
    )


def _ending(overview: Overview) -> str:
    return _card(
        "Certificates that end within 30 days",
        ("Hotkey", "Certificate", "#Ends"),
        [_certificate(each, overview.at) for each in overview.certificates],
        nothing="None of those that were granted entry.",
    )


def _certificate(seen: CertificateSeen, now: float) -> Sequence[str]:
    left = seen.not_after - now
    words = "over" if left < 0 else f"in {_span(left)}"
    day = _moment(seen.not_after, "%Y-%m-%d")
    fingerprint = _text(seen.fingerprint)
    return (
        _hotkey(seen.hotkey),
        f'<span class="mono" title="SHA-256 {fingerprint}">{fingerprint[:12]}</span>',
        f'{day}<span class="note under">{words}</span>',
    )


def _card(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    nothing: str,
    more: str = "",
    stacks: bool = False,
) -> str:
    """A table. A column whose name begins with # holds numbers.

    With `stacks`, the third column stands below the others on a narrow screen.
    """
    numeric = [name.startswith("#") for name in columns]

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{value}</{tag}>' if right else f"<{tag}>{value}</{tag}>"
            for value, right in zip(values, numeric, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    if not body:
        return f'<section class="card"><h3>{title}</h3><p class="nothing">{nothing}</p></section>'
    head = cells("th", [name.lstrip("#") for name in columns])
    foot = f'<p class="nothing">{more}</p>' if more else ""
    kind = ' class="stacks"' if stacks else ""
    return (
        f'<section class="card"><h3>{title}</h3><div class="scroll"><table{kind}>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{foot}</section>"
    )


# Words.


def _text(value: str) -> str:
    """Text for HTML: printable ASCII stays, everything else becomes a visible escape."""
    shown = "".join(
        each if " " <= each <= "~" else each.encode("unicode_escape").decode("ascii")
        for each in value
    )
    return html.escape(shown)


def _code(code: str) -> str:
    return f'<span class="code">{_text(code)}</span>'


def _hotkey(address: str) -> str:
    return f'<span class="mono">{_text(address)}</span>'


def _moment(at: float, form: str) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment.strftime(form)}</time>'


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
        return f"&le; {seconds * 1e6:g} &micro;s"
    return f"&le; {seconds * 1e3:g} ms" if seconds < 1 else f"&le; {seconds:g} s"
