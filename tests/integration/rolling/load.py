"""A modest, steady load of requests that notes everything that goes wrong.

with running_load(connect, request, clients=8) as load:
    ...  # restart things
assert load.problems == []
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

PAUSE_SECONDS: Final = 0.004
"""Between two requests of one client: the machine has other things to do as well."""


@dataclass
class Load:
    """What a load of requests has met so far."""

    statuses: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Requests that got no answer, or another one than 200."""
    refused: int = 0
    """Connections that could not be opened. No request was lost with them."""
    goodbyes: int = 0
    """Answers that said that they were the last one on their connection."""

    def wait_for_more(self, count: int = 100) -> None:
        """Waits until so many more requests have been answered."""
        goal = len(self.statuses) + count
        deadline = time.monotonic() + 10
        while len(self.statuses) < goal:
            if time.monotonic() > deadline:
                raise AssertionError(f"no answers any more; {self.problems[:5]}")
            time.sleep(0.01)


@contextmanager
def running_load(
    connect: Callable[[], socket.socket],
    request: bytes,
    *,
    clients: int,
    ends_when_refused: bool = False,
) -> Iterator[Load]:
    """Sends requests over connections that are kept, until the block ends.

    Args:
        connect: Opens a connection.
        request: What is sent again and again: one GET.
        clients: How many send at the same time.
        ends_when_refused: Whether a client goes home once it cannot connect, or tries again.
    """
    load, is_over = Load(), threading.Event()

    def work() -> None:
        while not is_over.is_set():
            try:
                connection = connect()
            except OSError:
                load.refused += 1
                if ends_when_refused:
                    return
                time.sleep(PAUSE_SECONDS)
                continue
            with connection:
                _use(connection, request, load, is_over)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)


def _use(connection: socket.socket, request: bytes, load: Load, is_over: threading.Event) -> None:
    """Sends requests over one connection until either side has had enough."""
    answered = 0
    while not is_over.is_set():
        try:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            response.read()
        except (OSError, http.client.HTTPException) as exc:
            load.problems.append(f"request {answered} of a connection: {exc!r}")
            return
        answered += 1
        load.statuses.append(response.status)
        if response.status != http.HTTPStatus.OK:
            load.problems.append(
                f"{response.status} {response.getheader('X-Nexus-Auth-Reason', '')}"
            )
        if response.will_close:
            load.goodbyes += 1
            return
        time.sleep(PAUSE_SECONDS)
