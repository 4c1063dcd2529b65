"""The use case behind `nexus-auth generate`: one issuing run, with Pylon where it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.issuance import Order
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.issuing.hook import Hook
from nexus_auth.entrypoints.issuing.issuance import Issuance, is_nothing_to_do
from nexus_auth.entrypoints.reporter import Reporter

if TYPE_CHECKING:
    from nexus_auth.adapters.credentials.directory import CredentialsDirectory
    from nexus_auth.adapters.pylon.client import PylonClient
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.entrypoints.settings import Settings


def generate(
    order: Order,
    *,
    directory: CredentialsDirectory,
    load_settings: Callable[[], Settings],
    after_change: Hook | None,
    confirm_seconds: float,
    generate_timeout_seconds: float,
) -> int:
    """Carries out an order, and returns the exit code.

    A pair that is all that was ordered needs neither settings nor Pylon.

    Raises:
        NexusAuthError: If it cannot be done; nothing is lost then.
        KeyboardInterrupt: If Ctrl-C was pressed, and obeyed.
    """
    reporter = Reporter()
    if is_nothing_to_do(order, directory, after_change):
        reporter.result(
            f"{directory.key_path} and {directory.certificate_path} exist: nothing to do "
            "(-force-recreate replaces them, and the key on chain)"
        )
        return exit_codes.DONE
    settings = load_settings()
    if not order.reuse_key:
        _require_identity(settings)

    from nexus_auth.entrypoints.container import build_container

    container = build_container(settings)

    async def issue() -> int:
        client: PylonClient = container.pylon(generate_timeout_seconds=generate_timeout_seconds)
        async with client:

            async def find_holder(public_key: bytes) -> Hotkey | None:
                keys = (await client.fetch_keys()).keys
                return next((each for each, key in keys.items() if key == public_key), None)

            return await Issuance(
                order=order,
                directory=directory,
                issuer=client,
                find_holder=find_holder,
                clock=container.clock(),
                reporter=reporter,
                after_change=after_change,
                confirm_seconds=confirm_seconds,
            ).run()

    try:
        return asyncio.run(issue())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # the one that was obeyed at last


def _require_identity(settings: Settings) -> None:
    """Rejects settings that can only read: a key pair is made for an identity."""
    for name, value in (
        ("NEXUS_PYLON_IDENTITY_NAME", settings.identity_name),
        ("NEXUS_PYLON_IDENTITY_TOKEN", settings.identity_token),
        ("NEXUS_PYLON_NETUID", settings.netuid),
    ):
        if value is None:
            raise ConfigurationError(setting=name, problem="needed to have a key pair made")
