"""Any bytes as a stored record: a snapshot or our own error, and with a seal nothing unsealed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Final

from fuzz.people import ALICE, REGISTERED
from fuzz.promises import require, require_plain
from nexus_auth.adapters.clock import Clocks
from nexus_auth.adapters.store.record import RecordFormat, derive_secret
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import RecordRejected
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.snapshot import Block, StoredSnapshot, SubnetSnapshot
from tests.builders import NOW
from tests.fakes import FakeClock

MAX_BYTES: Final = 8192
WORDS: Final = (
    *(
        b'"format":',
        b'"version":',
        b'"seal":',
        b'"content":',
        b'"scope":',
        b'"said_at":',
        b'"boot":',
    ),
    *(b'"id":', b'"seconds":', b'"keys":', b'"neurons":', b'"uid":', b'"alpha":', b'"total":'),
    *(b"null", b"NaN", b"Infinity", b"1e400", b"-1", b"true", b"[[[[", b"9999-12-31T23:59:59"),
    *(b'"block":', b'"number":', b'"hash":', b'"time":'),
    *(b"0001-01-01T00:00:00+23:59", b"nexus-auth snapshot"),
)

_SECONDS: Final = 1000.0
_OURS: Final = RecordFormat(
    scope="http://pylon netuid=12",
    secret=derive_secret("a token", scope="http://pylon netuid=12"),
    clocks=Clocks(FakeClock(), lambda: _SECONDS),
    boot_id="this boot",
)
_UNSEALED: Final = replace(_OURS, secret=None)
_FOREIGN: Final = replace(_OURS, secret=derive_secret("another", scope=_OURS.scope))

_NEURON: Final = Neuron(uid=3, validator_permit=True, active=False, alpha=1.5, tao=0.25, total=1.75)
_BLOCK: Final = Block(number=7, hash="0x" + "5c" * 32, time=NOW)
_SNAPSHOTS: Final = {
    "keys": SubnetSnapshot(keys=REGISTERED, said_at=NOW, neurons=None),
    "neurons": SubnetSnapshot(keys=REGISTERED, said_at=NOW, neurons={ALICE: _NEURON}),
    "block": SubnetSnapshot(keys=REGISTERED, said_at=NOW, block=_BLOCK),
    "old": SubnetSnapshot(keys={}, said_at=NOW - timedelta(days=2), neurons={}),
}


def check(data: bytes) -> None:
    """Reads the bytes where a secret is set, and where none is."""
    sealed = _parse(_OURS, data)
    if sealed is not None:
        require(
            any(
                sealed.snapshot.keys == ours.keys
                and sealed.snapshot.neurons == ours.neurons
                and sealed.snapshot.block == ours.block
                for ours in _SNAPSHOTS.values()
            ),
            "what was sealed with the secret, and nothing else",
        )
    unsealed = _parse(_UNSEALED, data)
    if unsealed is None:
        return
    _require_snapshot(unsealed)
    again = _parse(_UNSEALED, _UNSEALED.build(unsealed.snapshot, fetched_at=_SECONDS))
    require(again is not None, "what was read can be stored again")
    if again is not None:
        require(again.snapshot == unsealed.snapshot, "and is the same then")


def _parse(form: RecordFormat, data: bytes) -> StoredSnapshot | None:
    try:
        return form.parse(data)
    except RecordRejected as exc:
        require_plain(str(exc))
        return None


def _require_snapshot(stored: StoredSnapshot) -> None:
    snapshot = stored.snapshot
    require(all(map(is_usable_public_key, snapshot.keys.values())), "usable keys")
    require(stored.age >= timedelta(0), "an age that is not negative")
    require(snapshot.said_at <= NOW, "nothing from the future")
    require(
        all(isinstance(neuron, Neuron) for neuron in (snapshot.neurons or {}).values()),
        "checked neurons",
    )


def seeds() -> dict[str, bytes]:
    """Records that we wrote, some of them changed by hand."""
    found = {}
    for name, snapshot in _SNAPSHOTS.items():
        found[f"sealed-{name}"] = _OURS.build(snapshot, fetched_at=_SECONDS)
        found[f"unsealed-{name}"] = _UNSEALED.build(snapshot, fetched_at=_SECONDS)
        found[f"foreign-{name}"] = _FOREIGN.build(snapshot, fetched_at=_SECONDS)
    forged = SubnetSnapshot(keys={ALICE: b"\x11" * 32}, said_at=NOW, neurons=None)
    found["unsealed-other-key"] = _UNSEALED.build(forged, fetched_at=_SECONDS)
    sealed = found["sealed-keys"]
    found["another-key"] = sealed.replace(REGISTERED[ALICE].hex().encode(), b"11" * 32)
    found["cut"] = sealed[:-40]
    found["twice"] = sealed + sealed
    found["deep"] = b'{"content":' + b"[" * 500
    found["numbers"] = json.dumps({"format": 1e308, "version": -1, "seal": None}).encode()
    return found
