from __future__ import annotations

import io
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nexus_auth.entrypoints.terminal import as_json, escaped, painted, wants_colour


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _no_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


@given(st.text())
def test_escaped_text_is_one_line_of_printable_ascii(text: str) -> None:
    """Whatever the text, it can neither move the cursor nor look like something else."""
    shown = escaped(text)
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5Grw", "5Grw"),
        ("certs/client.crt", "certs/client.crt"),
        ("", "''"),
        ("\x1b[31m", r"'\x1b[31m'"),
        ("a\nb", r"'a\nb'"),
        ("\u202eabc", r"'\u202eabc'"),
        ("\u0430pple", r"'\u0430pple'"),
        ("a, O=b", "'a, O=b'"),
        ("it's", '"it\'s"'),
    ],
)
def test_only_plain_text_is_shown_as_it_is(text: str, expected: str) -> None:
    """What is not plain is quoted, so that it cannot pass for our own words."""
    assert escaped(text) == expected


def test_colour_is_for_terminals() -> None:
    """A pipe or a file gets plain text."""
    assert wants_colour(_Terminal())
    assert not wants_colour(io.StringIO())
    assert painted("yes", "green", _Terminal()) == "\x1b[32myes\x1b[0m"
    assert painted("yes", "green", io.StringIO()) == "yes"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_declined(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """NO_COLOR and a dumb terminal are respected."""
    monkeypatch.setenv(name, value)
    assert not wants_colour(_Terminal())


def test_empty_no_color_is_no_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org: only a value that is not empty counts."""
    monkeypatch.setenv("NO_COLOR", "")
    assert wants_colour(_Terminal())


@given(st.text())
def test_json_is_printable_ascii_and_reads_back(text: str) -> None:
    """A program gets every character; a terminal gets none that does anything."""
    shown = as_json({"value": text})
    assert shown.isascii()
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shown) == {"value": text}
