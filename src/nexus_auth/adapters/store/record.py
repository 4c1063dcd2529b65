"""A snapshot as bytes in a store, and back; it is believed only where its seal fits.

Without a seal, all who can write the store could choose which callers are granted. So a record is
sealed with a secret that the sharing processes have in common, where they have one. A seal does not
prevent that an old record is put back. The age limits do, which hold as for any other answer.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from nexus_auth.adapters.clock import SYSTEM_CLOCKS, Clocks
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import RecordRejected
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.snapshot import StoredSnapshot, SubnetSnapshot

FORMAT: Final = "nexus-auth snapshot"
VERSION: Final = 1

MAX_RECORD_BYTES: Final = 4 * 1024 * 1024
"""A full subnet takes 40 KB, with neurons 80 KB. More is not read."""

LONGEST_LEASE: Final = timedelta(seconds=60)
"""A lease that claims to last longer is not one of ours."""

MAX_SKEW: Final = timedelta(seconds=5)
"""How far the clocks of machines that share a store may differ. A record from a later future than
that comes from a wrong clock, ours or the writer's, and its age is unknown."""

_HEX_KEY: Final = re.compile(r"[0-9a-f]{64}")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str | None:
    """Names the time since this machine started; None where the system gives it no name."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


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
        content: dict[str, Any] = {
            "scope": self.scope,
            "said_at": snapshot.said_at.isoformat(),
            # A wall clock may be set back between two runs; on the same machine, since the same
            # start, the monotonic clock cannot be.
            "boot": {"id": self.boot_id, "seconds": fetched_at},
            "keys": {hotkey.address: key.hex() for hotkey, key in snapshot.keys.items()},
            "neurons": None
            if snapshot.neurons is None
            else {hotkey.address: asdict(neuron) for hotkey, neuron in snapshot.neurons.items()},
        }
        record = {
            "format": FORMAT,
            "version": VERSION,
            "seal": self._seal(content),
            "content": content,
        }
        return json.dumps(record, indent=1).encode("ascii")

    def parse(self, record: bytes) -> StoredSnapshot:
        """See `SnapshotCodec.parse`.

        Raises:
            RecordRejected: If it is anything but a record of this scope, sealed with this
                secret, said in the past.
        """
        if len(record) > MAX_RECORD_BYTES:
            raise RecordRejected("it is too large")
        try:
            outer = json.loads(record.decode("ascii"))
            is_ours = outer["format"] == FORMAT and outer["version"] == VERSION
            content, seal = outer["content"], outer["seal"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RecordRejected("it is damaged, or something else altogether") from None
        if not is_ours:
            raise RecordRejected("it was written by another version") from None
        try:
            self._check_seal(content, seal)
            if content["scope"] != self.scope:
                raise RecordRejected("it belongs to another subnet or another Pylon")
            return self._parse_content(content)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise RecordRejected("it is damaged") from None

    def _parse_content(self, content: dict[str, Any]) -> StoredSnapshot:
        keys = {Hotkey.parse(text): _parse_key(key) for text, key in content["keys"].items()}
        neurons = content["neurons"]
        if neurons is not None:
            neurons = {Hotkey.parse(text): _parse_neuron(each) for text, each in neurons.items()}
        said_at = datetime.fromisoformat(content["said_at"])
        now = self.clocks.wall()
        if said_at - now > MAX_SKEW:
            raise RecordRejected("it comes from the future: some clock is wrong")
        age = max(now - said_at, self._age_since_boot(content["boot"]), timedelta(0))
        snapshot = SubnetSnapshot(keys=keys, neurons=neurons, said_at=now - age)
        return StoredSnapshot(snapshot=snapshot, age=age)

    def _age_since_boot(self, boot: dict[str, Any]) -> timedelta:
        seconds = float(boot["seconds"])
        if self.boot_id is None or boot["id"] != self.boot_id or not math.isfinite(seconds):
            return timedelta(0)
        return timedelta(seconds=max(0.0, self.clocks.monotonic() - seconds))

    def _check_seal(self, content: object, seal: object) -> None:
        expected = self._seal(content)
        if expected is None:
            if seal is not None:
                raise RecordRejected("it is sealed with a secret that is not set here")
        elif not isinstance(seal, str) or not seal.isascii():
            raise RecordRejected("it is not sealed, but a secret is set here")
        elif not hmac.compare_digest(seal, expected):
            raise RecordRejected("its seal does not fit: another secret, or it was tampered with")

    def _seal(self, content: object) -> str | None:
        if self.secret is None:
            return None
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")
        return hmac.new(self.secret, canonical, hashlib.sha256).hexdigest()


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
    if _HEX_KEY.fullmatch(text) is None:
        raise ValueError("a key is 64 hex digits")
    key = bytes.fromhex(text)
    if not is_usable_public_key(key):
        raise ValueError("no usable key")
    return key


def _parse_neuron(fields: dict[str, Any]) -> Neuron:
    flags = fields["validator_permit"], fields["active"]
    if not all(isinstance(flag, bool) for flag in flags) or type(fields["uid"]) is not int:
        raise ValueError("no neuron")
    return Neuron(
        uid=fields["uid"],
        validator_permit=fields["validator_permit"],
        active=fields["active"],
        alpha=float(fields["alpha"]),
        tao=float(fields["tao"]),
        total=float(fields["total"]),
    )


def scope_of(*, endpoint: str, netuid: int | None) -> str:
    """Names a subnet as seen by one source, so that several can share one store."""
    return f"{endpoint} netuid={'-' if netuid is None else netuid}"
