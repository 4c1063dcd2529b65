from __future__ import annotations

import argparse
import contextlib
import os
import re
from pathlib import Path
from typing import Any, Final

import pytest

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.settings import Setting, Settings, add_flags, all_settings, load_from
from tests.builders import a_hotkey

SECRET: Final = "hunter2-hunter2"
_IDENTITY: Final = {
    "NEXUS_PYLON_NETUID": "1",
    "NEXUS_PYLON_IDENTITY_NAME": "miner",
    "NEXUS_PYLON_IDENTITY_TOKEN": SECRET,
}


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` of the developer's is picked up."""
    monkeypatch.chdir(tmp_path)


def test_nothing_given_means_the_defaults_of_the_contract() -> None:
    """The defaults are those that the contract lists."""
    settings = Settings.load(environ={})
    assert settings.listen_addr == TcpAddress("", 8080)
    assert settings.admin_addr == TcpAddress("127.0.0.1", 8081)
    assert settings.pylon_endpoint == "http://pylon:8000"
    assert settings.netuid is None
    assert settings.cache_duration_mins == 15
    assert settings.reuse_seconds == 5
    assert settings.refresh_seconds == 30
    assert set(settings.origins.values()) == {"default"}


def test_flag_wins_over_environment_wins_over_file_wins_over_default(tmp_path: Path) -> None:
    """The precedence of the contract, and each value remembers where it came from."""
    Path(".env").write_text("NEXUS_AUTH_LISTEN_ADDR=:1\n")
    environ: dict[str, str] = {}
    settings = Settings.load(environ=environ)
    assert settings.listen_addr == TcpAddress("", 1)
    assert settings.origins["listen_addr"] == ".env"
    environ["NEXUS_AUTH_LISTEN_ADDR"] = ":2"
    settings = Settings.load(environ=environ)
    assert settings.listen_addr == TcpAddress("", 2)
    assert settings.origins["listen_addr"] == "environment"
    settings = Settings.load(environ=environ, flags={"listen_addr": ":3"})
    assert settings.listen_addr == TcpAddress("", 3)
    assert settings.origins["listen_addr"] == "flag -listen-addr"


@pytest.mark.parametrize("name", [row.name for row in all_settings()])
def test_empty_value_in_the_environment_means_unset(name: str) -> None:
    """`NAME=` in a compose file is how people leave a setting alone."""
    assert Settings.load(environ={name: ""}) == Settings.load(environ={})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEXUS_PYLON_IDENTITY_NAME", " "),
        ("NEXUS_PYLON_IDENTITY_NAME", "miner\n"),
        ("NEXUS_AUTH_LISTEN_ADDR", "8080"),
        ("NEXUS_AUTH_ADMIN_ADDR", "no"),
        ("NEXUS_PYLON_ENDPOINT", "pylon:8000"),
        ("NEXUS_PYLON_ENDPOINT", "ftp://pylon"),
        ("NEXUS_PYLON_ENDPOINT", "http://"),
        ("NEXUS_PYLON_ENDPOINT", "http://pylon:99999"),
        ("NEXUS_PYLON_ENDPOINT", "http://user:pw@pylon"),
        ("NEXUS_PYLON_ENDPOINT", "http://pylon/?a=b"),
        ("NEXUS_PYLON_ENDPOINT", "http://[::1"),
        ("NEXUS_PYLON_NETUID", "-1"),
        ("NEXUS_PYLON_NETUID", "65536"),
        ("NEXUS_PYLON_NETUID", "one"),
        ("NEXUS_PYLON_NETUID", "1_0"),
        ("NEXUS_PYLON_NETUID", "\u0661"),
        ("NEXUS_PYLON_NETUID", " 1"),
        ("NEXUS_PYLON_NETUID", "9" * 5000),
        ("NEXUS_AUTH_CACHE_DURATION_MINS", "1.5"),
        ("NEXUS_AUTH_CACHE_DURATION_MINS", "-1"),
        ("NEXUS_AUTH_REFRESH_SECONDS", "nan"),
        ("NEXUS_AUTH_REFRESH_SECONDS", "inf"),
        ("NEXUS_AUTH_REFRESH_SECONDS", "0"),
        ("NEXUS_AUTH_REUSE_SECONDS", "3601"),
        ("NEXUS_AUTH_REGISTRY", "Snapshot"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "redis"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "redis://"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "rediss://:pw@/0"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "redis://:pw@host:port"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "redis://host/nexus"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "redis://host/0/1"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "file:snapshot.json"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "file:/folder/"),
        ("NEXUS_AUTH_SNAPSHOT_STORE", "/path"),
        ("NEXUS_AUTH_LOG_LEVEL", "loud"),
        ("NEXUS_AUTH_WORKERS", "0"),
    ],
)
def test_wrong_value_names_the_setting_and_its_source(name: str, value: str) -> None:
    """One line tells what is wrong, in which setting, and where it was set."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={name: value})
    assert caught.value.setting == name
    assert caught.value.source == "environment"
    message = str(caught.value)
    assert message.startswith(f"{name} (from environment): ")
    assert "\n" not in message


def test_wrong_value_cannot_write_to_the_terminal() -> None:
    """A value is shown as an escaped literal."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={"NEXUS_PYLON_NETUID": "1\x1b[31m\n2"})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [f"{SECRET} with spaces", f"{SECRET}\n", f"{SECRET}é"])
def test_wrong_secret_is_not_repeated(value: str) -> None:
    """A token that is refused does not appear in the refusal."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ=_IDENTITY | {"NEXUS_PYLON_IDENTITY_TOKEN": value})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://u:{}@pylon", "ftp://u:{}@pylon", "http://u:{}@pylon:99999"]
)
def test_password_in_a_refused_url_is_not_repeated(url: str) -> None:
    """Whatever is wrong with the URL, its password stays out of the message."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={"NEXUS_PYLON_ENDPOINT": url.format(SECRET)})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_secret_is_never_shown(show: Any) -> None:
    """Printing the settings, as in a debugger or a log, does not print tokens."""
    settings = Settings.load(environ=_IDENTITY | {"NEXUS_PYLON_OPEN_ACCESS_TOKEN": SECRET})
    assert settings.identity_token == SECRET
    assert SECRET not in show(settings)


@pytest.mark.parametrize("missing", sorted(_IDENTITY))
def test_identity_is_given_wholly_or_not_at_all(missing: str) -> None:
    """Half an identity is a mistake; the message names the missing half."""
    environ = {name: value for name, value in _IDENTITY.items() if name != missing}
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ=environ)
    assert caught.value.setting == missing
    assert SECRET not in str(caught.value)


CHAIN: Final = {
    "NEXUS_AUTH_SOURCE": "chain",
    "NEXUS_CHAIN_ENDPOINT": "wss://a.example/s3cret,ws://b",
    "NEXUS_PYLON_NETUID": "12",
}


@pytest.mark.parametrize("missing", ["NEXUS_CHAIN_ENDPOINT", "NEXUS_PYLON_NETUID"])
def test_chain_needs_its_nodes_and_a_subnet(missing: str) -> None:
    """Without one of them nothing could be read; the message says which, and why."""
    assert Settings.load(environ=CHAIN).chain_endpoint == ("wss://a.example/s3cret", "ws://b")
    with pytest.raises(
        ConfigurationError, match="needed together with NEXUS_AUTH_SOURCE"
    ) as caught:
        Settings.load(environ={**CHAIN, missing: ""})
    assert caught.value.setting == missing


def test_address_of_a_node_is_a_secret() -> None:
    """Providers put the key of an account into its path."""
    settings = Settings.load(environ=CHAIN)
    assert "s3cret" not in repr(settings)
    assert settings.source_address == "a.example, b"
    pylon = Settings.load(environ={**CHAIN, "NEXUS_AUTH_SOURCE": "pylon"})
    assert pylon.source_address == "http://pylon:8000"


@pytest.mark.parametrize(
    ("environ", "unused"),
    [
        (CHAIN, []),
        ({**CHAIN, "NEXUS_CHAIN_GENESIS": "0x" + "2f" * 32}, []),
        (
            {**CHAIN, **_IDENTITY, "NEXUS_PYLON_ENDPOINT": "http://pylon"},
            [f"NEXUS_PYLON_{each}" for each in ("ENDPOINT", "IDENTITY_NAME", "IDENTITY_TOKEN")],
        ),
        ({**CHAIN, "NEXUS_PYLON_OPEN_ACCESS_TOKEN": "t"}, ["NEXUS_PYLON_OPEN_ACCESS_TOKEN"]),
        (_IDENTITY, []),
        ({**CHAIN, "NEXUS_AUTH_SOURCE": ""}, ["NEXUS_CHAIN_ENDPOINT"]),
        ({"NEXUS_CHAIN_GENESIS": "0x" + "2f" * 32}, ["NEXUS_CHAIN_GENESIS"]),
    ],
)
def test_setting_of_the_other_source_is_said_to_have_no_effect(
    environ: dict[str, str], unused: list[str]
) -> None:
    """Else nodes that are named, while Pylon is asked all the same, would mislead."""
    lines = Settings.load(environ=environ).unknown
    assert [line.partition(" has no effect")[0] for line in lines] == unused
    for line in lines:
        assert ("generate" in line) == line.startswith("NEXUS_PYLON_")
        assert f"NEXUS_AUTH_SOURCE is {environ.get('NEXUS_AUTH_SOURCE') or 'pylon'}" in line


def test_endpoint_loses_its_trailing_slash() -> None:
    """Paths are appended to it."""
    settings = Settings.load(environ={"NEXUS_PYLON_ENDPOINT": "https://pylon.example/base/"})
    assert settings.pylon_endpoint == "https://pylon.example/base"


def test_admin_listener_can_be_turned_off() -> None:
    """`off` means no admin listener at all."""
    assert Settings.load(environ={"NEXUS_AUTH_ADMIN_ADDR": "off"}).admin_addr is None


def test_names_are_unique_and_follow_one_scheme() -> None:
    """No two rows share a name or a flag; flags are words joined by dashes."""
    rows = list(all_settings())
    names = [row.name for row in rows]
    flags = [row.flag for row in rows if row.flag]
    assert len(set(names)) == len(names)
    assert len(set(flags)) == len(flags)
    for name in names:
        assert re.fullmatch(r"NEXUS_(AUTH|PYLON|CHAIN)(_[A-Z]+)+", name)
    for flag in flags:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", flag)


def _accepted_value(row: Setting) -> str:
    for text in (row.default, *row.choices, "3", "10.0.0.7", "ws://node", "a-file"):
        with contextlib.suppress(ValueError):
            if text is not None and row.parse(text) is not None:
                return text
    pytest.fail(f"no example for {row.name}; add one here")


@pytest.mark.parametrize("dashes", ["-", "--"])
@pytest.mark.parametrize("row", [row for row in all_settings() if row.flag], ids=lambda r: r.name)
def test_every_flag_reaches_its_setting(row: Setting, dashes: str) -> None:
    """A command that takes a setting's flag, with one dash or two, passes its value on."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, [row.attribute])
    value = _accepted_value(row)
    args = parser.parse_args([f"{dashes}{row.flag}", value])
    assert getattr(args, row.attribute) == value
    if row.flag not in {"identity-name", "identity-token"}:
        settings = load_from(args)
        assert getattr(settings, row.attribute) == row.parse(value)
        assert settings.origins[row.attribute] == f"flag -{row.flag}"


ALICE: Final = a_hotkey("alice")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEXUS_AUTH_ALLOW_HOTKEYS", str(ALICE)),
        ("NEXUS_AUTH_DENY_HOTKEYS", str(ALICE)),
        ("NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT", "true"),
        ("NEXUS_AUTH_MIN_STAKE", "total=0"),
    ],
)
def test_policy_is_said_in_one_place(name: str, value: str) -> None:
    """A file and a setting that both speak would leave open which of them counts."""
    with pytest.raises(ConfigurationError, match="write it into the file") as caught:
        Settings.load(environ={"NEXUS_AUTH_POLICY_FILE": "/policy.toml", name: value})
    assert caught.value.setting == name
    settings = Settings.load(
        environ={
            "NEXUS_AUTH_POLICY_FILE": "/policy.toml",
            "NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT": "false",
        }
    )
    assert settings.policy_file == Path("/policy.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT", "true"),
        ("NEXUS_AUTH_MIN_STAKE", "1"),
        ("NEXUS_AUTH_GRANT_HEADERS", "uid"),
    ],
)
@pytest.mark.parametrize(
    "without",
    [{"NEXUS_AUTH_REGISTRY": "lookup"}, {"NEXUS_AUTH_CACHE_DURATION_MINS": "0"}],
    ids=["lookup", "no cache"],
)
def test_neurons_come_with_a_snapshot_only(name: str, value: str, without: dict[str, str]) -> None:
    """What could only refuse everybody is refused at the start."""
    assert Settings.load(environ={name: value}).neurons_problem is None
    with pytest.raises(ConfigurationError, match="NEXUS_AUTH_REGISTRY=snapshot") as caught:
        Settings.load(environ={name: value, **without})
    assert caught.value.setting == name
    assert Settings.load(environ=without).neurons_problem is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT", "true"),
        ("NEXUS_AUTH_MIN_STAKE", "1"),
        ("NEXUS_AUTH_GRANT_HEADERS", "uid"),
    ],
)
def test_neurons_of_the_chain_need_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Without it, what looks at them is refused at the start; what does not starts."""
    chain = {
        "NEXUS_AUTH_SOURCE": "chain",
        "NEXUS_CHAIN_ENDPOINT": "ws://node:9944",
        "NEXUS_PYLON_NETUID": "1",
    }
    assert Settings.load(environ={**chain, name: value}).neurons_problem is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'nexus-auth\[chain\]'") as caught:
        Settings.load(environ={**chain, name: value})
    assert caught.value.setting == name
    assert Settings.load(environ=chain).neurons_problem is not None
    assert Settings.load(environ={name: value}).neurons_problem is None, "Pylon's need nothing"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("NEXUS_AUTH_ALLOW_HOTKEYS", f"{ALICE},self", "entry 2"),
        ("NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT", "yes", "expected true or false"),
        ("NEXUS_AUTH_MIN_STAKE", "a lot", "expected an amount"),
        ("NEXUS_AUTH_GRANT_HEADERS", "uid,name", "expected some of uid, validator, stake"),
    ],
)
def test_rule_that_is_misspelt_is_refused(name: str, value: str, problem: str) -> None:
    """It must not silently be no rule."""
    with pytest.raises(ConfigurationError, match=problem):
        Settings.load(environ={name: value})


_OF_OURS: Final = ("NEXUS_AUTH_ADMIN_TOKEN", "NEXUS_AUTH_SNAPSHOT_STORE_SECRET")


@pytest.mark.parametrize("name", _OF_OURS)
@pytest.mark.parametrize("value", ["?", "hunter2", "123456789012345", " " * 20, f"short{' ' * 20}"])
@pytest.mark.parametrize("by_file", [False, True])
def test_secret_of_ours_is_not_short(name: str, value: str, *, by_file: bool) -> None:
    """A guess must not find it; the message says how to make one and does not repeat it."""
    environ = {name: value}
    if by_file:
        Path("secret").write_text(f"{value}\n")
        environ = {f"{name}_FILE": "secret"}
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ=environ)
    assert value not in str(caught.value)
    if value.strip():
        assert name in str(caught.value)
    if value.strip() == value:
        assert "at least 16 characters" in str(caught.value)
        assert "openssl rand -hex 32" in str(caught.value)


@pytest.mark.parametrize("name", _OF_OURS)
def test_secret_of_ours_is_long_enough_with_16_characters(name: str) -> None:
    """One fewer is refused, see above."""
    settings = Settings.load(environ={name: "1234567890123456"})
    assert "1234567890123456" in {settings.admin_token, settings.snapshot_store_secret}


def test_token_of_pylon_may_be_short() -> None:
    """Its operator chooses it."""
    environ = _IDENTITY | {"NEXUS_PYLON_IDENTITY_TOKEN": "x"}
    assert Settings.load(environ=environ).identity_token == "x"


_KEEPS_CALLERS_OUT: Final = (
    "NEXUS_AUTH_ADMIN_TOKEN",
    "NEXUS_AUTH_SNAPSHOT_STORE_SECRET",
    "NEXUS_AUTH_UNSAFE_UNSEALED_STORE",
    "NEXUS_AUTH_TRUSTED_PROXIES",
    "NEXUS_AUTH_ALLOW_HOTKEYS",
    "NEXUS_AUTH_DENY_HOTKEYS",
    "NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT",
    "NEXUS_AUTH_MIN_STAKE",
)


@pytest.mark.parametrize("name", _KEEPS_CALLERS_OUT)
@pytest.mark.parametrize("value", [" ", "\t", "\n", "\r", "\xa0", "\u200b", ",", '""', "#"])
@pytest.mark.parametrize("in_file", [False, True])
def test_security_setting_without_content_is_an_error(
    name: str, value: str, *, in_file: bool
) -> None:
    """Only the empty value means unset; nothing that looks empty does."""
    environ = {name: value}
    if in_file:
        escaped = {"\n": "\\n", "\r": "\\r", '""': '\\"\\"'}.get(value, value)
        Path(".env").write_text(f'{name}="{escaped}"\n')
        environ = {}
    with pytest.raises(ConfigurationError, match=name):
        Settings.load(environ=environ)


def test_policy_file_without_content_is_not_the_default() -> None:
    """It is a file that cannot be read, at the start."""
    assert Settings.load(environ={"NEXUS_AUTH_POLICY_FILE": " "}).policy_file == Path(" ")


@pytest.mark.parametrize("row", [row for row in all_settings() if row.secret], ids=lambda r: r.name)
def test_every_secret_says_where_it_is_sent(row: Setting) -> None:
    """A new one is either listed here as sent nowhere, or protected."""
    # The URLs of store and nodes are their own destination. A seal is sent, the secret is not.
    own = {"admin_token", "chain_endpoint", "snapshot_store", "snapshot_store_secret"}
    if row.attribute in own:
        assert row.sent_to is None
    else:
        assert row.sent_to == "pylon_endpoint"


_TOKENS: Final = {"identity_token": _IDENTITY, "open_access_token": {"NEXUS_PYLON_NETUID": "1"}}


@pytest.mark.parametrize("attribute", _TOKENS)
@pytest.mark.parametrize("given", ["flag", "environment", "environment's file"])
@pytest.mark.parametrize("endpoint", ["flag", "environment", "named file", "default", ".env"])
def test_token_goes_to_no_endpoint_of_a_weaker_source(
    attribute: str, given: str, endpoint: str, tmp_path: Path
) -> None:
    """Only the `.env` that happens to be here is weaker than what gives the token."""
    name = f"NEXUS_PYLON_{attribute.upper()}"
    environ = {**_TOKENS[attribute], name: ""}
    flags = {}
    (tmp_path / "token").write_text(SECRET)
    if given == "flag":
        flags[attribute] = SECRET
    elif given == "environment":
        environ[name] = SECRET
    else:
        environ[f"{name}_FILE"] = "token"
    if endpoint == "flag":
        flags["pylon_endpoint"] = "http://elsewhere"
    elif endpoint == "environment":
        environ["NEXUS_PYLON_ENDPOINT"] = "http://elsewhere"
    elif endpoint != "default":
        Path(".env").write_text("NEXUS_PYLON_ENDPOINT=http://elsewhere\n")
        environ |= {"NEXUS_AUTH_ENV_FILE": ".env"} if endpoint == "named file" else {}
    if endpoint != ".env":
        settings = Settings.load(flags=flags, environ=environ)
        assert getattr(settings, attribute) == SECRET
        return
    with pytest.raises(ConfigurationError, match=r"NEXUS_AUTH_ENV_FILE=\.env") as caught:
        Settings.load(flags=flags, environ=environ)
    assert caught.value.setting == name
    assert caught.value.source != ".env"
    assert "NEXUS_PYLON_ENDPOINT" in caught.value.problem
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "token"),
    [
        ("127.0.0.1:8081", None),
        ("[::1]:8081", None),
        ("unix:/run/nexus-auth/admin.sock", None),
        ("off", None),
        (":8081", "an-admin-token-1"),
    ],
)
def test_admin_listener_needs_no_token_on_loopback(address: str, token: str | None) -> None:
    """Who may log in on the machine may see the page."""
    environ = {"NEXUS_AUTH_ADMIN_ADDR": address, "NEXUS_AUTH_ADMIN_TOKEN": token or ""}
    assert Settings.load(environ=environ).admin_token == token


@pytest.mark.parametrize("address", [":8081", "0.0.0.0:8081", "10.0.0.7:8081", "a.example:8081"])
def test_admin_listener_is_never_public_without_a_token(address: str) -> None:
    """The status page names callers: not everybody's business."""
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(environ={"NEXUS_AUTH_ADMIN_ADDR": address})
    assert raised.value.setting == "NEXUS_AUTH_ADMIN_ADDR"
    assert "NEXUS_AUTH_ADMIN_TOKEN" in str(raised.value)


def test_secret_is_read_again_from_its_file_alone(tmp_path: Path) -> None:
    """What is of no use, or comes from elsewhere by now, is None."""
    name = "NEXUS_PYLON_OPEN_ACCESS_TOKEN"
    file = tmp_path / "token"
    file.write_text("first")
    environ = {f"{name}_FILE": str(file), "NEXUS_PYLON_NETUID": "12"}
    settings = Settings.load(environ=environ)
    file.write_text("second\n")
    assert settings.reread(name) == "second"
    assert settings.open_access_token == "first"
    for useless in ("", "two words"):
        file.write_text(useless)
        assert settings.reread(name) is None
    file.unlink()
    assert settings.reread(name) is None
    os.mkfifo(file)  # it has no writer
    assert settings.reread(name) is None
    assert Settings.load(environ={}).reread(name) is None


def test_flag_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """A weaker source that was passed over at the start is passed over later."""
    file = tmp_path / "token"
    file.write_text("of-the-file")
    settings = Settings.load(
        flags={"identity_token": "of-the-flag"},
        environ={
            "NEXUS_PYLON_IDENTITY_TOKEN_FILE": str(file),
            "NEXUS_PYLON_IDENTITY_NAME": "dev",
            "NEXUS_PYLON_NETUID": "12",
        },
    )
    assert settings.reread("NEXUS_PYLON_IDENTITY_TOKEN") is None


def test_token_file_of_a_folder_stays_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only `.env` names the endpoint, no file from elsewhere is sent there, later either."""
    folder, elsewhere = tmp_path / "checkout", tmp_path / "secret"
    folder.mkdir()
    elsewhere.write_text("mine")
    (folder / "token").write_text("of-the-folder")
    (folder / ".env").write_text(
        "NEXUS_PYLON_ENDPOINT=http://pylon.test\nNEXUS_PYLON_NETUID=12\n"
        "NEXUS_PYLON_OPEN_ACCESS_TOKEN_FILE=token\n"
    )
    monkeypatch.chdir(folder)
    settings = Settings.load(environ={})
    assert settings.reread("NEXUS_PYLON_OPEN_ACCESS_TOKEN") == "of-the-folder"
    (folder / "token").unlink()
    (folder / "token").symlink_to(elsewhere)
    assert settings.reread("NEXUS_PYLON_OPEN_ACCESS_TOKEN") is None
