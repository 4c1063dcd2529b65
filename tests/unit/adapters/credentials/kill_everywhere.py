"""Saves a pair again and again, killed before another system call each time.

With `request` as argument, it records the request for the pair first. With journals, as
`NAME=PAIR` from the oldest to the newest, it finishes the interrupted runs that left them instead.
Run as a program of its own, because it forks. Prints what was found each time, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from tests.unit.adapters.credentials.pairs import a_pair, save

KILLED = 9
PAIRS = {name: a_pair(name) for name in ("old", "older", "new")}
REQUEST = "request"
CALLS = [
    *("open", "write", "fsync", "ftruncate", "fchmod", "close", "replace", "rename", "unlink"),
    *("mkdir", "lseek", "link", "utime"),
]


# A kill loses nothing that was handed to the system, so that nothing here waits for a disk: a power
# cut is another matter. The calls are counted all the same.
os.fsync = lambda fd: None


def kill_before(call: int) -> None:
    """Ends this process, without any clean-up, before so many calls were made."""
    made = 0

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            if made == call:
                os._exit(KILLED)
            return original(*args, **kwargs)

        return called

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))


def what_is_left(path: Path) -> dict[str, Any]:
    """Finishes the work, as the next run does, and says what is there."""
    directory = CredentialsDirectory(path, will_notify=True)
    before = sorted(each.name for each in path.iterdir())
    with directory.opened_for_writing():
        finished = directory.finish_interrupted_work()
    names = sorted(each.name for each in path.iterdir())
    known = {pair.certificate.fingerprint: name for name, pair in PAIRS.items()}
    return {
        "before": before,
        "requested": directory.requested_at() is not None,
        "finished": finished is not None,
        "pair": known[directory.load().certificate.fingerprint],
        "key_mode": oct(directory.key_path.stat().st_mode & 0o777),
        "names": names,
        "old": old_pair(path),
    }


def old_pair(path: Path) -> str | None:
    """The name of the whole pair that is kept as the old one."""
    halves = [path / f"client.{each}.old" for each in ("key", "crt")]
    kept = [each.read_bytes() for each in halves if each.is_file()]
    found = [n for n, pair in PAIRS.items() if kept == [pair.key_pem, pair.certificate_pem]]
    return found[0] if found else None


def finish(path: Path) -> None:
    """Does what the next run does first."""
    with CredentialsDirectory(path, will_notify=True).opened_for_writing() as directory:
        directory.finish_interrupted_work()


def main(*arguments: str) -> None:
    """Tries every moment until the work is over before the blow falls."""
    call, code = 0, KILLED
    results = []
    while code == KILLED:
        call += 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            save(path, PAIRS["old"])
            (path / "client.key").chmod(0o644)
            journals = [each.split("=") for each in arguments if each != REQUEST]
            # One second more: the file system's clock may be some milliseconds behind this one.
            now = time.time() - len(journals) - 1
            os.utime(path / "client.key", (now, now))
            for later, (journal, name) in enumerate(journals, 1):
                (path / journal).write_bytes(PAIRS[name].key_pem + PAIRS[name].certificate_pem)
                os.utime(path / journal, (now + later, now + later))
            child = os.fork()
            if child == 0:
                kill_before(call)
                if journals:
                    finish(path)
                else:
                    is_requested = REQUEST in arguments
                    save(path, PAIRS["new"], will_notify=True, is_requested=is_requested)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            results.append({"call": call, "code": code, **what_is_left(path)})
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
