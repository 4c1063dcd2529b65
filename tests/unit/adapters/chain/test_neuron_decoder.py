"""The program that decodes answers about neurons, within limits of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_hostile_metadata_takes_no_more_than_the_limit() -> None:
    """80 KB whose types lie within each other: the library alone takes 900 MB to read them."""
    types = Registry()
    inner = types.primitive("u8")
    for _ in range(10_000):
        inner = types.compact(inner)
    # A small process between this one and the program, so that the memory of the tests is not
    # counted.
    probe = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:])\n"
        "print(done.returncode != 0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    start = ("-c", probe, sys.executable, "-I", "-S", str(PROGRAM))
    done = run(types.metadata(API, [(METHOD, [], inner)]), *start)
    failed, kilobytes = done.stdout.split()
    assert failed == b"True"
    assert int(kilobytes) < 200_000
