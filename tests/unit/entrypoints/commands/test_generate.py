from __future__ import annotations

from pathlib import Path

import pytest

from nexus_auth.adapters.credentials.directory import CredentialsDirectory, CredentialsUnusable
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.cli import main
from tests.builders import a_hotkey

ADDRESS = a_hotkey().address


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An identity, and a Pylon that does not run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_PYLON_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("NEXUS_PYLON_NETUID", "1")
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_NAME", "dev")
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_TOKEN", "hunter2")


def run(*arguments: str) -> int:
    """Runs the command; argparse ends by itself."""
    try:
        return main(["generate", *arguments])
    except SystemExit as exc:
        return int(exc.code or 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "-ss58-address"),
        (["-ss58-address", ""], "-ss58-address"),
        (["-ss58-address", "5abc"], "-ss58-address"),
        (["-ss58-address", f" {ADDRESS}"], "-ss58-address"),
        (["-ss58-address", ADDRESS[:-1] + "1"], "-ss58-address"),
        (["-algorithm", "2"], "-algorithm"),
        (["-algorithm", "x"], "-algorithm"),
        (["-not-after-days", "0"], "-not-after-days"),
        (["-not-after-days", "-1"], "-not-after-days"),
        (["-not-after-days", "3000000"], "-not-after-days"),
        (["-not-after-days", "9" * 30], "-not-after-days"),
        (["-renew-before-days", "3650"], "-renew-before-days"),
        (["-renew-before-days", "-1"], "-renew-before-days"),
        (["-confirm-timeout-seconds", "nan"], "-confirm-timeout-seconds"),
        (["-generate-timeout-seconds", "0"], "-generate-timeout-seconds"),
        (["-after-change", "no-such-program --x"], "-after-change"),
        (["-after-change", "echo 'open"], "-after-change"),
        (["-after-change", ""], "-after-change"),
        (["-reuse-key", "-force-recreate"], "-force-recreate"),
        (["-local", "-reuse-key"], "-local"),
        (["-publish-with", "true"], "-publish-with"),
        (["-local", "-publish-with", "no-such-program"], "-publish-with"),
        (["-local", "-confirm-timeout-seconds", "-1"], "-confirm-timeout-seconds"),
        (["-local", "-source", "ledger"], "-source"),
        (["-local", "-source", "chain"], "NEXUS_CHAIN_ENDPOINT"),
        (["-force-recreate=perhaps"], "-force-recreate"),
        (["-unknown"], "-unknown"),
        (["-san", "a_b"], "-san: 'a_b'"),
        (["-san", "a.example,,b.example"], "-san"),
        (["-san", "a.example", "-san", "https://b.example"], "-san"),
        (["-san", "bücher.example"], "xn--"),
        (["-san", ",".join(f"a{number}" for number in range(17))], "16 names"),
    ],
)
def test_wrong_usage_is_said_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It names the flag, and nothing was touched."""
    given = [] if not arguments or "-ss58-address" in arguments else ["-ss58-address", ADDRESS]
    assert run(*given, *arguments) == exit_codes.USAGE
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (["NEXUS_PYLON_IDENTITY_NAME", "NEXUS_PYLON_IDENTITY_TOKEN"], "_IDENTITY_NAME"),
        (["NEXUS_PYLON_IDENTITY_TOKEN"], "NEXUS_PYLON_IDENTITY_TOKEN"),
        (["NEXUS_PYLON_NETUID"], "NEXUS_PYLON_NETUID"),
    ],
)
def test_missing_identity_is_named(
    missing: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Only an identity can issue."""
    for name in missing:
        monkeypatch.delenv(name)
    assert run("-ss58-address", ADDRESS) == exit_codes.USAGE
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dash", ["-", "--"])
def test_flags_are_those_of_the_original(dash: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With one dash or two, with a space or an equals sign; then no Pylon answers."""
    flags = (
        *("ss58-address", ADDRESS, "identity-name=dev", "output-dir", "./x", "algorithm=1"),
        *("not-after-days", "10", "force-recreate", "pylon-endpoint=http://127.0.0.1:1"),
    )
    values = {ADDRESS, "./x", "10"}
    assert run(*(each if each in values else dash + each for each in flags)) == 3
    assert "http://127.0.0.1:1" in capsys.readouterr().err
    assert Path("x").is_dir()


def test_pair_that_is_there_needs_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No identity, no Pylon, no readable content."""
    monkeypatch.delenv("NEXUS_PYLON_IDENTITY_NAME")
    Path("certs").mkdir()
    for name in ("client.key", "client.crt"):
        Path("certs", name).touch()
    assert run("-ss58-address", ADDRESS) == exit_codes.DONE
    assert "nothing to do" in capsys.readouterr().out
    assert run("-ss58-address", ADDRESS, "-force-recreate=false") == exit_codes.DONE


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], exit_codes.FAILED, "cannot be looked at"),
        (["-force-recreate"], exit_codes.USAGE, "NEXUS_PYLON_NETUID"),
        (["-reuse-key"], exit_codes.USAGE, "NEXUS_PYLON_NETUID"),
        (["-renew-before-days", "30"], exit_codes.USAGE, "NEXUS_PYLON_NETUID"),
    ],
)
def test_wrong_settings_come_before_the_directory_where_a_pair_is_not_enough(
    arguments: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pair that is enough needs no settings, so there the directory comes first."""

    def fail(directory: CredentialsDirectory) -> None:
        raise CredentialsUnusable(path=directory.path, problem="cannot be looked at")

    monkeypatch.setattr(CredentialsDirectory, "holdings", fail)
    monkeypatch.setattr(CredentialsDirectory, "has_unfinished_work", fail)
    monkeypatch.setenv("NEXUS_PYLON_NETUID", "none")
    assert run("-ss58-address", ADDRESS, *arguments) == code
    assert words in capsys.readouterr().err
