"""Runs `generate -local` again and again, killed before another system call each time.

With `force` as argument there is a pair that the run is to replace. Run as a program of its own,
because it forks. Prints what was found each time, as JSON.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.credentials.local_issuer import LocalIssuer, Publication
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuance import Order
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import KeyMap
from nexus_auth.entrypoints.issuing.issuance import Issuance
from nexus_auth.entrypoints.reporter import Reporter
from tests.builders import NOW, a_hotkey
from tests.unit.adapters.credentials.kill_everywhere import KILLED, PAIRS, kill_before
from tests.unit.adapters.credentials.pairs import save

ALICE = a_hotkey("alice")
OLD_KEY = PAIRS["old"].certificate.public_key


class Chain:
    """A chain that outlives the process, in a file: every key that was published, in order."""

    name = "chain"

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def published(self) -> list[bytes]:
        """The keys; the last one is in force."""
        content = self.path.read_bytes()
        return [content[at : at + 32] for at in range(0, len(content), 32)]

    async def publish(self, publication: Publication) -> None:
        """Appends a key in one system call, between others at which the blow may fall."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, publication.public_key)
        os.close(descriptor)

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """The key in force."""
        return next(reversed(self.published), None) if hotkey == ALICE else None

    async def fetch_keys(self) -> KeyMap:
        """Is for explanations only."""
        return KeyMap(keys={}, rejected=0)

    async def fetch_place(self, _hotkey: Hotkey) -> Place | None:
        """No axon, as of most validators."""
        return Place(ip="0.0.0.0", port=0)  # noqa: S104 - of no axon


def run(folder: Path, chain: Chain, *, force: bool) -> int:
    """Carries out one order."""
    directory = CredentialsDirectory(folder)
    reporter = Reporter(out=io.StringIO(), err=io.StringIO())
    issuer = LocalIssuer(
        hotkey=ALICE,
        netuid=1,
        directory=directory,
        keys=chain,
        places=chain,
        publish=chain.publish,
        waiting=reporter.waiting,
        clock=lambda: NOW,
        wait_seconds=0,
    )
    order = Order(hotkey=ALICE, valid_for=timedelta(days=365), force=force, local=True)
    issuance = Issuance(
        order=order,
        directory=directory,
        issuer=issuer,
        fetch_keys=chain.fetch_keys,
        clock=lambda: NOW,
        reporter=reporter,
        confirm_seconds=0.01,
    )
    return asyncio.run(issuance.run())


def keys_on_disk(folder: Path) -> set[bytes]:
    """The public halves of all private keys in a folder, whatever the names of their files."""
    found = set()
    for path in folder.iterdir():
        with suppress(ValueError, TypeError):
            key: Any = load_pem_private_key(path.read_bytes().strip(b"\0"), password=None)
            found.add(key.public_key().public_bytes_raw())
    return found


def main(*arguments: str) -> None:
    """Tries every moment until the work is over before the blow falls."""
    is_forced = "force" in arguments
    call, code = 0, KILLED
    results = []
    while code == KILLED:
        call += 1
        with tempfile.TemporaryDirectory() as place:
            folder, chain = Path(place) / "certs", Chain(Path(place) / "chain")
            folder.mkdir()
            chain.path.write_bytes(OLD_KEY if is_forced else b"")
            if is_forced:
                save(folder, PAIRS["old"])
            before = len(chain.published)
            child = os.fork()
            if child == 0:
                kill_before(call)
                os._exit(run(folder, chain, force=is_forced))
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            published = chain.published[-1] if chain.published else None
            was_published = published not in {None, OLD_KEY}
            was_kept = published is None or published in keys_on_disk(folder)
            modes = {
                each.stat().st_mode & 0o777 for each in folder.iterdir() if ".crt" not in each.name
            }
            # Without -force-recreate: what was begun is finished all the same.
            next_code = run(folder, chain, force=False)
            pair = CredentialsDirectory(folder).load()
            results.append(
                {
                    "call": call,
                    "code": code,
                    "was_published": was_published,
                    "was_kept": was_kept,
                    "modes": sorted(oct(each) for each in modes),
                    "next_code": next_code,
                    "published": len(chain.published) - before,
                    "keys": len(set(chain.published[before:])),
                    "is_on_chain": pair.certificate.public_key == chain.published[-1],
                    "names": sorted(each.name for each in folder.iterdir()),
                }
            )
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
