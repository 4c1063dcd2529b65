"""The status page."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import timedelta
from html.parser import HTMLParser

import hypothesis
import pytest
from hypothesis import strategies as st

from nexus_auth.adapters.observability.counters import Counters
from nexus_auth.adapters.observability.report import CertificateSeen, Overview
from nexus_auth.adapters.starlette.status_page import (
    CALLERS_SHOWN,
    DENIALS_SHOWN,
    PAGE_HEADERS,
    render_page,
)
from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.snapshot import Block
from tests.builders import NOW, a_hotkey
from tests.fakes import FakeClock
from tests.unit.adapters.observability.watched import BLOCK, a_state, deny, grant, policies


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "action"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def an_overview(
    counters: Counters | None = None,
    *,
    state: RegistryHealth | None = None,
    certificates: tuple[CertificateSeen, ...] = (),
) -> Overview:
    """One worker's."""
    counters = counters or Counters(clock=FakeClock())
    counters.tick()
    return Overview.of(
        counters.report(registry=state or a_state(), remembered=2, certificates=certificates)
    )


def a_page(overview: Overview | None = None, *, is_draining: bool = False) -> Page:
    """The parsed page."""
    return Page(render_page(overview or an_overview(), is_draining=is_draining, policy=policies()))


@pytest.mark.parametrize(
    ("freshness", "word"),
    [
        (Freshness.FRESH, "Serving"),
        (Freshness.STALE, "Serving stale"),
        (Freshness.STARTING, "Starting"),
        (Freshness.EXPIRED, "Closed"),
    ],
)
def test_page_begins_with_whether_callers_are_let_in(freshness: Freshness, word: str) -> None:
    """It is what an operator opens the page for, so it is the title too."""
    page = a_page(an_overview(state=a_state(freshness, error="nobody answered")))
    assert f"{word} - nexus-auth" in page.text
    assert "nobody answered since 12:00:00 UTC" in page.text
    assert "Draining - nexus-auth" in a_page(is_draining=True).text


def test_page_shows_what_happened() -> None:
    """Counts, callers with their last visit, denials with code and explanation."""
    clock = FakeClock()
    counters = Counters(clock=clock)
    grant(counters, "bob", times=1234)
    deny(
        counters,
        DenialReason.KEY_MISMATCH,
        uri=b"/v1/forward",
        method=b"POST",
        detail="no such key",
    )
    counters.tick()
    clock.advance(minutes=3)
    certificate = CertificateSeen(
        hotkey=a_hotkey("carol").address,
        fingerprint="4f" * 32,
        not_after=(NOW + timedelta(days=3, hours=1)).timestamp(),
    )
    text = a_page(an_overview(counters, certificates=(certificate,))).text
    for expected in (
        "1,234",
        a_hotkey("bob").address,
        "3 min ago",
        "key-mismatch",
        DenialReason.KEY_MISMATCH.explanation,
        "no such key",
        a_hotkey("mallory").address,
        "POST /v1/forward",
        "12:00 UTC: 1,234",
        a_hotkey("carol").address,
        "2026-06-04",
        "in 3 d",
    ):
        assert expected in text, expected


@pytest.mark.parametrize(
    ("block", "source", "shown"),
    [(None, "Pylon", ""), (BLOCK, "the chain", "block 1,234,567, 42\xa0s\xa0old")],
    ids=["Pylon", "chain"],
)
def test_page_names_the_source_and_its_block(block: Block | None, source: str, shown: str) -> None:
    """An operator without a Pylon reads nothing about one."""
    text = a_page(an_overview(state=a_state(Freshness.STALE, block=block))).text
    assert f"No news from {source}." in text
    assert f"from {source}, 0\xa0failed" in text
    assert shown in text
    closed = a_page(an_overview(state=a_state(Freshness.EXPIRED, block=block))).text
    assert f"What {source} said last is too old" in closed
    assert ("Pylon" in text + closed) is (block is None)


def test_empty_page_says_so() -> None:
    """Right after the start nothing is broken, and nothing is missing."""
    text = a_page().text
    assert "No caller has been denied" in text
    assert "No caller has been granted entry" in text


def test_every_code_is_explained() -> None:
    """A new one needs its sentence."""
    assert all(reason.explanation.endswith((".", "?")) for reason in DenialReason)


def test_page_is_bounded() -> None:
    """A busy day does not make it longer than a screen or three."""
    counters = Counters(clock=FakeClock())
    for number in range(1000):
        grant(counters, f"caller {number}")
        deny(counters, uri=b"/" + b"<" * 500)
    text = render_page(an_overview(counters), is_draining=False, policy=policies())
    assert len(text) < 100_000
    assert text.count("&lt;" * 10) >= DENIALS_SHOWN
    assert f"and {256 - CALLERS_SHOWN} that came earlier" in text


def test_broken_policy_file_is_told_of() -> None:
    """With what is wrong, since the old policies hide it."""
    policy = policies("<b>no TOML</b>")
    page = Page(render_page(an_overview(), is_draining=False, policy=policy))
    assert "Policy file is broken" not in a_page().text
    assert "<b>no TOML</b>" in page.text
    assert "b" not in page.tags


HARMLESS_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "div", "span"),
    *("h1", "h2", "h3", "p", "br", "svg", "rect", "time"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
HARMLESS_ATTRIBUTES = {
    *("lang", "charset", "name", "content", "http-equiv", "class", "datetime", "title"),
    *("viewbox", "preserveaspectratio", "role", "aria-label", "x", "y", "width", "height", "rx"),
}


@hypothesis.example(b"</td></table><script>alert(1)</script>", b"GET")
@hypothesis.example(b"' onmouseover='alert(1)", b'"><img src=x onerror=alert(1)>')
@hypothesis.example(b"\x00\x1b[31m\xe2\x80\xae", b"<!--")
@hypothesis.given(uri=st.binary(max_size=300), method=st.binary(max_size=60))
def test_whatever_strangers_write_stays_text(uri: bytes, method: bytes) -> None:
    """No tag and no attribute but ours, and nothing but printable ASCII."""
    counters = Counters(clock=FakeClock())
    deny(counters, uri=uri, method=method, detail=uri.decode("latin-1"))
    text = render_page(
        an_overview(counters, state=a_state(error=uri.decode("latin-1"))),
        is_draining=False,
        policy=policies(),
    )
    page = Page(text)
    assert page.tags <= HARMLESS_TAGS
    assert page.attributes <= HARMLESS_ATTRIBUTES
    assert page.links == []
    assert re.fullmatch(r"[\n -~]*", text)


def test_page_permits_nothing_but_its_own_style() -> None:
    """Should an escape ever be forgotten, a browser still runs and loads nothing."""
    policy = PAGE_HEADERS["Content-Security-Policy"]
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    (style,) = re.findall(
        r"<style>(.*?)</style>",
        render_page(an_overview(), is_draining=False, policy=policies()),
        re.DOTALL,
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert directives == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert not re.search(r"url\(|@import|https?:", style)
    assert PAGE_HEADERS["Cache-Control"] == "no-store"
