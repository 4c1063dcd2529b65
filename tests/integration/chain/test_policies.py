"""Policies of the service, with neurons that come from a node of the chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.chain.node import NETUID, TOKEN, RunningNode, running_node
from tests.integration.real import wait_until_ready
from tests.integration.service.running import RunningService, a_header, running_service

POLICIES = """
default = "everybody"

[policies.everybody]

[policies.validators]
require_validator_permit = true
min_stake = { total = 1000 }
"""
VALIDATORS = {"X-Nexus-Auth-Policy": "validators"}


def settings_for(node: RunningNode, url: str, **settings: str) -> dict[str, Any]:
    """The settings of a service without a Pylon."""
    return {
        "NEXUS_PYLON_NETUID": str(NETUID),
        "NEXUS_PYLON_IDENTITY_NAME": "",
        "NEXUS_PYLON_IDENTITY_TOKEN": "",
        "NEXUS_AUTH_SOURCE": "chain",
        "NEXUS_CHAIN_ENDPOINT": url,
        "NEXUS_AUTH_REFRESH_SECONDS": "1",
        **settings,
    }


def denial(service: RunningService, who: str) -> str | None:
    """Why the policy of validators denies a caller."""
    return service.ask(a_header(who), **VALIDATORS).reason


@pytest.mark.parametrize("is_websocket", [True, False], ids=["ws", "http"])
def test_policy_looks_at_the_neurons_of_the_chain(tmp_path: Path, *, is_websocket: bool) -> None:
    """Permits and stake as the chain has them now, and as facts for the application."""
    file = tmp_path / "policy.toml"
    file.write_text(POLICIES)
    with running_node() as node:
        chain = node.chain
        for name, stake in (("alice", 5000), ("bob", 12)):
            chain.register(a_hotkey(name), validator_permit=True, tao=stake * TOKEN)
        for name in ("alice", "bob", "carol"):
            chain.publish(a_hotkey(name), public_bytes(a_key(name)))
        node.advance()
        with running_service(
            tmp_path,
            "http://unused",
            **settings_for(
                node,
                node.ws_url if is_websocket else node.url,
                NEXUS_AUTH_POLICY_FILE=str(file),
                NEXUS_AUTH_GRANT_HEADERS="uid,validator,stake",
                NEXUS_AUTH_WORKERS="2",
            ),
        ) as service:
            assert denial(service, "alice") is None
            assert denial(service, "bob") == "not-permitted"
            assert denial(service, "carol") == "not-permitted", "it has no place"
            assert service.ask(a_header("carol")).status == 200
            headers = service.ask(a_header("alice")).headers
            assert headers["X-Hotkey-Uid"] == "0"
            assert headers["X-Hotkey-Validator"] == "true"
            assert headers["X-Hotkey-Stake"] == "5000"
            chain.register(a_hotkey("alice"), tao=5000 * TOKEN)
            chain.register(a_hotkey("bob"), validator_permit=True, tao=1000 * TOKEN)
            node.advance()
            wait_until_ready(lambda: denial(service, "bob") is None, what="the new stake")
            wait_until_ready(
                lambda: denial(service, "alice") == "not-permitted", what="the lost permit"
            )


def test_neurons_that_cannot_be_had_renew_nothing(tmp_path: Path) -> None:
    """Keys without the facts that belong to them do not count: what was known stays."""
    with running_node() as node:
        node.chain.register(a_hotkey("alice"), validator_permit=True)
        node.chain.publish(a_hotkey("alice"), public_bytes(a_key("alice")))
        node.advance()
        settings = settings_for(node, node.url, NEXUS_AUTH_REQUIRE_VALIDATOR_PERMIT="true")
        with running_service(tmp_path, "http://unused", **settings) as service:
            assert service.ask(a_header("alice")).status == 200
            node.lie("state_call", lambda params, honest: "0x" + "ff" * 64)
            node.chain.register(a_hotkey("bob"), validator_permit=True)
            node.chain.publish(a_hotkey("bob"), public_bytes(a_key("bob")))
            node.advance()
            wait_until_ready(
                lambda: service.admin("/readyz")[1]["registry"]["last_error"] is not None,
                what="the failed refresh",
            )
            assert service.ask(a_header("alice")).status == 200
            assert service.ask(a_header("bob")).status == 403
            node.behave()
            wait_until_ready(
                lambda: service.ask(a_header("bob")).status == 200, what="the end of the outage"
            )
