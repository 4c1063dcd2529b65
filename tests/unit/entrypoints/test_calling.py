from __future__ import annotations

import io
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints import calling
from nexus_auth.entrypoints.calling import CallFailed, Order, Output, Target

URL = httpx.URL("https://192.0.2.7:8443/")


def sent(order: Order) -> httpx.Request:
    """The request, read whole."""
    with order.request_to(URL) as request:
        request.read()
        return request


@given(st.text())
def test_any_text_is_an_https_target_or_wrong_usage(text: str) -> None:
    """No text leads to another scheme, or to credentials in a URL."""
    with suppress(ConfigurationError):
        target = Target.parse(text)
        url = httpx.URL(target.text)
        assert not url.userinfo
        assert url.scheme == "https" or (target.needs_place and not url.host)


def test_request_says_no_more_than_it_must() -> None:
    """The server is shown our name and version, and no list of what we could decompress."""
    request = sent(Order())
    assert request.method == "GET"
    assert {name.lower() for name, _ in request.headers.raw} == {b"host", b"accept", b"user-agent"}


def test_own_headers_take_the_place_of_ours() -> None:
    """In the order in which they are given, repeated where that is meant."""
    lines = ("user-agent: mine", "X-A: 1", "X-A: 2", "X-B: \u00fc")
    request = sent(Order(headers=lines, data="a"))
    assert request.headers.get_list("User-Agent") == ["mine"]
    assert [value for name, value in request.headers.raw if name == b"X-A"] == [b"1", b"2"]
    assert (b"X-B", "\u00fc".encode()) in request.headers.raw


@pytest.mark.parametrize(
    ("order", "method"),
    [
        (Order(data="a=b"), "POST"),
        (Order(data=""), "POST"),
        (Order(data="a=b", method="PUT"), "PUT"),
        (Order(method="DELETE"), "DELETE"),
    ],
)
def test_method_follows_from_data_where_none_is_named(order: Order, method: str) -> None:
    """As with curl, whose content type it has too."""
    request = sent(order)
    assert request.method == method
    if order.data is not None:
        assert request.content == order.data.encode()
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert request.headers["Content-Length"] == str(len(order.data))


@pytest.mark.parametrize("size", [0, 5, 1024 * 1024 - 1, 1024 * 1024, 3_000_000])
def test_file_is_sent_with_its_length(tmp_path: Path, size: int) -> None:
    """However much of it is read before."""
    path = tmp_path / "data"
    path.write_bytes(b"x" * size)
    request = sent(Order(data=f"@{path}"))
    assert request.headers["Content-Length"] == str(size)
    assert "Transfer-Encoding" not in request.headers
    assert request.content == b"x" * size


def test_folder_in_place_of_a_file_is_said(tmp_path: Path) -> None:
    """With its name, and the system's reason."""
    with pytest.raises(CallFailed, match=r"cannot read .*: Is a directory"):
        sent(Order(data=f"@{tmp_path}"))


def test_output_appears_with_its_first_piece(tmp_path: Path) -> None:
    """Until then a file stays what it was, and one that was not there is not left behind."""
    path = tmp_path / "answer"
    with Output.opened(str(path), is_wanted=True):
        pass
    assert not path.exists()
    path.write_bytes(b"before")
    with Output.opened(str(path), is_wanted=False) as output:
        assert path.read_bytes() == b"before"
        output.write(b"")
        assert path.read_bytes() == b""
        output.write(b"after")
    assert path.read_bytes() == b"after"


def test_file_of_others_is_not_removed(tmp_path: Path) -> None:
    """What was there before stays, also where no answer comes."""
    path = tmp_path / "answer"
    path.touch()
    with Output.opened(str(path), is_wanted=True):
        pass
    assert path.exists()


@pytest.mark.parametrize("name", [None, "-"])
def test_standard_output_is_written_at_once(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """And not at all where it has the document."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BufferedWriter(raw)))
    with Output.opened(name, is_wanted=True) as output:
        output.write(b"\0\xff\r\n")
        assert raw.getvalue() == b"\0\xff\r\n"
    with Output.opened(name, is_wanted=False) as output:
        output.write(b"more")
    assert raw.getvalue() == b"\0\xff\r\n"


def test_limit_of_time_interrupts_whatever_waits() -> None:
    """And the alarm is gone afterwards, with the handler that was there before."""
    before = signal.getsignal(signal.SIGALRM)
    with (
        pytest.raises(CallFailed, match=r"within 0\.01 s \(-max-time\)"),
        calling._ended_after(0.01),
    ):
        signal.pause()
    with calling._ended_after(60):
        pass
    with calling._ended_after(0):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is before
