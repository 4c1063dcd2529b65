from __future__ import annotations

from pathlib import Path

import pytest

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.issuing.hook import Hook


@pytest.mark.parametrize("text", ["", "  ", "no-such-program", "echo 'open", "/dev/null x"])
def test_command_that_cannot_work_is_refused_at_once(text: str) -> None:
    """Before the key on chain is replaced."""
    with pytest.raises(ConfigurationError, match=r"-after-change"):
        Hook.parse(text)


def test_words_are_split_as_a_shell_does_and_nothing_is_expanded() -> None:
    """No shell is involved unless it is asked for."""
    hook = Hook.parse("echo 'two words' $HOME ; *")
    assert hook.words == ("echo", "two words", "$HOME", ";", "*")
    assert str(hook) == "echo 'two words' '$HOME' ';' '*'"


def test_flag_of_a_command_that_cannot_work_is_named() -> None:
    """There are two."""
    with pytest.raises(ConfigurationError, match=r"-publish-with"):
        Hook.parse("no-such-program", setting="-publish-with")


async def test_success_has_no_words() -> None:
    """A failure says what it was."""
    assert await Hook.parse("true").run() == ""
    assert await Hook.parse("sh -c 'exit 3'").run() == "failed with exit code 3"


@pytest.mark.virtual_time
async def test_hook_that_hangs_is_stopped() -> None:
    """A timer's job must end: the program would outlast the time limit of this test."""
    problem = await Hook.parse("sleep 1000").run()
    assert "stopped after 60 s" in problem


async def test_program_that_disappeared_is_a_problem(tmp_path: Path) -> None:
    """And no traceback."""
    program = tmp_path / "hook"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    hook = Hook.parse(str(program))
    program.unlink()
    assert "could not be started" in await hook.run()


async def test_tokens_are_not_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the environment is."""
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_TOKEN", "hunter2")
    monkeypatch.setenv("NEXUS_AUTH_ADMIN_TOKEN", "hunter2")
    monkeypatch.setenv("NEXUS_CHAIN_ENDPOINT", "https://node.example/hunter2")
    monkeypatch.setenv("HARMLESS", "yes")
    values = {"NEXUS_AUTH_PUBLISH_PORT": "1"}
    await Hook.parse(f"sh -c 'env > {tmp_path / 'seen'}'").run(values=values)
    seen = (tmp_path / "seen").read_text()
    assert "hunter2" not in seen
    assert "HARMLESS=yes" in seen
    assert "NEXUS_AUTH_PUBLISH_PORT=1" in seen
