"""A snapshot as bytes in a store, and back; it is believed only where its seal fits.

Without a seal, all who can write the store could choose which callers are granted. So a record is
sealed with a secret that the sharing processes have in common, where they have one. A seal does not
prevent that an old record is put back. The age limits do, which hold as for any other answer.

A record is one line and a JSON object. The line says what this is, and the seal of all bytes behind
it: of a record whose seal does not fit, nothing is parsed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from nexus_auth.adapters.clock import SYSTEM_CLOCKS, Clocks
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import RecordRejected
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.snapshot import Block, StoredSnapshot, SubnetSnapshot

FORMAT: Final = "nexus-auth snapshot"
VERSION: Final = 2

MAX_RECORD_BYTES: Final = 2 * 1024 * 1024
"""A full subnet takes 30 KB, with neurons 75 KB; 4,096 neurons, as many as a subnet may grow to,
take 1.2 MB. More is not read."""

LONGEST_LEASE: Final = timedelta(seconds=60)
"""A lease that claims to last longer is not one of ours."""

MAX_SKEW: Final = timedelta(seconds=5)
"""How far the clocks of machines that share a store may differ. A record from a later future than
that comes from a wrong clock, ours or the writer's, and its age is unknown."""

_HEAD: Final = f"{FORMAT} {VERSION}".encode()
_NO_SEAL: Final = b"-"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str | None:
    """Names the time since this machine started; None where the system gives it no name."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


# Keys that cannot be are an error at the first of them, so that the number of them is bounded.
_Address = Annotated[str, Meta(min_length=48, max_length=48)]
_HexKey = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Boot(Struct):
    id: str | None
    seconds: float


class _Block(Struct):
    number: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    hash: Annotated[str, Meta(pattern=r"\A0x[0-9a-f]{64}\Z")]
    time: Annotated[datetime, Meta(tz=True)]


class _Content(Struct):
    scope: str
    said_at: Annotated[datetime, Meta(tz=True)]
    boot: _Boot
    keys: dict[_Address, _HexKey]
    neurons: dict[_Address, Raw] | None
    # Records of earlier versions, and of sources that name no block, have none.
    block: _Block | None = None


_CONTENT: Final = msgspec.json.Decoder(_Content)
_NEURON: Final = msgspec.json.Decoder(Neuron)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFormat:
    """Writes and reads the records of one subnet: a `SnapshotCodec`.

    Attributes:
        scope: Names the subnet and where its facts come from; a record of another is rejected.
        secret: Seals the records; without one, every record in the store is believed.
        clocks: Give the time, and measure spans on this machine, across processes.
        boot_id: Until when the monotonic clock can be compared, see `read_boot_id`.
    """

    scope: str
    secret: bytes | None = field(default=None, repr=False)
    clocks: Clocks = SYSTEM_CLOCKS
    boot_id: str | None = field(default_factory=read_boot_id)

    def build(self, snapshot: SubnetSnapshot, *, fetched_at: float) -> bytes:
        """See `SnapshotCodec.build`."""
        neurons, block = snapshot.neurons, snapshot.block
        content = msgspec.json.encode(
            _Content(
                scope=self.scope,
                said_at=snapshot.said_at,
                # A wall clock may be set back between two runs; on the same machine, since the
                # same start, the monotonic clock cannot be.
                boot=_Boot(id=self.boot_id, seconds=fetched_at),
                keys={hotkey.address: key.hex() for hotkey, key in snapshot.keys.items()},
                neurons=None
                if neurons is None
                else {h.address: Raw(msgspec.json.encode(each)) for h, each in neurons.items()},
                block=None if block is None else _Block(block.number, block.hash, block.time),
            )
        )
        return b"%s %s\n%s" % (_HEAD, self._seal(content), content)

    def parse(self, record: bytes) -> StoredSnapshot:
        """See `SnapshotCodec.parse`.

        Raises:
            RecordRejected: If it is anything but a record of this scope, sealed with this
                secret, said in the past.
        """
        if len(record) > MAX_RECORD_BYTES:
            raise RecordRejected("it is too large")
        line, _, content = record.partition(b"\n")
        head, _, seal = line.rpartition(b" ")
        if head != _HEAD:
            raise RecordRejected("it was written by another version, or is something else")
        self._check_seal(content, seal)
        try:
            return self._parse_content(_CONTENT.decode(content))
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            raise RecordRejected("it is damaged") from None

    def _parse_content(self, content: _Content) -> StoredSnapshot:
        if content.scope != self.scope:
            raise RecordRejected("it belongs to another subnet or another source")
        keys = {Hotkey.parse(text): _parse_key(key) for text, key in content.keys.items()}
        neurons = None
        if content.neurons is not None:
            neurons = {Hotkey.parse(h): _NEURON.decode(n) for h, n in content.neurons.items()}
        now = self.clocks.wall()
        if content.said_at - now > MAX_SKEW:
            raise RecordRejected("it comes from the future: some clock is wrong")
        age = max(now - content.said_at, self._age_since_boot(content.boot), timedelta(0))
        block = None
        if (said := content.block) is not None:
            block = Block(number=said.number, hash=said.hash, time=said.time.astimezone(UTC))
        snapshot = SubnetSnapshot(keys=keys, neurons=neurons, said_at=now - age, block=block)
        return StoredSnapshot(snapshot=snapshot, age=age)

    def _age_since_boot(self, boot: _Boot) -> timedelta:
        if self.boot_id is None or boot.id != self.boot_id:
            return timedelta(0)
        return timedelta(seconds=max(0.0, self.clocks.monotonic() - boot.seconds))

    def _check_seal(self, content: bytes, seal: bytes) -> None:
        if self.secret is None:
            if seal != _NO_SEAL:
                raise RecordRejected("it is sealed with a secret that is not set here")
        elif seal == _NO_SEAL:
            raise RecordRejected("it is not sealed, but a secret is set here")
        elif not hmac.compare_digest(seal, self._seal(content)):
            raise RecordRejected("its seal does not fit: another secret, or it was tampered with")

    def _seal(self, content: bytes) -> bytes:
        if self.secret is None:
            return _NO_SEAL
        return hmac.new(self.secret, content, hashlib.sha256).hexdigest().encode()


def derive_secret(*sources: str | None, scope: str) -> bytes | None:
    """Makes the sealing secret from the first text that is given; None where there is none.

    A seal helps to find the text (such as a token that all replicas have) no more than guessing.
    """
    text = next((source for source in sources if source), None)
    if text is None:
        return None
    purpose = f"{FORMAT} {VERSION} {scope}".encode()
    return hmac.new(text.encode(), purpose, hashlib.sha256).digest()


def _parse_key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if not is_usable_public_key(key):
        raise ValueError("no usable key")
    return key


def scope_of(*, endpoint: str, netuid: int | None) -> str:
    """Names a subnet as seen by one source, so that several can share one store."""
    return f"{endpoint} netuid={'-' if netuid is None else netuid}"


def scope_of_chain(*, endpoints: Iterable[str], genesis: str | None, netuid: int | None) -> str:
    """Names a subnet as the nodes of a chain see it: the chain by its block 0, where that is known.

    Otherwise by the nodes, in any order. As a digest: the path of a node may hold a secret.
    """
    nodes = hashlib.sha256(" ".join(sorted(endpoints)).encode()).hexdigest()
    return f"chain {nodes if genesis is None else genesis} netuid={netuid}"
