"""Reads what the chain says of neurons, for policies: uid, permit, activity and stakes.

Source: the runtime API `SubnetInfoRuntimeApi_get_selective_metagraph` of subtensor. Its stakes are
those of `get_subnet_state`, from which Pylon takes them: both give `get_stake_weights_for_network`
(alpha and TAO with what is inherited from parents and goes to children, and their weighted sum), in
rao; Pylon divides by 10^9 as is done here. This API gives the fields that are asked for and no
others; with `get_subnet_state` a node also collects the emissions of each hotkey on each subnet.

The layout of the answer changes with the runtime, so it is decoded by its metadata, with
bittensor-core, in a process of its own: see `neuron_decoder`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from binascii import unhexlify
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from nexus_auth.adapters.chain.neuron_decoder import API, FIELDS, METHOD, NO_LIBRARY
from nexus_auth.adapters.chain.rpc import Call, NodeAnswerInvalid
from nexus_auth.domain.errors import InvalidHotkey, RegistryUnavailable
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron

T = TypeVar("T")

NEEDS_EXTRA: Final = (
    "which are decoded with bittensor-core where NEXUS_AUTH_SOURCE=chain; "
    "install it: pip install 'nexus-auth[chain]'"
)

MAX_NEURONS: Final = 8192
"""As for Pylon: twice the 4,096 that a subnet may grow to."""

MAX_METADATA_BYTES: Final = 1 << 20
"""The real one has 284 KB."""

MAX_ANSWER_BYTES: Final = 1 << 20
"""8,192 neurons take 500 KB."""

_METADATA_VERSION: Final = 15
"""The newest that the library reads."""

_RAO: Final = 10**9
_MAX_RAO: Final = 2**64 - 1
_SECONDS: Final = 10.0
"""How long the decoder may take by the clock; it takes 60 ms, and gives up by itself after 5 s of
processor time."""

_ENVIRONMENT: Final = {
    "RAYON_NUM_THREADS": "1",  # Not a stack for each processor.
    **{name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
}
"""Of the decoder. Tokens of the service are not its business."""

_DECODER: Final = Path(__file__).with_name("neuron_decoder.py")

_Bools = Annotated[list[bool], Meta(max_length=MAX_NEURONS)]
_Numbers = Annotated[list[int], Meta(max_length=MAX_NEURONS)]


class _Metagraph(Struct):
    """The `FIELDS` of the decoder; the list of a field is in the order of the uids."""

    netuid: int
    hotkeys: Annotated[list[str], Meta(max_length=MAX_NEURONS)]
    active: _Bools
    validator_permit: _Bools
    alpha_stake: _Numbers
    tao_stake: _Numbers
    total_stake: _Numbers


_NAMES: Final = msgspec.json.Decoder(Annotated[list[str], Meta(max_length=4096)])
_METAGRAPH: Final = msgspec.json.Decoder(_Metagraph | None)


@dataclass(frozen=True, slots=True)
class _Runtime:
    """One version of the chain's runtime, as a node describes it."""

    spec_version: int
    metadata: bytes
    request: str
    """The argument that asks for the `FIELDS`, hexadecimal."""


class NeuronReader:
    """Reads the neurons of one subnet from one node; concurrent calls are fine.

    Each node has a reader of its own: what one node says of the runtime must not decide how the
    answer of another one is read.
    """

    def __init__(self, netuid: int) -> None:
        self._netuid = netuid
        self._runtime: _Runtime | None = None

    async def fetch(self, call: Call, *, at: str) -> tuple[Mapping[Hotkey, Neuron], int]:
        """Fetches the neurons at one block.

        Args:
            call: Sends a request to the node, and raises `RegistryError` and nothing else.
            at: The hash of the block.

        Returns:
            The good entries, and how many were unusable and left out.

        Raises:
            RegistryError: When no usable answer came, or bittensor-core is not installed.
        """
        version = await call("state_getRuntimeVersion", [at])
        spec_version = version.get("specVersion") if isinstance(version, dict) else None
        if type(spec_version) is not int:
            raise NodeAnswerInvalid("does not say which runtime the chain has")
        runtime = self._runtime
        if runtime is None or runtime.spec_version != spec_version:
            runtime = self._runtime = await self._learn(call, spec_version, at)
        answer = await _fetch_bytes(
            call, f"{API}_{METHOD}", runtime.request, at, most=MAX_ANSWER_BYTES
        )
        try:
            return await asyncio.to_thread(self._parse, runtime.metadata, answer)
        except NodeAnswerInvalid:
            self._runtime = None  # The next fetch learns anew.
            raise

    async def _learn(self, call: Call, spec_version: int, at: str) -> _Runtime:
        """Fetches the metadata, once for each version of the runtime, and the fields' places."""
        answer = await _fetch_bytes(
            call,
            "Metadata_metadata_at_version",
            _METADATA_VERSION.to_bytes(4, "little").hex(),
            at,
            most=MAX_METADATA_BYTES,
        )
        # An option of bytes with their length; the metadata itself begins with this word.
        start = answer.find(b"meta", 0, 16)
        if start < 0:
            raise NodeAnswerInvalid("has no metadata of version 15")
        metadata = answer[start:]
        names = await asyncio.to_thread(_decode, _NAMES, metadata, b"")
        if not set(FIELDS) <= set(names):
            raise NodeAnswerInvalid("has a runtime that says not what policies need")
        # The API names a field by its place in the answer.
        places = b"".join(names.index(name).to_bytes(2, "little") for name in FIELDS)
        count = bytes([len(FIELDS) << 2])  # SCALE compact
        request = (self._netuid.to_bytes(2, "little") + count + places).hex()
        return _Runtime(spec_version, metadata, request)

    def _parse(self, metadata: bytes, answer: bytes) -> tuple[Mapping[Hotkey, Neuron], int]:
        found = _decode(_METAGRAPH, metadata, answer)
        if found is None:
            raise NodeAnswerInvalid(f"has no subnet {self._netuid}")
        if found.netuid != self._netuid:
            raise NodeAnswerInvalid("speaks of another subnet")
        lists = (
            *(found.hotkeys, found.active, found.validator_permit),
            *(found.alpha_stake, found.tao_stake, found.total_stake),
        )
        if len({len(each) for each in lists}) > 1:
            raise NodeAnswerInvalid("has not as many facts as neurons")
        if len(set(found.hotkeys)) < len(found.hotkeys):
            raise NodeAnswerInvalid("gives a hotkey two places on the subnet")
        neurons: dict[Hotkey, Neuron] = {}
        rejected = 0
        for uid, (address, active, permit, *stakes) in enumerate(zip(*lists, strict=True)):
            try:
                hotkey = Hotkey.parse(address)
            except InvalidHotkey:
                rejected += 1
                continue
            if not all(0 <= rao <= _MAX_RAO for rao in stakes):
                rejected += 1
                continue
            alpha, tao, total = (rao / _RAO for rao in stakes)
            neurons[hotkey] = Neuron(
                uid=uid,
                validator_permit=permit,
                active=active,
                alpha=alpha,
                tao=tao,
                total=total,
            )
        return MappingProxyType(neurons), rejected


def find_library() -> Path | None:
    """The folder that holds bittensor-core, which is not loaded here; None without it."""
    found = importlib.util.find_spec("bittensor_core")
    return None if found is None or found.origin is None else Path(found.origin).parent.parent


async def _fetch_bytes(call: Call, name: str, argument: str, at: str, *, most: int) -> bytes:
    """The answer of a runtime API."""
    answer = await call("state_call", [name, f"0x{argument}", at])
    if type(answer) is str and answer.startswith("0x") and len(answer) <= 2 * most + 2:
        try:
            return unhexlify(answer[2:])
        except ValueError:
            pass
    raise NodeAnswerInvalid("answered no bytes in hexadecimal, or too many")


def _decode(decoder: msgspec.json.Decoder[T], metadata: bytes, answer: bytes) -> T:
    try:
        return decoder.decode(_run_decoder(metadata, answer))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # Its text may repeat the answer's.
        raise NodeAnswerInvalid("says of neurons what cannot be decoded") from None


def _run_decoder(metadata: bytes, answer: bytes) -> bytes:
    folder = find_library()
    if folder is None:
        raise RegistryUnavailable(f"cannot be asked about neurons, {NEEDS_EXTRA}")
    arguments = [sys.executable, "-I", "-S", str(_DECODER), str(folder), str(len(metadata))]
    try:
        done = subprocess.run(  # noqa: S603 - a program of ours, without a shell
            arguments,
            input=metadata + answer,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise RegistryUnavailable(
            f"cannot be asked about neurons: the decoder failed with {type(exc).__name__}"
        ) from exc
    if done.returncode == NO_LIBRARY:
        raise RegistryUnavailable(
            "cannot be asked about neurons: bittensor-core is there, but cannot be loaded"
        )
    # Nothing is no JSON: what failed, or ended before it was done, has said nothing.
    return done.stdout if done.returncode == 0 else b""
