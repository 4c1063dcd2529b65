"""The command line as a process: what it costs, how it ends, what it leaves on the terminal."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from nexus_auth.entrypoints.cli import COMMANDS
from tests import der
from tests.builders import a_certificate, to_der, to_pem
from tests.der import (
    Parts,
    attribute,
    ed25519_key_info,
    extended_key_usage,
    extension,
    name,
    tlv,
)
from tests.integration.real import require_program

NEXUS_AUTH: Final = (sys.executable, "-m", "nexus_auth")
_TRIES: Final = 7


def _run(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*NEXUS_AUTH, *arguments], input=given, capture_output=True, timeout=30, check=False
    )


def _processor_seconds(command: list[str]) -> float:
    """What a command costs: the least of several tries, and not what others do meanwhile."""
    best = float("inf")
    for _ in range(_TRIES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
        best = min(best, used)
    return best


def test_help_costs_at_most_four_empty_interpreters() -> None:
    """Whoever asks for help, or presses Tab, does not wait for the service's libraries."""
    script = str(Path(sys.executable).with_name("nexus-auth"))
    empty = _processor_seconds([sys.executable, "-c", "pass"])
    assert _processor_seconds([script, "--help"]) <= 4 * empty


NARROW: Final = {
    "encoding of Python": {"PYTHONIOENCODING": "ascii"},
    "locale": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}
"""Environments in which standard output is ASCII."""


def _run_narrowly(
    where: str, *arguments: str | bytes, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], **NARROW[where], **variables}
    command = [*NEXUS_AUTH, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, timeout=30, check=False, cwd="/"
    )


@pytest.mark.parametrize("where", NARROW)
@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help_can_be_read_where_output_is_ascii(command: tuple[str, ...], where: str) -> None:
    """As in a container without a locale; the help of most commands is plain ASCII anyway."""
    shown = _run_narrowly(where, *command, "--help")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"exit codes:" in shown.stdout


@pytest.mark.parametrize("where", NARROW)
def test_any_name_of_a_file_can_be_shown_where_output_is_ascii(where: str) -> None:
    """On standard output and in errors: with escapes, and no traceback."""
    shown = _run_narrowly(where, "config", "show", NEXUS_AUTH_POLICY_FILE="/r\u00e9gles")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"gles" in shown.stdout
    shown = _run_narrowly(where, "policy", "check", b"/r\xe9gles")
    assert shown.returncode == 2
    assert b"Traceback" not in shown.stderr + shown.stdout
    shown = _run_narrowly(where, "inspect", b"/\xff.crt")
    assert shown.returncode == 1
    assert b"Traceback" not in shown.stderr + shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    """With a usage line, a sentence, and the exit code 0."""
    done = _run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: nexus-auth {command} ".encode())
    assert b"\x1b" not in done.stdout


ODD_CERTIFICATES: Final = {
    "serial number 0": Parts(serial=der.integer(0)),
    "negative serial number": Parts(serial=tlv(der.INTEGER, b"\x80")),
    "country of three letters": Parts(subject=name(attribute(der.C_OID, b"abc"))),
    "issuer's country of three letters": Parts(issuer=name(attribute(der.C_OID, b"abc"))),
    "O of 66 characters": Parts(subject=name(attribute(der.O_OID, b"x" * 66))),
    "empty O": Parts(subject=name(attribute(der.O_OID, b""))),
    "NULL as parameters": Parts(
        inner_algorithm=tlv(der.SEQUENCE, der.oid("1.3.101.112"), tlv(der.NULL)),
        outer_algorithm=tlv(der.SEQUENCE, der.oid("1.3.101.112"), tlv(der.NULL)),
    ),
    "SHA-1 with RSA": Parts(
        outer_algorithm=tlv(der.SEQUENCE, der.oid("1.2.840.113549.1.1.5"), tlv(der.NULL))
    ),
    "version 1": Parts(version=b"", extensions=None),
    "address of three bytes": Parts(
        extensions=tlv(
            der.SEQUENCE,
            extension(der.SUBJECT_ALTERNATIVE_NAME_OID, tlv(der.SEQUENCE, tlv(0x87, b"123"))),
        )
    ),
    "year 9999": Parts(
        validity=tlv(
            der.SEQUENCE,
            tlv(der.UTC_TIME, b"500101000000Z"),
            tlv(der.GENERALIZED_TIME, b"99991231235959Z"),
        )
    ),
    "unknown key": Parts(key_info=ed25519_key_info(bytes(32))),
    "twice the same extension": Parts(
        extensions=tlv(der.SEQUENCE, *[extended_key_usage(der.CLIENT_AUTH_OID)] * 2)
    ),
}


@pytest.mark.parametrize("oddity", ODD_CERTIFICATES)
def test_inspecting_an_odd_certificate_prints_nothing_but_our_own_words(
    oddity: str, tmp_path: Path
) -> None:
    """The parser has warnings of its own, which would be the caller's text in a reader's log."""
    path = tmp_path / "client.crt"
    path.write_bytes(ODD_CERTIFICATES[oddity].certificate())
    for flags in ([], ["--json"]):
        done = _run("inspect", *flags, str(path))
        assert done.stderr == b""
        assert done.returncode in {0, 1}
        assert done.stdout


def test_reader_that_goes_away_is_no_error_message() -> None:
    """As in `nexus-auth completion bash | head -1`."""
    with subprocess.Popen(
        [*NEXUS_AUTH, "completion", "bash"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # So that more is written than a pipe holds before the reader is gone.
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_under_the_output_is_one_line_and_exit_1() -> None:
    """As in `nexus-auth completion bash > file` where there is no room left."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*NEXUS_AUTH, "completion", "bash"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"nexus-auth: cannot write: No space left on device\n"


@pytest.mark.parametrize(
    ("redirections", "code", "said"),
    [
        ("<&-", 1, b"nexus-auth: standard input: it is empty"),
        ("</dev/null >&-", 1, b"nexus-auth: standard input: it is empty"),
        ("<&- >&- 2>&-", 1, b""),
        ("2>&-", 0, b"nothing speaks against it"),
        (">&-", 0, b""),
    ],
)
def test_missing_standard_streams_are_no_defect(
    tmp_path: Path, redirections: str, code: int, said: bytes
) -> None:
    """Some supervisors start processes without them; then nothing is to be read or said there."""
    now = datetime.now(UTC)
    path = tmp_path / "client.crt"
    path.write_bytes(to_pem(a_certificate(not_before=now, not_after=now + timedelta(days=1))))
    source = "-" if "<" in redirections else str(path)
    command = shlex.join([*NEXUS_AUTH, "inspect", source])
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} {redirections}"], capture_output=True, check=False
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert b"Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("as_pem", [True, False], ids=["pem", "der"])
def test_certificate_is_inspected_from_a_pipe(as_pem: bool) -> None:  # noqa: FBT001 - a table
    """Both encodings come through standard input unharmed."""
    now = datetime.now(UTC)
    certificate = a_certificate(not_before=now, not_after=now + timedelta(days=1))
    done = _run("inspect", "-", given=to_pem(certificate) if as_pem else to_der(certificate))
    assert done.returncode == 0
    assert b"nothing speaks against it" in done.stdout


def test_script_and_module_are_the_same() -> None:
    """`nexus-auth` and `python -m nexus_auth`."""
    script = str(Path(sys.executable).with_name("nexus-auth"))
    done = subprocess.run([script, "--version"], capture_output=True, check=True)
    assert done.stdout == _run("--version").stdout


class TestCompletion:
    """The completion scripts, in the shells that they are for."""

    @pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
    def test_script_names_every_command(self, shell: str) -> None:
        """A script is printed for each shell, whether or not it is installed here."""
        done = _run("completion", shell)
        assert done.returncode == 0, done.stderr
        assert all(name.encode() in done.stdout for name in COMMANDS)

    def test_unknown_shell_is_wrong_usage(self) -> None:
        """The ones that are known are named."""
        done = _run("completion", "fish")
        assert done.returncode == 2
        assert b"bash" in done.stderr

    @pytest.mark.parametrize(
        ("typed", "expected"),
        [
            (["ins"], ["inspect"]),
            (["completion", ""], ["bash", "tcsh", "zsh"]),
            (["generate", "-ss"], ["-ss58-address"]),
            (["generate", "--ss"], ["--ss58-address"]),
            (["run", "-log-format", ""], ["auto", "console", "json"]),
            (["demo", "--k"], ["--keep"]),
        ],
        ids=str,
    )
    def test_bash_completes(self, tmp_path: Path, typed: list[str], expected: list[str]) -> None:
        """What is offered in a real bash."""
        bash = require_program("bash", "apt-get install bash")
        script = tmp_path / "completion.bash"
        script.write_bytes(_run("completion", "bash").stdout)
        words = " ".join(f"'{word}'" for word in ["nexus-auth", *typed])
        ask = (
            f"source {script}\n"
            "name=$(complete -p nexus-auth | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
            f"COMP_WORDS=({words}) COMP_CWORD={len(typed)}\n"
            f"$name nexus-auth '{typed[-1]}' '{(['nexus-auth', *typed])[-2]}'\n"
            "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
        )
        done = subprocess.run(
            [bash, "--norc", "-c", ask], capture_output=True, text=True, check=True, timeout=30
        )
        assert {line.strip() for line in done.stdout.splitlines()} >= {*expected}

    @pytest.mark.parametrize("shell", ["zsh", "tcsh"])
    def test_other_shells_accept_the_script(self, tmp_path: Path, shell: str) -> None:
        """It has no syntax error, where the shell is there to say so."""
        program = shutil.which(shell)
        if program is None:
            pytest.skip(f"{shell} is not installed here; get it with: apt-get install {shell}")
        script = tmp_path / "completion"
        script.write_bytes(_run("completion", shell).stdout)
        subprocess.run([program, "-n", script], check=True, capture_output=True, timeout=30)
