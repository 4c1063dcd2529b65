from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints import cli
from nexus_auth.entrypoints.settings import all_settings
from tests.pages import ROOT, Block, blocks, pages, spans

_BLOCKS = [block for page in pages() for block in blocks(page)]
_SHELL = ("sh", "bash", "console")
_PAGE_NAMES = [str(page.relative_to(ROOT)) for page in pages()]
_ENDS_A_COMMAND = re.compile(r"[;&|<>()]+")
# Read elsewhere than from the table of settings.
_OTHER_NAMES = {
    "NEXUS_AUTH_ENV_FILE",
    "NEXUS_AUTH_REQUIRE_REAL",
    "NEXUS_PYLON_DEV_TOKEN",
    "NEXUS_PYLON_DEV_OPEN_ACCESS_TOKEN",
    # Given to the user's command, not read.
    *(
        f"NEXUS_AUTH_PUBLISH_{name}"
        for name in ("CERTIFICATE", "HOTKEY", "IP", "NETUID", "PORT", "PUBLIC_KEY")
    ),
}


def _commands(text: str) -> Iterator[list[str]]:
    """The arguments of every call of nexus-auth in a piece of shell."""
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace = " \t"
    lexer.wordchars += "$:,=@[]{}"
    words: list[str] | None = None
    for word in lexer:
        if word == "\n" or _ENDS_A_COMMAND.fullmatch(word):
            if words is not None:
                yield words
            words = None
        elif words is not None:
            words.append(word)
        elif word == "nexus-auth":
            words = []
    if words is not None:
        yield words


def _all_commands() -> list[tuple[str, list[str]]]:
    found = [
        (str(block), words)
        for block in _BLOCKS
        if block.language in _SHELL
        for line in block.code.replace("\\\n", " ").splitlines()
        for words in _commands(line)
    ]
    found += [
        (name, words)
        for name, page in zip(_PAGE_NAMES, pages(), strict=True)
        for span in spans(page)
        if span.startswith("nexus-auth ") and "..." not in span
        for words in _commands(span)
        if len(words) > 1  # a command's bare name is prose
    ]
    return found


@pytest.mark.parametrize("block", _BLOCKS, ids=str)
def test_every_block_names_its_language(block: Block) -> None:
    """So that readers get colours, and these tests know what to try."""
    assert block.language


@pytest.mark.parametrize(("place", "words"), _all_commands(), ids=lambda value: str(value)[:60])
def test_every_command_line_shown_is_understood(place: str, words: list[str]) -> None:
    """A flag that a page shows exists; its spelling is right."""
    arguments = list(words)
    name = cli._command_named(arguments)
    if name is None or "--help" in arguments:
        return
    try:
        cli.build_parser(only=name).parse_args(arguments)
    except SystemExit:
        pytest.fail(f"{place}: nexus-auth does not understand {shlex.join(words)}")


@pytest.mark.parametrize("page", pages(), ids=_PAGE_NAMES)
def test_every_setting_mentioned_exists(page: Path) -> None:
    """No page names an environment variable that nothing reads."""
    rows = list(all_settings())
    known = {row.name for row in rows} | {f"{row.name}_FILE" for row in rows if row.secret}
    named = set(re.findall(r"NEXUS_[A-Z]+(?:_[A-Z]+)+", page.read_text(encoding="utf-8")))
    assert named <= known | _OTHER_NAMES


@pytest.mark.parametrize("page", pages(), ids=_PAGE_NAMES)
def test_every_make_target_mentioned_exists(page: Path) -> None:
    """`make something` can be typed as it stands."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_every_denial_code_is_explained() -> None:
    """Troubleshooting has one row a code, in the order of the checks, and the right texts."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    by_code, by_text = text.split("## By body text")
    assert re.findall(r"^\| `([a-z-]+)` \|", by_code, re.MULTILINE) == [
        each.value for each in DenialReason
    ]
    shown = re.findall(r"^\| `(Access denied[^`]+)` \| (.*) \|$", by_text, re.MULTILINE)
    assert {body: re.findall(r"`([a-z-]+)`", codes) for body, codes in shown} == {
        body: [each.value for each in DenialReason if each.body == body]
        for body in {each.body for each in DenialReason}
    }


@pytest.mark.parametrize("page", pages(), ids=_PAGE_NAMES)
def test_page_holds_no_trace_of_a_merge(page: Path) -> None:
    """Conflict markers are easily overlooked in prose."""
    assert not re.search(r"^(<{7}|>{7})", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_test_that_a_page_names_exists() -> None:
    """A bound that no test holds is only a sentence."""
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = {span for page in pages() for span in spans(page) if span.startswith("test_")}
    assert len(named) > 30
    assert {each for each in named if f"def {each}(" not in tests} == set()


def test_index_leads_to_every_page() -> None:
    """No page is written that nobody finds."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name
    proxies = (ROOT / "docs" / "proxies.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "proxies").glob("*.md"):
        assert f"](proxies/{page.name})" in proxies, page.name
