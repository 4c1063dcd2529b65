from __future__ import annotations

import errno
import io
import os
import stat
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import hypothesis.strategies as st
import pytest
from dotenv import dotenv_values
from hypothesis import example, given

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.settings import Settings, all_settings
from nexus_auth.entrypoints.sources import Sources, _find_distrust

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


def test_env_file_can_be_named(tmp_path: Path) -> None:
    """`NEXUS_AUTH_ENV_FILE` takes the place of `.env`."""
    named = tmp_path / "production.env"
    named.write_text("NEXUS_PYLON_NETUID=7\n")
    Path(".env").write_text("NEXUS_PYLON_NETUID=8\n")
    settings = Settings.load(environ={"NEXUS_AUTH_ENV_FILE": str(named)})
    assert settings.netuid == 7
    assert settings.origins["netuid"] == str(named)


def test_named_env_file_must_exist() -> None:
    """A file that was asked for and is missing is an error, not silence."""
    with pytest.raises(ConfigurationError, match=r"NEXUS_AUTH_ENV_FILE .*no such file"):
        Settings.load(environ={"NEXUS_AUTH_ENV_FILE": "nowhere.env"})


def test_folder_that_cannot_be_searched_holds_no_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo -u nexus nexus-auth run` from root's own folder starts; a named file is missed."""

    def is_file(_: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "is_file", is_file)
    assert Settings.load(environ={"NEXUS_PYLON_NETUID": "7"}).netuid == 7
    with pytest.raises(ConfigurationError, match=r"NEXUS_AUTH_ENV_FILE .*Permission denied"):
        Settings.load(environ={"NEXUS_AUTH_ENV_FILE": "/root/production.env"})


def test_env_file_that_is_no_text_is_one_clear_error() -> None:
    """Binary rubbish in `.env` does not end in a traceback."""
    Path(".env").write_bytes(b"\xff\xfe\x00NEXUS")
    with pytest.raises(ConfigurationError, match="not readable"):
        Settings.load(environ={})


@pytest.mark.parametrize(
    "line",
    [
        f'NEXUS_AUTH_ADMIN_TOKEN="{SECRET}',
        f"NEXUS_AUTH_ADMIN_TOKEN {SECRET}",
        f'NEXUS_AUTH_ADMIN_TOKEN: "{SECRET}"',
        f"- NEXUS_AUTH_ADMIN_TOKEN={SECRET}",
    ],
)
def test_line_of_ours_that_cannot_be_read_is_an_error(line: str) -> None:
    """Left out it would silently be no setting; the line may hold a secret and is not shown."""
    Path(".env").write_text(f"# ours\nNEXUS_AUTH_REUSE_SECONDS=7\n{line}\n")
    with pytest.raises(ConfigurationError, match=r"\.env.*: line 3 cannot be read") as caught:
        Settings.load(environ={})
    assert SECRET not in str(caught.value)


PERMIT: Final = "NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT"
DENY: Final = "NEXUS_AUTH_DENY_HOTKEYS"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (PERMIT, f"{PERMIT} has no value"),
        (f"export {PERMIT}", f"{PERMIT} has no value"),
        (f'"{PERMIT}"=true', f"did you mean {PERMIT}"),
        (f"{PERMIT.lower()}=true", f"did you mean {PERMIT}"),
        (f"{PERMIT.replace('_', '-')}=true", f"did you mean {PERMIT}"),
        (f"{PERMIT.replace('_', chr(0x2011))}=true", rf"u2011AUTH.*did you mean {PERMIT}"),
        (f"$env:{PERMIT}=true", rf"'\$env:{PERMIT}' is not a setting; did you mean {PERMIT}"),
        (f'$env:{PERMIT} = "true"', f"did you mean {PERMIT}"),
        (f"set {PERMIT}=true", f"cannot be read; expected {PERMIT}=VALUE"),
        (f"setx {PERMIT} true", f"cannot be read; expected {PERMIT}=VALUE"),
        (f"EXPORT {PERMIT}=true", f"cannot be read; expected {PERMIT}=VALUE"),
        (f"export{PERMIT}=true", f"did you mean {PERMIT}"),
        (f"={PERMIT}=true", f"cannot be read; expected {PERMIT}=VALUE"),
        (f"{PERMIT}:true", f"expected {PERMIT}=VALUE in a line of its own"),
        (f"{PERMIT}: true", f"cannot be read; expected {PERMIT}=VALUE"),
        (f";{PERMIT}=true", f"did you mean {PERMIT}"),
        (f"\u200b{PERMIT}=true", rf"u200b{PERMIT}' is not a setting; did you mean {PERMIT}"),
        (f"\ufeff{PERMIT}=true", f"did you mean {PERMIT}"),
        (f"NEXUS\u200b{PERMIT[5:]}=true", f"did you mean {PERMIT}"),
        (f"NEXUS_AU\xa0{PERMIT[8:]}=true", f"cannot be read; expected {PERMIT}=VALUE"),
        (f"{PERMIT}\u200d=true", f"did you mean {PERMIT}"),
        (f"\uff2e{PERMIT[1:]}=true", f"expected {PERMIT}=VALUE in a line of its own"),
        ("NEXUS_AUTH_DENY_HOTKEY=5F", f"did you mean {DENY}"),
        ("NEXUS_CHAIN_URL=x", "'NEXUS_CHAIN_URL' is not a setting"),
        ("NEXUS_AUTH_ENV_FILE=other.env", "'NEXUS_AUTH_ENV_FILE' is not a setting"),
        (f'{PERMIT}="true', "cannot be read"),
        (f"{PERMIT}='true\" # on", "cannot be read"),
        (f'{PERMIT}="true" yes', "cannot be read"),
    ],
)
@pytest.mark.parametrize("before", ["", "# ours\nOTHER=1\n\n"])
def test_name_of_ours_that_sets_nothing_is_an_error(line: str, problem: str, before: str) -> None:
    """It would silently be unset. The message names file, line and the name that is meant."""
    Path(".env").write_text(f"{before}{line}\n", encoding="utf-8", newline="")
    number = before.count("\n") + 1
    if not before and line.startswith("\ufeff"):
        assert Settings.load(environ={}).require_validator_permit  # a mark at the begin is no name
        return
    with pytest.raises(ConfigurationError, match=problem) as caught:
        Settings.load(environ={})
    assert f"{Path.cwd()}/.env: line {number}" in str(caught.value)
    assert str(caught.value).isascii()


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\x0b", "\x85", "\u2028"])
def test_setting_within_the_value_of_another_is_an_error(separator: str) -> None:
    """A quotation mark that is missing takes every line up to the next one for a value."""
    text = f'PASSWORD="abc{separator}{PERMIT}=true{separator}"\n'
    Path(".env").write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ConfigurationError, match=f"{PERMIT}' is not a setting here"):
        Settings.load(environ={})


@pytest.mark.parametrize(
    "line",
    [
        f"# {PERMIT}",
        f"#{PERMIT}=true",
        f"  # export {PERMIT.lower()}=true",
        f"OTHER=1 # {PERMIT}=true",
        f"OTHER # {PERMIT}=true",
        "IMAGE=registry.example/nexus-auth-service:1",
        f"DOC='{PERMIT}'",
        "NEXUS_TOKEN=1",
        "NEXUSAUTHORITY=1",
        "NEXUS_AUTHORITY_URL=1",
        "echo nexus-auth run",
    ],
)
def test_line_that_is_not_about_us_is_left_alone(line: str) -> None:
    """Comments, values and other programs' names."""
    Path(".env").write_text(f"{line}\nNEXUS_AUTH_REUSE_SECONDS=7\n")
    assert Settings.load(environ={}).reuse_seconds == 7


@pytest.mark.parametrize(
    "line",
    [
        f"{PERMIT}=true",
        f"{PERMIT}=true\r",
        f"\t{PERMIT} = true  # yes",
        f"export  {PERMIT}='true'",
        f"'{PERMIT}'=\"true\"# yes",
        f"\ufeff{PERMIT}=true",
        f"\n\r\n\xa0{PERMIT}=true",
    ],
)
def test_spelling_that_the_package_understands_sets_it(line: str) -> None:
    """What other tools read is read here as well."""
    Path(".env").write_text(f"{line}\n", encoding="utf-8", newline="")
    assert Settings.load(environ={}).require_validator_permit


_INVISIBLE: Final = "\xa0\u200b\u200c\u2060\ufeff\xad\x00\x08\u202f"
_PUNCTUATION: Final = "".join(each for each in string.punctuation if each not in "#=")


@st.composite
def _decorated_lines(draw: st.DrawFn) -> tuple[str, str]:
    """A name, and a line in which a person would take another spelling for it."""
    name: str = draw(st.sampled_from([row.name for row in all_settings()]))
    around = st.text(st.sampled_from(_INVISIBLE + _PUNCTUATION + " \t"), max_size=3)
    words = st.sampled_from(
        ["export ", "set ", "$env:", "Env:", "- ", '"', "\n\n", "\r\n", "=", " ="]
    )
    before = draw(st.one_of(around, words))
    written = name.lower() if draw(st.booleans()) else name
    position = draw(st.integers(0, len(name)))
    inside = draw(st.text(st.sampled_from(_INVISIBLE), max_size=2))
    written = written[:position] + inside + written[position:]
    written = written.replace("_", draw(st.sampled_from("__-\u2010\u2011\u2013\u2212\uff3f.")))
    values = [
        "=value",
        "",
        "=",
        "= # value",
        ": value",
        "='value'",
        '="value" # x',
        "=value\r",
        " =value",
    ]
    return name, before + written + draw(around) + draw(st.sampled_from(values))


@given(_decorated_lines())
@example((PERMIT, PERMIT))
@example((PERMIT, f"export {PERMIT}"))
@example((PERMIT, f"NEXU\u200bS{PERMIT[5:]}=value"))
@example((PERMIT, f"'{PERMIT}' =value"))
def test_decorated_name_is_read_as_meant_or_is_an_error(case: tuple[str, str]) -> None:
    """Never silently unset: but for an empty value, which is documented to mean that."""
    name, line = case
    text = f"OTHER=1\n{line}\nOTHER=2\n"
    Path(".env").write_text(text, encoding="utf-8", newline="")
    found, problem = None, ""
    try:
        sources = Sources.load({}, {row.name: row.secret for row in all_settings()})
    except ConfigurationError as exc:
        problem = str(exc)
    else:
        found = sources.find(name, is_secret=False)
    if problem:
        assert ".env: line " in problem
        assert "value" not in problem.replace("no value", "")
        return
    understood = dotenv_values(stream=io.StringIO(text, newline=None), interpolate=False)
    if found is None:
        assert understood[name] == ""
    else:
        assert found.text == understood[name] == "value"


@pytest.mark.parametrize(
    "name",
    [PERMIT.lower(), PERMIT.replace("_", "-"), f'"{PERMIT}"', f"\u200b{PERMIT}", f"{PERMIT} "],
)
def test_misspelt_name_in_the_environment_that_looks_right_is_an_error(name: str) -> None:
    """`docker --env-file` takes a name as it stands; a rule of who may enter must not be lost."""
    with pytest.raises(ConfigurationError, match="is another name") as caught:
        Settings.load(environ={name: "true"})
    assert caught.value.setting == PERMIT
    assert str(caught.value).isascii()


@pytest.mark.parametrize("name", ["NEXUS_AUTH_DENY", "nexus_auth_url", "NEXUS_CHAIN_URL"])
def test_other_name_with_our_prefix_in_the_environment_is_a_warning(name: str) -> None:
    """Other programs share the environment, and may use names that we do not know."""
    (unknown,) = Settings.load(environ={name: "true"}).unknown
    assert unknown.startswith(f"{name} is not a setting")
    assert Settings.load(environ={"APP_NEXUS_AUTH_URL": "x"}).unknown == ()
    # What `generate -publish-with` tells a command that may call this program itself.
    assert Settings.load(environ={"NEXUS_AUTH_PUBLISH_PORT": "1"}).unknown == ()


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "is_read"),
    [
        (0o600, 0o700, True),
        (0o644, 0o755, True),
        (0o600, 0o1777, True),  # sticky: only the owner replaces it
        (0o620, 0o700, False),
        (0o602, 0o700, False),
        (0o1602, 0o700, False),  # of a file, that bit says nothing
        (0o600, 0o720, False),
        (0o600, 0o702, False),
    ],
)
def test_env_file_that_others_may_write_is_not_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    file_mode: int,
    folder_mode: int,
    is_read: bool,
) -> None:
    """Or replace. Which file, its mode, and what to do are in the message."""
    Path(".env").write_text("NEXUS_AUTH_REUSE_SECONDS=7\n")
    # Not the group that is the owner's alone.
    monkeypatch.setattr("grp.getgrgid", lambda _: SimpleNamespace(gr_mem=["www-data"]))
    Path(".env").chmod(file_mode)
    tmp_path.chmod(folder_mode)
    if is_read:
        assert Settings.load(environ={}).reuse_seconds == 7
        return
    with pytest.raises(ConfigurationError, match="chmod go-w") as caught:
        Settings.load(environ={})
    wrong, mode = (".env", file_mode) if file_mode != 0o600 else ("", folder_mode)
    assert f"{tmp_path / wrong} has owner {os.getuid()} and mode {mode:04o}" in str(caught.value)
    assert f"NEXUS_AUTH_ENV_FILE={tmp_path / '.env'}" in str(caught.value)
    assert Settings.load(environ={"NEXUS_AUTH_ENV_FILE": ".env"}).reuse_seconds == 7


def test_env_file_of_others_that_says_nothing_of_us_does_not_matter() -> None:
    """Folders of other programs have one."""
    Path(".env").write_text("OTHER=1\n# NEXUS_AUTH_REUSE_SECONDS=7\n")
    Path(".env").chmod(0o666)
    assert Settings.load(environ={}).reuse_seconds == 5
    Path(".env").write_text("OTHER=1\nnexus-auth-reuse-seconds=7\n")
    with pytest.raises(ConfigurationError, match="another user can choose"):
        Settings.load(environ={})


def _found(*, uid: int, gid: int, mode: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "members", "is_trusted"),
    [
        (0, 0, 0o644, [], True),
        (1000, 1000, 0o600, [], True),
        (1001, 1001, 0o600, [], False),
        (1000, 1000, 0o664, [], True),  # the usual umask where users have a group of their own
        (1000, 1000, 0o664, ["www-data"], False),
        (1000, 1000, 0o664, None, False),
        (1000, 1000, 0o666, [], False),
        (1000, 100, 0o664, [], False),
        (0, 0, 0o664, [], False),  # the group of root is not root's alone
    ],
)
def test_env_file_is_trusted_by_owner_and_writers(
    monkeypatch: pytest.MonkeyPatch,
    *,
    uid: int,
    gid: int,
    mode: int,
    members: list[str] | None,
    is_trusted: bool,
) -> None:
    """It belongs to us (1000) or to root, and its writers are its owner, or the owner's group."""

    def getgrgid(number: int) -> SimpleNamespace:
        if members is None:
            raise KeyError(number)
        return SimpleNamespace(gr_mem=members)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("grp.getgrgid", getgrgid)
    ours = _found(uid=1000, gid=1000, mode=stat.S_IFDIR | 0o700)
    monkeypatch.setattr(Path, "lstat", lambda _: ours)
    monkeypatch.setattr(Path, "stat", lambda _: ours)
    opened = _found(uid=uid, gid=gid, mode=stat.S_IFREG | mode)
    distrust = _find_distrust(Path(".env"), opened)
    assert (distrust is None) is is_trusted
    if distrust is not None:
        assert f"owner {uid} and mode {mode:04o}" in distrust


def test_endless_env_file_does_not_fill_the_memory() -> None:
    """It is cut off, and an error."""
    with Path(".env").open("w") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigurationError, match="longer than 1048576 characters"):
        Settings.load(environ={})


@pytest.mark.parametrize("path", ["token", "./sub/token", "../outside", "link"])
def test_secret_file_beside_an_env_file_is_of_the_same_source(tmp_path: Path, path: str) -> None:
    """Outside of the folder it is not: who writes a path may not be able to read what is there."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for place in (folder / "token", folder / "sub" / "token", tmp_path / "outside"):
        place.write_text(SECRET)
    (folder / "link").symlink_to(tmp_path / "outside")
    os.chdir(folder)
    lines = [f"{name}={value}" for name, value in _IDENTITY.items() if value != SECRET]
    lines += ["NEXUS_PYLON_ENDPOINT=http://elsewhere", f"NEXUS_PYLON_IDENTITY_TOKEN_FILE={path}"]
    Path(".env").write_text("\n".join(lines))
    if path.endswith("/token") or path == "token":
        assert Settings.load(environ={}).identity_token == SECRET
    else:
        with pytest.raises(ConfigurationError, match="is not sent to an address"):
            Settings.load(environ={})
    assert Settings.load(environ={"NEXUS_AUTH_ENV_FILE": ".env"}).identity_token == SECRET


def test_line_of_others_that_cannot_be_read_is_theirs() -> None:
    """The file is shared with other programs."""
    Path(".env").write_text("some thing else\nNEXUS_AUTH_REUSE_SECONDS=7\nNAME\n")
    assert Settings.load(environ={}).reuse_seconds == 7


def test_secret_may_be_given_by_file(tmp_path: Path) -> None:
    """`NAME_FILE` holds the path, as container secrets have it; the line's end is cut off."""
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    environ = _IDENTITY | {
        "NEXUS_PYLON_IDENTITY_TOKEN": "",
        "NEXUS_PYLON_IDENTITY_TOKEN_FILE": str(path),
    }
    settings = Settings.load(environ=environ)
    assert settings.identity_token == SECRET
    assert settings.origins["identity_token"] == f"{path}, named by environment"


def test_missing_secret_file_is_named() -> None:
    """The variable and the path are both in the message."""
    environ = {"NEXUS_PYLON_IDENTITY_TOKEN_FILE": "/nonexistent/token"}
    with pytest.raises(ConfigurationError, match=r"IDENTITY_TOKEN_FILE.*/nonexistent/token"):
        Settings.load(environ=environ)


@pytest.mark.parametrize("name", [row.name for row in all_settings() if row.secret])
@pytest.mark.parametrize("content", ["", "\n", " \t\n"])
def test_secret_file_that_is_empty_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    """It is no secret, and not "not given" either: a public admin listener would be open to all."""
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=f"{name}_FILE .*it is empty"):
        Settings.load(environ={f"{name}_FILE": str(path), "NEXUS_AUTH_ADMIN_ADDR": ":8081"})


def test_what_kubernetes_says_of_a_service_is_no_misspelt_setting() -> None:
    """A Service that is called like us has eight variables in every container beside it."""
    links = {
        "NEXUS_AUTH_SERVICE_HOST": "10.0.0.1",
        "NEXUS_AUTH_SERVICE_PORT": "8080",
        "NEXUS_AUTH_SERVICE_PORT_HTTP": "8080",
        "NEXUS_AUTH_PORT": "tcp://10.0.0.1:8080",
        "NEXUS_AUTH_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "NEXUS_AUTH_PORT_8080_TCP_PROTO": "tcp",
        "NEXUS_AUTH_PORT_8080_TCP_PORT": "8080",
        "NEXUS_AUTH_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    assert Settings.load(environ=links).unknown == ()
    # Without a Service it is what somebody took for a setting.
    (unknown,) = Settings.load(environ={"NEXUS_AUTH_PORT": "8080"}).unknown
    assert unknown.startswith("NEXUS_AUTH_PORT is not a setting")
