"""The status page in a real browser, full of what strangers would like to put into it."""

from __future__ import annotations

import re
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from nexus_auth.adapters.observability.counters import Counters
from nexus_auth.adapters.observability.report import CertificateSeen, Overview
from nexus_auth.adapters.starlette.status_page import PAGE_HEADERS, render_page
from nexus_auth.domain.health import Freshness
from nexus_auth.domain.reasons import DenialReason
from tests.builders import a_hotkey
from tests.fakes import FakeClock
from tests.integration.real import require_program
from tests.unit.adapters.observability.watched import a_state, deny, grant, policies

LIGHT, DARK = "1", "0"
"""Chromium's numbers for preferredColorScheme."""

OWNED: Final = "owned"


class Site:
    """Serves the page, and records every request of a browser."""

    def __init__(self, page_at: Callable[[str], str], headers: dict[str, str]) -> None:
        self.requested: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requested.append(self.path)
                body = page.encode() if self.path == "/" else b"nothing"
                self.send_response(200)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        page = page_at(self.address)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def a_hostile_page(address: str) -> str:
    """The page of a service that hostile strangers have visited."""
    counters = Counters(clock=FakeClock())
    grant(counters, times=100)
    for text in (
        f"</td></tr></table><script>document.title='{OWNED}'</script>",
        f"<img src={address}/image onerror=\"document.title='{OWNED}'\">",
        f'"><svg onload="document.title=\'{OWNED}\'"><iframe src={address}/frame>',
        f"</style><style>@import '{address}/style'; body {{ background: url({address}/url) }}",
        f'<meta http-equiv="refresh" content="0; url={address}/refresh">',
        f"<base href={address}/base/><link rel=stylesheet href={address}/link>",
        "\u202e\u0000\x1b[31m",
    ):
        deny(
            counters,
            DenialReason.NO_ORGANIZATION,
            uri=text.encode(),
            method=text.encode()[:32],
            detail=text,
        )
    counters.tick()
    report = counters.report(
        registry=a_state(Freshness.STALE, error=f"<script>document.title='{OWNED}'</script>"),
        remembered=1,
        certificates=(),
    )
    return render_page(Overview.of(report), is_draining=False, policy=policies())


@pytest.fixture
def site() -> Iterator[Site]:
    """The hostile page, as the admin listener serves it."""
    # Whatever the page could be brought to load would come to the same place.
    site = Site(a_hostile_page, PAGE_HEADERS)
    yield site
    site.close()


def browse(folder: Path, *arguments: str) -> str:
    """Runs a headless Chromium to its end, and gives what it prints."""
    chromium = require_program("chromium", "apt-get install chromium")
    return subprocess.run(
        [
            *(str(chromium), "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update"),
            *("--virtual-time-budget=500", f"--user-data-dir={folder / 'profile'}"),
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    ).stdout


def test_hostile_texts_stay_texts_in_a_browser(site: Site, tmp_path: Path) -> None:
    """Nothing runs, nothing is loaded, and the browser stays on the page."""
    dom = browse(tmp_path, "--dump-dom", site.address)
    assert "<title>Serving stale - nexus-auth</title>" in dom
    assert not re.search(r"<(script|img|iframe|link|base|object|form|a)\b", dom)
    assert dom.count("<style>") == 1
    assert dom.count("<meta http-equiv=") == 1
    assert "&lt;img src=" in dom
    assert set(site.requested) == {"/"}


def test_policy_holds_where_an_escape_is_missing(tmp_path: Path) -> None:
    """The second line of defence works alone: our headers around a page of theirs."""
    page = (
        "<!DOCTYPE html><title>harmless</title><base href='/base/'>"
        f"<script>document.title='{OWNED}'</script><script src=/script></script>"
        f"<img src=/image onerror=\"document.title='{OWNED}'\"><iframe src=/frame></iframe>"
        "<link rel=stylesheet href=/link><style>body{background:url(/url)}</style>"
    )
    site = Site(lambda _: page, PAGE_HEADERS)
    try:
        dom = browse(tmp_path, "--dump-dom", site.address)
    finally:
        site.close()
    assert "<title>harmless</title>" in dom
    assert set(site.requested) == {"/"}


def background(png: bytes) -> tuple[int, ...]:
    """The colour of a screenshot's first pixel: that of the page behind everything."""
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    # The first byte of a line is its filter; the first pixel is the same under all of them.
    return tuple(zlib.decompress(data)[1:4])


@pytest.mark.parametrize(
    ("scheme", "colour"), [(LIGHT, (0xF6, 0xF7, 0xF9)), (DARK, (0x10, 0x14, 0x1A))]
)
def test_page_follows_the_readers_preference(
    site: Site, tmp_path: Path, scheme: str, colour: tuple[int, ...]
) -> None:
    """Light by day and dark by night, without a script, and the policy lets its style through."""
    picture = tmp_path / "page.png"
    browse(
        tmp_path,
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1280,1600",
        f"--screenshot={picture}",
        site.address,
    )
    assert background(picture.read_bytes()) == colour


def a_full_page() -> str:
    """The page of a service that has rows in every table."""
    counters = Counters(clock=FakeClock())
    grant(counters, times=123_456)
    for reason in DenialReason:
        deny(counters, reason, uri=b"/v1/a/long/path/" * 8, detail="stake 12.5 below 1000 total")
    counters.tick()
    ending = CertificateSeen(
        hotkey=a_hotkey("alice").address,
        fingerprint="ab" * 32,
        not_after=(FakeClock().now + timedelta(days=20)).timestamp(),
    )
    state = a_state(Freshness.STALE, error="http://pylon:8000/" + 40 * "long")
    report = counters.report(registry=state, remembered=1, certificates=(ending,))
    return render_page(Overview.of(report), is_draining=False, policy=policies())


_MEASURE: Final = """
const page = frames[0].document;
const boxes = [page.documentElement, ...page.querySelectorAll(".scroll")];
document.title = "too wide by " + boxes.map(box => box.scrollWidth - box.clientWidth);
"""


@pytest.mark.parametrize("width", [320, 400, 640, 700, 1200])
def test_nothing_has_to_be_scrolled_sideways(tmp_path: Path, width: int) -> None:
    """On a phone as on a desk, every column of every table can be read."""
    (tmp_path / "page.html").write_text(a_full_page())
    frame = tmp_path / "frame.html"
    # No window of a browser is as narrow as a phone, but a frame can be.
    frame.write_text(
        f'<!DOCTYPE html><title></title><iframe src="page.html" style="width: {width}px"></iframe>'
        f"<script>onload = () => {{ {_MEASURE} }}</script>"
    )
    dom = browse(
        tmp_path,
        *("--allow-file-access-from-files", "--window-size=1280,1600", "--dump-dom"),
        frame.as_uri(),
    )
    assert "<title>too wide by 0,0,0,0,0</title>" in dom
