"""The proxy chooses the policy and passes on what is known; a client does neither."""

from __future__ import annotations

from typing import Final

import pytest

from nexus_auth.adapters.headers.names import GrantHeader
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.policy import AccessPolicy, PolicySet, RequireValidatorPermit
from tests.builders import a_hotkey
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import ask, http1_request
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
)
from tests.integration.real import require_program, wait_until_ready

POLICIES: Final = PolicySet(
    policies={
        "open": AccessPolicy(name="open"),
        "validators": AccessPolicy(name="validators", rules=(RequireValidatorPermit(),)),
    },
    default="open",
)
CLAIMS: Final = [
    ("X-Nexus-Auth-Policy", "open"),
    ("x-nexus-auth-policy", "nonsense"),
    ("X-Hotkey-Uid", "0"),
    ("X-Hotkey-Validator", "true"),
    ("x-hotkey-stake", "1e9"),
    ("X_Hotkey_Uid", "0"),
    ("X-Nexus_Auth-Policy", "open"),
    ("X.Hotkey.Uid", "0"),
    ("X-Hotkey.Validator", "true"),
    ("X.Hotkey_Stake", "1e9"),
]
TAKEN_AWAY: Final = [
    ("Connection", "X-Hotkey-Uid, X-Hotkey-Validator, X-Hotkey-Stake, X-Nexus-Auth-Policy")
]


def told(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """What the application was told of the caller beside the hotkey, and of any policy."""
    read = [(name.replace("_", "-").replace(".", "-"), value) for name, value in headers]
    found = [
        (name, value)
        for name, value in read
        if name.startswith(("x-hotkey-", "x-nexus-auth-policy"))
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize("proxy", PROGRAMS)
def test_the_proxy_chooses_the_policy_and_passes_on_the_facts(proxy: str) -> None:
    """Two configurations, with and without a policy, in front of the same auth service."""
    require_program(proxy, PROGRAMS[proxy])
    alice, bob, carol = a_hotkey("alice"), a_hotkey("bob"), a_hotkey("carol")
    facts = {"x-hotkey-uid": "7", "x-hotkey-validator": "true", "x-hotkey-stake": "1000.5"}
    with open_folder() as folder, Application() as application:
        people = make_people(folder)
        certificate = make_server_certificate(folder)
        with AuthService(
            proxy,
            0,
            reuse_seconds=5,
            policies=POLICIES,
            tell=frozenset(GrantHeader),
            knows=("alice", "bob", "carol"),
        ) as auth:
            auth.registry.neurons = {
                alice: Neuron(
                    uid=7, validator_permit=True, active=True, alpha=1, tao=1, total=1000.5
                ),
                bob: Neuron(uid=8, validator_permit=False, active=True, alpha=0, tao=0, total=0),
            }
            settings = {
                "app": application.address,
                "auth": f"127.0.0.1:{auth.port}",
                "certificate": certificate,
            }
            with (
                running_proxy(proxy, folder, **settings) as port,  # type: ignore[arg-type] # mixed
                running_proxy(
                    proxy,
                    folder,
                    **settings,  # type: ignore[arg-type] # mixed
                    arguments=("-policy", "validators"),
                ) as strict,
            ):
                for each in (port, strict):
                    granted = lambda: ask(each, people["alice"]).status == 200  # noqa: E731, B023
                    wait_until_ready(granted, what=f"a grant through {proxy}")
                for headers in ([], CLAIMS, TAKEN_AWAY):
                    request = http1_request(headers=headers)
                    for _ in range(2):  # The second one may come from the proxy's memory.
                        # Without a policy: the service's default.
                        for who, expected in (
                            ("alice", facts),
                            (
                                "bob",
                                {
                                    "x-hotkey-uid": "8",
                                    "x-hotkey-validator": "false",
                                    "x-hotkey-stake": "0",
                                },
                            ),
                            ("carol", {}),
                        ):
                            count = len(application.records)
                            assert ask(port, people[who], request).status == 200
                            (record,) = application.records[count:]
                            assert record.hotkeys == [a_hotkey(who).address]
                            assert told(record.headers) == expected
                        # With one: whoever it admits, and nobody else.
                        count = len(application.records)
                        assert ask(strict, people["alice"], request).status == 200
                        (record,) = application.records[count:]
                        assert told(record.headers) == facts
                        for who in ("bob", "carol", "nobody"):
                            assert ask(strict, people[who], request).status == 403
                        assert len(application.records) == count + 1
    assert carol not in auth.registry.neurons
