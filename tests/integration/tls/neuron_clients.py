"""The clients that validators call neurons with: ours, and the real one, behind one interface."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
from pylon_client import artanis
from pylon_client.artanis import AsyncConfig, AsyncPylonClient, Config, PylonClient
from pylon_client.exceptions import MtlsVerificationError
from tenacity import AsyncRetrying, Retrying, stop_after_attempt

from nexus_auth import Hotkey
from nexus_auth.client import ServerKeyMismatch, connect
from tests.integration.client.programs import running_client, running_loop
from tests.integration.pylon.running import RunningPylon

OURS: Final = ("ours, asyncio", "ours, uvloop", "ours, sync")
THEIRS: Final = ("theirs, sync", "theirs, asyncio")
CLIENTS: Final = (*OURS, *THEIRS)

REFUSED: Final = (ServerKeyMismatch, MtlsVerificationError)
"""What each of the two raises where a server is not the hotkey."""

NeuronCall = Callable[..., httpx.Response]
"""`call(path, method=..., hotkey=..., ...)`: calls the neuron of a hotkey where its axon is."""


@contextmanager
def calling(
    kind: str, pylon: RunningPylon, *, identity: tuple[str, str], pair: Path, hotkey: Hotkey
) -> Iterator[NeuronCall]:
    """Opens a client of a kind until the block ends.

    Args:
        kind: One of `CLIENTS`.
        pylon: Knows the neurons and the keys.
        identity: The name and the token of the identity that asks it.
        pair: The directory of the pair that is shown.
        hotkey: Whom to call where a call names no other.
    """
    settings = {"identity_name": identity[0], "identity_token": identity[1]}
    opened = _OPEN[kind.partition(", ")[0]]
    with opened(kind.partition(", ")[2], pylon, settings, pair) as call:
        yield lambda path, *, hotkey=hotkey, method="GET", **more: call(
            hotkey, method, path, **more
        )


@contextmanager
def _ours(
    kind: str, pylon: RunningPylon, settings: dict[str, Any], pair: Path
) -> Iterator[Callable[..., httpx.Response]]:
    def open_caller() -> Any:
        return connect(
            pylon.url,
            netuid=pylon.netuid,
            **settings,
            certificates=pair,
            refresh_every=timedelta(seconds=1),
        )

    def call(hotkey: Hotkey, method: str, path: str, **more: Any) -> httpx.Response:
        neuron = pylon.store.neuron(hotkey)
        # Where a hotkey is has to be found elsewhere; its key alone says who is there.
        assert neuron is not None
        url = f"https://{neuron.axon.ip}:{neuron.axon.port}{path}"
        return calls(url, hotkey=hotkey, method=method, **more)

    with running_client(kind, open_caller) as calls:
        yield call


@contextmanager
def _theirs(
    kind: str, pylon: RunningPylon, settings: dict[str, Any], pair: Path
) -> Iterator[Callable[..., httpx.Response]]:
    settings |= {
        "address": pylon.url,
        "mtls_cert_path": str(pair / "client.crt"),
        "mtls_key_path": str(pair / "client.key"),
    }
    if kind == "sync":
        with PylonClient(Config(**settings, retry=Retrying(stop=stop_after_attempt(1)))) as client:

            def call(hotkey: Hotkey, method: str, path: str, **more: Any) -> httpx.Response:
                neurons = client.v1.identity.get_latest_neurons().neurons
                with client.get_neuron_client(neurons[artanis.Hotkey(str(hotkey))]) as calls:
                    answer: httpx.Response = calls.request(method, path, **more)
                    return answer

            yield call
        return
    retry = AsyncRetrying(stop=stop_after_attempt(1))
    client_ = AsyncPylonClient(AsyncConfig(**settings, retry=retry))

    async def call_(hotkey: Hotkey, method: str, path: str, **more: Any) -> httpx.Response:
        neurons = (await client_.v1.identity.get_latest_neurons()).neurons
        async with client_.get_neuron_client(neurons[artanis.Hotkey(str(hotkey))]) as calls:
            answer: httpx.Response = await calls.request(method, path, **more)
            return answer

    with running_loop(asyncio.new_event_loop) as run:
        run(client_.__aenter__())
        try:
            yield lambda *arguments, **more: run(call_(*arguments, **more))
        finally:
            run(client_.__aexit__(None, None, None))


_OPEN: Final = {"ours": _ours, "theirs": _theirs}
