from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints import arguments


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (arguments.whole_number(0, 10), "10", 10),
        (arguments.seconds(0.5, 2), "0.5", 0.5),
        (arguments.one_of("a", "b"), "b", "b"),
        (arguments.true_or_false, "false", False),
        (arguments.token, "abc-._~+/=", "abc-._~+/="),
    ],
)
def test_text_becomes_a_value(parse: Callable[[str], object], text: str, value: object) -> None:
    """What is accepted has its own type."""
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (arguments.whole_number(0, 10), "11"),
        (arguments.whole_number(0, 10), "-1"),
        (arguments.whole_number(0, 10), "1_0"),
        (arguments.whole_number(0, 10), "\u0661"),
        (arguments.whole_number(0, 10), ""),
        (arguments.seconds(0.5, 2), "nan"),
        (arguments.seconds(0.5, 2), "3"),
        (arguments.seconds(0.5, 2), "soon"),
        (arguments.one_of("a", "b"), "c"),
        (arguments.true_or_false, "yes"),
        (arguments.token, "two words"),
        (arguments.token, "tab\there"),
        (arguments.token, "caf\u00e9"),
    ],
)
def test_anything_else_is_refused_with_what_is_expected(
    parse: Callable[[str], object], text: str
) -> None:
    """The flag and the text are named by `parsed`."""
    with pytest.raises(ConfigurationError) as caught:
        arguments.parsed("-some-flag", text, parse)
    assert str(caught.value).startswith(f"-some-flag: {text!r}: ")


def test_flags_take_one_dash_or_two() -> None:
    """As the original's do; a Go switch takes its truth behind an equals sign as well."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    arguments.add_value(parser, "name", help="a value")
    arguments.add_switch(parser, "json", "a switch")
    arguments.add_go_switch(parser, "force", "a switch")
    given = parser.parse_args(["-name", "x", "--json", "-force=true"])
    assert (given.name, given.json, given.force) == ("x", True, True)
    given = parser.parse_args(["--name", "x", "-force=F"])
    assert (given.name, given.json, given.force) == ("x", False, False)
    assert parser.parse_args(["--force"]).force is True
    with pytest.raises(SystemExit):
        parser.parse_args(["-force=perhaps"])
