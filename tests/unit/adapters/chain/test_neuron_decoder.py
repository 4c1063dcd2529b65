"""The program that decodes answers about neurons, within limits of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from nexus_auth.adapters.chain import neuron_decoder
from nexus_auth.adapters.chain.neuron_decoder import API, FIELDS, MAX_OUTPUT, METHOD, decode
from nexus_auth.adapters.chain.neurons import find_library
from nexus_auth.domain.hotkey import Hotkey
from tests.integration.chain.metadata import Registry
from tests.integration.chain.node import metadata
from tests.integration.chain.scale import SELECTIVE_FIELDS, Seat, selective_metagraph

PROGRAM = Path(neuron_decoder.__file__)
REAL = metadata()[metadata().index(b"meta") :]


def test_real_metadata_names_the_fields() -> None:
    """All of them, in the order in which the runtime numbers them."""
    names = decode(REAL, b"")
    assert len(names) == SELECTIVE_FIELDS
    assert [names.index(name) for name in FIELDS] == [0, 52, 56, 57, 67, 68, 69]


def test_real_metadata_decodes_an_answer() -> None:
    """The fields that policies need, and no others."""
    seat = Seat(account=bytes(range(32)), alpha=1, tao=2, total=3)
    found = decode(REAL, selective_metagraph(9, [seat], [0, 52, 56, 57, 67, 68, 69]))
    assert found == {
        "netuid": 9,
        "hotkeys": [Hotkey(bytes(range(32))).address],
        "active": [True],
        "validator_permit": [False],
        "alpha_stake": [1],
        "tao_stake": [2],
        "total_stake": [3],
    }


def run(metadata_bytes: bytes, *start: str) -> subprocess.CompletedProcess[bytes]:
    """The program as it is started, but for what stands before its own arguments."""
    return subprocess.run(
        [sys.executable, "-I", "-S", *start, str(find_library()), str(len(metadata_bytes))],
        input=metadata_bytes,
        capture_output=True,
        check=False,
    )


def test_program_prints_what_it_decodes_within_its_limits() -> None:
    """It limits its own memory and time before it reads anything, and knows nothing of ours."""
    probe = f"""
import atexit, resource, runpy, sys

def show():
    kinds = resource.RLIMIT_DATA, resource.RLIMIT_CPU, resource.RLIMIT_CORE
    limits = [resource.getrlimit(kind)[0] for kind in kinds]
    print(limits, "nexus_auth" in sys.modules, file=sys.stderr)

atexit.register(show)
runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
"""
    done = run(REAL, "-c", probe)
    assert json.loads(done.stdout)[:2] == ["netuid", "name"]
    assert done.stderr.decode().strip() == f"[{128 << 20}, 5, 0] False"


def test_output_without_end_is_none() -> None:
    """Names are chosen by the metadata: more than neurons can take is not handed on."""
    types = Registry()
    inner = types.option(types.primitive("bool"))
    fields = [("x" * MAX_OUTPUT, inner)]
    output = types.option(types.composite(fields))
    done = run(types.metadata(API, [(METHOD, [], output)]), str(PROGRAM))
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Error" not in done.stderr
