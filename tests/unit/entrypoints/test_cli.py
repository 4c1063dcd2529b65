from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest

from nexus_auth.domain.errors import (
    ConfigurationError,
    CredentialsError,
    IssuerUnavailable,
    IssuingRefused,
    RegistryAnswerInvalid,
    RegistryUnavailable,
)
from nexus_auth.entrypoints import cli, exit_codes
from nexus_auth.entrypoints.signals import ENDING


class _Command:
    """A command that records what it was given."""

    def __init__(self, outcome: Callable[[], int] = lambda: exit_codes.DONE) -> None:
        self.outcome = outcome
        self.args: list[argparse.Namespace] = []

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-net-uid", "--net-uid", dest="netuid")
        parser.add_argument("word", nargs="?")

    def execute(self, args: argparse.Namespace) -> int:
        self.args.append(args)
        return self.outcome()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts one fake command in the place of every real one; gives the names that were loaded."""
    names: list[str] = []

    def load(module: str) -> _Command:
        names.append(module.removeprefix("nexus_auth.entrypoints.commands.").replace("_", "-"))
        return _Command()

    monkeypatch.setattr(cli, "import_module", load)
    return names


def _with(monkeypatch: pytest.MonkeyPatch, command: _Command) -> _Command:
    monkeypatch.setattr(cli, "import_module", lambda _: command)
    return command


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "run"),
        (["run"], "run"),
        (["-net-uid", "1"], "run"),
        (["--net-uid=1"], "run"),
        (["generate", "-net-uid", "1"], "generate"),
        (["verify", "--net-uid", "1", "x"], "verify"),
    ],
)
def test_command_is_found_and_run_is_the_default(
    loaded: list[str], arguments: list[str], expected: str
) -> None:
    """Only the module of the command that is run is imported."""
    assert cli.main(arguments) == exit_codes.DONE
    assert loaded == [expected]


@pytest.mark.parametrize("flag", [["-net-uid", "7"], ["--net-uid", "7"], ["--net-uid=7"]])
def test_flags_are_accepted_with_one_dash_or_two(
    monkeypatch: pytest.MonkeyPatch, flag: list[str]
) -> None:
    """The original takes one dash; everybody else types two."""
    command = _with(monkeypatch, _Command())
    cli.main(["generate", *flag])
    assert command.args[0].netuid == "7"


def test_end_of_flags_may_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts put `--` behind the flags that they build; the original takes it as well."""
    command = _with(monkeypatch, _Command())
    assert cli.main(["generate", "-net-uid", "7", "--"]) == exit_codes.DONE
    assert command.args[0].netuid == "7"


@pytest.mark.parametrize(
    "flag", [["--net", "7"], ["-net", "7"], ["-net=7"], ["-n", "7"], ["-n7"], ["-hx"]]
)
def test_flag_is_never_abbreviated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: list[str]
) -> None:
    """An abbreviation would change its meaning with the next flag that is added."""
    _with(monkeypatch, _Command())
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", *flag])
    assert caught.value.code == exit_codes.USAGE


def test_nothing_but_its_whole_name_replaces_a_key_on_chain() -> None:
    """`-f` and `-force` are mistakes, not `-force-recreate`."""
    parser = cli.build_parser(only="generate")
    for flag in ("-f", "-force", "-force-recreat", "--force"):
        with pytest.raises(SystemExit):
            parser.parse_args(["generate", "-ss58-address", "5F", flag])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError(setting="NEXUS_X", problem="wrong"), exit_codes.USAGE),
        (RegistryUnavailable("Pylon is away"), exit_codes.UNREACHABLE),
        (IssuerUnavailable("Pylon is away"), exit_codes.UNREACHABLE),
        (RegistryAnswerInvalid("nonsense"), exit_codes.FAILED),
        (IssuingRefused("no"), exit_codes.FAILED),
        (CredentialsError("disk full"), exit_codes.FAILED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_our_errors_become_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
) -> None:
    """No traceback for what can be expected."""

    def fail() -> int:
        raise error

    _with(monkeypatch, _Command(fail))
    assert cli.main(["run"]) == code
    assert capsys.readouterr().err == f"nexus-auth: {error}\n"


def test_programming_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not ours keeps its traceback."""

    def fail() -> int:
        raise ZeroDivisionError

    _with(monkeypatch, _Command(fail))
    with pytest.raises(ZeroDivisionError):
        cli.main(["run"])


def test_interrupt_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is reported as shells report it."""

    def fail() -> int:
        raise KeyboardInterrupt

    _with(monkeypatch, _Command(fail))
    assert cli.main(["run"]) == 130


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "--nonsense"], ["run", "a", "b"]])
def test_wrong_usage_is_two_lines_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """It says what is wrong and where to read on."""
    _with(monkeypatch, _Command())
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == exit_codes.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("Try 'nexus-auth")


@pytest.mark.parametrize("arguments", [["-h"], ["-help"], ["--help"], ["help"]])
def test_help_lists_every_command(
    loaded: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """The overview names all commands and imports none of them."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == exit_codes.DONE
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)
    assert loaded == []


@pytest.mark.parametrize("arguments", [["verify", "-help"], ["help", "verify"]])
def test_help_of_one_command_loads_that_one(
    loaded: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """`nexus-auth help verify` is what many try first."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == exit_codes.DONE
    assert "--net-uid" in capsys.readouterr().out
    assert loaded == ["verify"]


@pytest.mark.parametrize(
    "command", ["", *cli.COMMANDS, "policy check", "policy explain"], ids=lambda name: name or "all"
)
def test_help_fits_into_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """80 columns, what the exit codes mean, and no words that the glossary does not have."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert "exit codes: 0 " in shown
    assert re.search(r"\b(any|every|no|some)body\b|\bwhoever\b", shown.lower()) is None


@pytest.mark.parametrize("argument", ["-version", "--version"])
def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str], argument: str) -> None:
    """`--version` answers with the installed version."""
    with pytest.raises(SystemExit) as caught:
        cli.main([argument])
    assert caught.value.code == exit_codes.DONE
    assert capsys.readouterr().out == f"nexus-auth {version('nexus-auth')}\n"


def test_help_imports_nothing_heavy() -> None:
    """The overview costs an interpreter and argparse, not the service's libraries."""
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from nexus_auth.entrypoints.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print('\\n'.join(sorted(set(sys.modules) - before)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    imported = {name.partition(".")[0] for name in done.stderr.split()}
    heavy = {
        "asyncio",
        "base58",
        "cryptography",
        "dataclasses",
        "dotenv",
        "httpx",
        "importlib_metadata",
        "inspect",
        "logging",
        "shutil",
        "ssl",
        "starlette",
        "structlog",
        "typing",
        "uvicorn",
        "dependency_injector",
    }
    assert not imported & heavy
    ours = {name for name in done.stderr.split() if name.startswith("nexus_auth")}
    assert ours == {
        "nexus_auth",
        "nexus_auth.entrypoints",
        "nexus_auth.entrypoints.cli",
        "nexus_auth.entrypoints.exit_codes",
    }


def test_signals_count_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service keeps them waiting, SIGHUP too; every other command ends on SIGTERM.

    The first process of a container would otherwise never see a SIGTERM that comes early.
    """
    seen: dict[str, tuple[set[int], bool]] = {}

    def load(module: str) -> _Command:
        held = {*signal.pthread_sigmask(signal.SIG_BLOCK, ())} & {*ENDING}
        handled = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        seen[module.rpartition(".")[2]] = held, handled
        return _Command()

    monkeypatch.setattr(cli, "import_module", load)
    before = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert (cli.main(["run"]), cli.main(["doctor"])) == (exit_codes.DONE, exit_codes.DONE)
    assert seen == {"run": ({*ENDING}, False), "doctor": (set(), True)}
    assert before == (
        signal.getsignal(signal.SIGTERM),
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    )


def test_signal_that_waits_at_the_end_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second SIGTERM as the service ends does not turn a good end into a killed process."""

    def end() -> int:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        return exit_codes.DONE

    _with(monkeypatch, _Command(end))
    assert cli.main(["run"]) == exit_codes.DONE


def test_sigterm_ends_a_command_as_a_shell_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exit code 143, and with everything closed on the way."""

    def end() -> int:
        signal.raise_signal(signal.SIGTERM)
        return exit_codes.DONE

    _with(monkeypatch, _Command(end))
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    assert ended.value.code == 128 + signal.SIGTERM
