"""A program of its own: decodes what a runtime says of neurons. Started by `neurons`.

    python -I -S neuron_decoder.py FOLDER SIZE

FOLDER holds bittensor-core; standard input is the runtime's metadata, SIZE bytes, and its answer.
Without an answer it prints the names of all fields in their order, with one the `FIELDS`, as JSON.
Both come from a node and are read within limits of memory and time: hostile metadata of 170 KB made
the library take 3.6 GB. It imports nothing of ours, so that it starts within 50 ms in 16 MB.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, Final

API: Final = "SubnetInfoRuntimeApi"
METHOD: Final = "get_selective_metagraph"
FIELDS: Final = (
    *("netuid", "hotkeys", "active", "validator_permit"),
    *("alpha_stake", "tao_stake", "total_stake"),
)
MAX_OUTPUT: Final = 4 << 20
"""Bytes. 8,192 neurons take 1.2 MB."""

NO_LIBRARY: Final = 3
"""The exit code where the library cannot be loaded."""

_MAX_MEMORY: Final = 128 << 20
"""Bytes. The real metadata with 8,192 neurons takes 20 MB."""
_MAX_SECONDS: Final = 5
"""Of processor time. The same takes 0.1 s."""


def decode(metadata: bytes, answer: bytes) -> Any:
    """Reads an answer; without one, the names of its fields."""
    # An extra without types. Found only once `main` has named its folder.
    from bittensor_core import Runtime  # type: ignore[import-untyped]  # noqa: PLC0415

    runtime = Runtime(metadata, 0, 0)
    output = runtime.runtime_api_map()[API][METHOD]["output"]
    if not answer:
        # Some, and nothing in any field: what is left of the zeros is passed over.
        return list(runtime.decode(output, b"\1" + bytes(4096), strict=False))
    decoded = runtime.decode(output, answer)
    return None if decoded is None else {name: decoded[name] for name in FIELDS}


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def main() -> None:
    """Does what the module says; any failure ends it with another exit code than 0."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, _MAX_SECONDS)
    _limit(resource.RLIMIT_DATA, _MAX_MEMORY)
    folder, size = sys.argv[1], int(sys.argv[2])
    sys.path.append(folder)
    data = sys.stdin.buffer.read()
    try:
        text = json.dumps(decode(data[:size], data[size:]))
    except ImportError:
        sys.exit(NO_LIBRARY)
    if len(text) > MAX_OUTPUT:
        sys.exit(1)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
