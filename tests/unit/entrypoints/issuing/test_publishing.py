from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from nexus_auth.adapters.credentials.local_issuer import Publication
from nexus_auth.domain.errors import IssuingRefused
from nexus_auth.entrypoints.issuing.hook import Hook
from nexus_auth.entrypoints.issuing.publishing import Publisher, btcli_command
from nexus_auth.entrypoints.reporter import Reporter
from tests.builders import a_hotkey

KEY: Final = bytes(range(32))
PUBLICATION: Final = Publication(
    hotkey=a_hotkey("alice"),
    netuid=12,
    ip="192.0.2.7",
    port=8091,
    serves_axon=True,
    public_key=KEY,
    blocks_to_wait=None,
)
NO_AXON: Final = replace(PUBLICATION, ip="0.0.0.0", port=1, serves_axon=False)  # noqa: S104
COMMAND: Final = (
    "btcli axon set --netuid 12 --ip 192.0.2.7 --port 8091 --tls --certificate "
    f"0x01{bytes(range(32)).hex()}"
)


class Shown:
    """A publisher, and what it shows."""

    def __init__(self, command: str | None = None) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        hook = None if command is None else Hook.parse(command, setting="-publish-with")
        self.publisher = Publisher(command=hook, reporter=Reporter(out=self.out, err=self.err))


async def test_command_is_shown_alone_on_standard_output() -> None:
    """To be copied, or read by a script; the words around it are on standard error."""
    shown = Shown()
    await shown.publisher.publish(PUBLICATION)
    assert shown.out.getvalue() == COMMAND + "\n"
    assert "stay" in shown.err.getvalue()
    assert str(PUBLICATION.hotkey) in shown.err.getvalue()


async def test_address_of_no_axon_is_explained() -> None:
    """It leads nowhere, and the chain takes no key without it."""
    shown = Shown()
    await shown.publisher.publish(NO_AXON)
    assert "--ip 0.0.0.0 --port 1 --tls" in shown.out.getvalue()
    assert "serves no axon" in shown.err.getvalue()


async def test_subnet_without_a_number_is_a_word_to_be_replaced() -> None:
    """A Pylon of the first generation knows one subnet, and does not say which."""
    shown = Shown()
    await shown.publisher.publish(replace(PUBLICATION, netuid=None))
    assert "--netuid NETUID" in shown.out.getvalue()
    assert "NETUID is" in shown.err.getvalue()
    assert btcli_command(replace(PUBLICATION, netuid=0)).startswith("btcli axon set --netuid 0 ")


@pytest.mark.parametrize(("blocks", "is_said"), [(None, False), (0, False), (50, True)])
async def test_waiting_time_of_the_chain_is_named(blocks: int | None, *, is_said: bool) -> None:
    """The command is shown all the same, to be run later."""
    shown = Shown()
    await shown.publisher.publish(replace(PUBLICATION, blocks_to_wait=blocks))
    assert shown.out.getvalue() == COMMAND + "\n"
    assert ("50 blocks, about 10 minutes" in shown.err.getvalue()) is is_said


async def test_command_of_the_user_gets_everything_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none of our settings."""
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_TOKEN", "hunter2")
    monkeypatch.setenv("NEXUS_CHAIN_ENDPOINT", "https://node.example/hunter2")
    monkeypatch.setenv("NEXUS_AUTH_PUBLISH_OTHER", "hunter2")
    shown = Shown(f"sh -c 'env > {tmp_path / 'seen'}'")
    await shown.publisher.publish(PUBLICATION)
    lines = (tmp_path / "seen").read_text().splitlines()
    assert sorted(line for line in lines if line.startswith("NEXUS_")) == [
        f"NEXUS_AUTH_PUBLISH_CERTIFICATE=0x01{KEY.hex()}",
        f"NEXUS_AUTH_PUBLISH_HOTKEY={PUBLICATION.hotkey}",
        "NEXUS_AUTH_PUBLISH_IP=192.0.2.7",
        "NEXUS_AUTH_PUBLISH_NETUID=12",
        "NEXUS_AUTH_PUBLISH_PORT=8091",
        f"NEXUS_AUTH_PUBLISH_PUBLIC_KEY={KEY.hex()}",
    ]
    assert shown.out.getvalue() == ""


async def test_command_that_fails_is_an_error() -> None:
    """It names the command, and how it ended."""
    with pytest.raises(IssuingRefused, match="false failed with exit code 1"):
        await Shown("false").publisher.publish(PUBLICATION)


async def test_command_is_not_run_while_the_chain_would_refuse_it(tmp_path: Path) -> None:
    """How long that takes is said instead."""
    shown = Shown(f"touch {tmp_path / 'ran'}")
    with pytest.raises(IssuingRefused, match="about 10 minutes; run this again"):
        await shown.publisher.publish(replace(PUBLICATION, blocks_to_wait=50))
    assert not (tmp_path / "ran").exists()


@pytest.mark.virtual_time
async def test_command_that_hangs_is_stopped() -> None:
    """A timer's job must end: the program would outlast the time limit of this test."""
    with pytest.raises(IssuingRefused, match="stopped after 300 s"):
        await Shown("sleep 1000").publisher.publish(PUBLICATION)
