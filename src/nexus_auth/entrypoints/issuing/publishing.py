"""How the public half of a key pair that was made here gets on chain: by the owner's own tool.

The tool signs with the hotkey, which nexus-auth never sees.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from nexus_auth.adapters.credentials.local_issuer import Publication
from nexus_auth.domain.errors import IssuingRefused
from nexus_auth.entrypoints.issuing.hook import Hook
from nexus_auth.entrypoints.reporter import Reporter

TIMEOUT_SECONDS: Final = 300.0
"""A tool waits for a block or two; public nodes are slow now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Shows what to run, or runs the user's command.

    Attributes:
        command: The user's command; None shows what to run instead.
        reporter: Shows what happens.
    """

    command: Hook | None
    reporter: Reporter

    async def publish(self, publication: Publication) -> None:
        """Has a key published, or asks the owner to.

        Raises:
            IssuingRefused: If the chain takes it only later, or the command failed.
        """
        wait = (
            f"the chain takes no other axon of {publication.hotkey} for "
            f"{publication.blocks_to_wait} blocks, about {publication.minutes_to_wait} minutes"
        )
        if self.command is None:
            self._show(publication)
            if publication.blocks_to_wait:
                self.reporter.warn(f"{wait}: run it after that")
            return
        if publication.blocks_to_wait:
            raise IssuingRefused(f"{wait}; run this again after that")
        problem = await self.command.run(
            timeout_seconds=TIMEOUT_SECONDS, values=values_of(publication)
        )
        if problem:
            raise IssuingRefused(f"{self.command} {problem}")
        self.reporter.say(f"Ran {self.command}.")

    def _show(self, publication: Publication) -> None:
        say = self.reporter.say
        say(f"Publish the key where the wallet of {publication.hotkey} is (-w and -H name it):")
        self.reporter.result(btcli_command(publication))
        if publication.serves_axon:
            say("Address and port are those of the axon that the chain has now, and stay.")
        else:
            say(
                "The neuron serves no axon, without which the chain takes no key. This address "
                "and port lead nowhere, and are enough."
            )
        if publication.netuid is None:
            say("NETUID is the number of your subnet, which this Pylon does not say.")


def btcli_command(publication: Publication) -> str:
    """The command that publishes a key, as bittensor 11.3 has it."""
    words = {
        "--netuid": "NETUID" if publication.netuid is None else str(publication.netuid),
        "--ip": publication.ip,
        "--port": str(publication.port),
    }
    options = (f"{name} {shlex.quote(value)}" for name, value in words.items())
    return f"btcli axon set {' '.join(options)} --tls --certificate {publication.certificate}"


def values_of(publication: Publication) -> dict[str, str]:
    """What the user's command finds in its environment."""
    netuid = publication.netuid
    return {
        "NEXUS_AUTH_PUBLISH_HOTKEY": publication.hotkey.address,
        "NEXUS_AUTH_PUBLISH_NETUID": "" if netuid is None else str(netuid),
        "NEXUS_AUTH_PUBLISH_IP": publication.ip,
        "NEXUS_AUTH_PUBLISH_PORT": str(publication.port),
        "NEXUS_AUTH_PUBLISH_PUBLIC_KEY": publication.public_key.hex(),
        "NEXUS_AUTH_PUBLISH_CERTIFICATE": publication.certificate,
    }
