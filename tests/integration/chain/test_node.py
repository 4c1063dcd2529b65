"""The test node itself: it answers as the chain's nodes do, as far as that can be known here.

Constants are those that the public network shows; the library of the chain's makers, which reads
the real metadata, makes the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from bittensor_core import Runtime  # type: ignore[import-untyped]  # it has no types

from tests.builders import a_hotkey
from tests.integration.chain import scale
from tests.integration.chain.node import (
    TOKEN,
    Chain,
    Refused,
    RunningNode,
    metadata,
    running_node,
    running_nodes,
)

ALICE = a_hotkey("alice")


@pytest.fixture
def node() -> Iterator[RunningNode]:
    """A node with one block."""
    with running_node() as node:
        yield node


def ask(node: RunningNode, method: str, *params: Any) -> dict[str, Any]:
    """Asks over HTTP."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer: dict[str, Any] = httpx.post(node.url, json=body).raise_for_status().json()
    return answer


@pytest.mark.parametrize(
    ("item", "published"),
    [
        ("NeuronCertificates", "805f1c4b7f54d8f4208070bfc777e2db"),
        ("Axons", "b4e0c7b1d5f74994fcd58c28ab601fec"),
        ("Uids", "aab1b4e78e1ea8305462ee53b3686dc8"),
        ("Keys", "9f99a2ce711f3a31b2fc05604c93f179"),
        ("ValidatorPermit", "56af5b07ace59da2c9d7f0d48bc93143"),
        ("Active", "0f41321f75df7ea5127be2db4983c8b2"),
        ("ServingRateLimit", "1fbba053865c94fcc1b417b41cc9e63a"),
        ("LastUpdate", "696e262a16e52255a69d8acd79354146"),
    ],
)
def test_prefixes_are_the_published_ones(item: str, published: str) -> None:
    """Of the maps that are read."""
    prefix = scale.prefix("SubtensorModule", item).hex()
    assert prefix == "658faa385070e074c85bf6b568cf0555" + published


def test_keys_are_those_that_the_metadata_says() -> None:
    """Prefix, hashers and order of the real runtime."""
    runtime = Runtime(metadata()[metadata().index(b"meta") :], 318, 1)
    for item in ("NeuronCertificates", "Axons", "Uids"):
        assert runtime.storage_key("SubtensorModule", item, [7, ALICE.address]) == scale.of_account(
            item, 7, ALICE.account_id
        )
    assert runtime.storage_key("SubtensorModule", "Keys", [7, 3]) == scale.of_uid("Keys", 7, 3)
    for item in ("ServingRateLimit", "Active", "ValidatorPermit", "LastUpdate"):
        key = scale.of_subnet(item, 7)
        assert runtime.storage_key("SubtensorModule", item, [7]) == key
    assert runtime.storage_key("Timestamp", "Now", []) == scale.prefix("Timestamp", "Now")


def test_values_are_in_a_block_of_their_own(node: RunningNode) -> None:
    """What was written later is not in an earlier block, however the head moves."""
    key = "0x" + scale.of_account("NeuronCertificates", 1, ALICE.account_id).hex()
    before = node.head.hash
    node.chain.publish(ALICE, b"k" * 32)
    assert ask(node, "state_getStorage", key)["result"] is None
    after = node.advance().hash
    value = "0x80" + b"k".hex() * 32 + "01"
    node.advance(3)
    assert ask(node, "state_getStorage", key, after)["result"] == value
    assert ask(node, "state_getStorage", key, before)["result"] is None
    assert ask(node, "state_queryStorageAt", [key], before)["result"] == [
        {"block": before, "changes": [[key, None]]}
    ]


def test_keys_come_in_pages_in_their_order(node: RunningNode) -> None:
    """Each page begins after the key that it names."""
    for number in range(5):
        node.chain.publish(a_hotkey(f"h{number}"), b"k" * 32)
    node.advance()
    prefix = "0x" + scale.of_subnet("NeuronCertificates", 1).hex()
    first = ask(node, "state_getKeysPaged", prefix, 3, prefix)["result"]
    second = ask(node, "state_getKeysPaged", prefix, 3, first[-1])["result"]
    assert (len(first), len(second)) == (3, 2)
    assert first + second == sorted(first + second)
    assert ask(node, "state_getKeysPaged", prefix, 1001)["error"]["code"] == 4002


def test_faults_are_those_of_real_nodes() -> None:
    """Behind, stuck, pruned, on a fork, of another chain."""
    with running_nodes(2) as (good, bad):
        old = good.head.hash
        bad.stick()
        good.advance(3)
        assert (good.head.number, bad.head.number) == (4, 1)
        bad.behave()
        bad.blocks_behind = 2
        assert ask(bad, "chain_getHeader")["result"]["number"] == "0x2"
        assert ask(bad, "chain_getHeader", good.head.hash)["result"] is None
        good.keeps = 2
        assert ask(good, "state_getKeys", "0x", old)["error"]["code"] == 4003
        assert ask(good, "chain_getHeader", old)["result"]["number"] == "0x1"
        bad.behave()
        bad.chain = good.chain.fork(2)
        bad.advance(2)
        at = [ask(each, "chain_getBlockHash", [2, 3])["result"] for each in (good, bad)]
        assert at[0][0] == at[1][0]
        assert at[0][1] != at[1][1]
        bad.chain = Chain(name="Test")
        assert ask(bad, "chain_getBlockHash", 0) != ask(good, "chain_getBlockHash", 0)


def test_certificates_are_published_by_the_rules_of_the_chain() -> None:
    """Only with a place, a port, and not again for a while; odd ones succeed and store nothing."""
    chain = Chain()

    def refusal(port: int = 8091, certificate: bytes = b"\1" + b"k" * 32) -> int | None:
        try:
            chain.serve_axon_tls(ALICE, ip="192.0.2.1", port=port, certificate=certificate)
        except Refused as exc:
            return exc.code
        finally:
            chain.advance()
        return None

    assert refusal() == 10
    chain.register(ALICE, alpha=TOKEN)
    assert refusal(port=0) == 13
    assert refusal(certificate=b"") is None
    assert chain.certificate_of(ALICE) is None
    assert refusal() == 12
    chain.advance(chain.rate_limit)
    assert refusal() is None
    assert chain.certificate_of(ALICE) == b"\x80" + b"k" * 32 + b"\1"
    chain.replace(ALICE, a_hotkey("bob"))
    chain.advance()
    assert chain.certificate_of(ALICE) is None
