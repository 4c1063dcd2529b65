"""A small chain, and a node of it on a real loopback socket, for every test that needs one.

    with running_node() as node:
        node.chain.register(hotkey, validator_permit=True, alpha=5 * TOKEN)
        node.chain.publish(hotkey, public_key)
        node.chain.advance()  # only now it is in a block
        ...  # talk to node.url (http://) or node.ws_url (ws://), the same port
        node.requests  # what it was asked: (transport, method, params)

It has the chain's real storage layout and, where `metadata()` is at hand, its real metadata; it has
none of the runtime's rules but those of `Chain.serve_axon_tls`. Blocks never change; faults of the
node are its attributes, see `RunningNode`. Several nodes may serve one chain.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import lzma
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

import uvicorn
from starlette.types import Receive, Scope, Send

from nexus_auth.domain.hotkey import Hotkey
from tests.integration.chain import scale
from tests.integration.chain.scale import Axon, Seat
from tests.integration.real import free_port, wait_until_ready

TOKEN: Final = 10**9
"""One TAO, or one alpha, in rao."""

NETUID: Final = 1
SPEC_VERSION: Final = 318
RATE_LIMIT_BLOCKS: Final = 50
MAX_KEYS_A_PAGE: Final = 1000
"""Substrate's bound of `state_getKeysPaged`."""

Params = list[Any]
Answer = Callable[[Params, Any], Any]
"""Makes an answer of a node from the params and the honest answer."""


@lru_cache(maxsize=1)
def metadata() -> bytes:
    """The chain's metadata of spec 318 in version 15, as `state_call` gives it.

    Source: the hex of `Metadata_metadata_at_version(15)` of the public network, October 2026.
    """
    return lzma.decompress(Path(__file__).with_name("metadata-v15-spec318.xz").read_bytes())


@dataclass(frozen=True, slots=True)
class Request:
    """One call as it came: over `http` or `ws`."""

    transport: str
    method: str
    params: Params


class Refused(Exception):
    """The chain does not take an extrinsic. `code` is that of the pool's custom error."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Invalid Transaction: Custom error: {code}")
        self.code = code


class RpcFailure(Exception):
    """A JSON-RPC error, as a node gives it."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({} if data is None else {"data": data})


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBlock:
    """A block and the state after it, which never changes."""

    number: int
    parent: bytes
    storage: Mapping[bytes, bytes]
    seats: tuple[Seat, ...]
    keys: tuple[bytes, ...] = field(init=False)
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(sorted(self.storage)))
        object.__setattr__(self, "hash", "0x" + _blake2_256(self._header_bytes()).hex())

    @property
    def state_root(self) -> bytes:
        """Names the state. A real one is the root of a trie; this is a hash all the same."""
        return _blake2_256(b"".join(key + self.storage[key] for key in self.keys))

    def _header_bytes(self) -> bytes:
        return self.parent + scale.compact(self.number) + self.state_root + bytes(32) + b"\0"

    def header(self) -> dict[str, object]:
        """As `chain_getHeader` gives it. Its hash is that of its SCALE form, as on the chain."""
        return {
            "parentHash": "0x" + self.parent.hex(),
            "number": hex(self.number),
            "stateRoot": "0x" + self.state_root.hex(),
            "extrinsicsRoot": "0x" + bytes(32).hex(),
            "digest": {"logs": []},
        }


def _blake2_256(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


class Chain:
    """A chain with one subnet. What is changed is in the next block, see `advance`."""

    def __init__(
        self,
        *,
        netuid: int = NETUID,
        name: str = "Bittensor",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Makes a chain with its genesis alone.

        Args:
            netuid: The subnet.
            name: What `system_chain` says; chains of different names have different genesis hashes.
            clock: What the time of each block is taken from.
        """
        self.netuid = netuid
        self.name = name
        self.spec_version = SPEC_VERSION
        self.clock = clock
        self._seats: list[Seat] = []
        self._uids: dict[bytes, int] = {}
        self._storage: dict[bytes, bytes] = {b":code": name.encode()}
        self._storage[scale.of_subnet("ServingRateLimit", netuid)] = scale.u64(RATE_LIMIT_BLOCKS)
        self.blocks: list[SealedBlock] = []
        self._seal(bytes(32))

    @property
    def head(self) -> SealedBlock:
        """The last block."""
        return self.blocks[-1]

    @property
    def genesis(self) -> str:
        """The hash of block 0."""
        return self.blocks[0].hash

    def advance(self, blocks: int = 1, *, at: datetime | None = None) -> SealedBlock:
        """Makes blocks; the first of them has all that was changed.

        Args:
            blocks: How many.
            at: Their time; the clock's by default.
        """
        self._write_seats()
        for _ in range(blocks):
            self._storage[scale.prefix("Timestamp", "Now")] = scale.u64(
                _milliseconds(at or self.clock())
            )
            self._seal(bytes.fromhex(self.head.hash[2:]))
        return self.head

    def fork(self, number: int) -> Chain:
        """Another chain that shares the blocks up to a number, and differs from then on."""
        other = Chain(netuid=self.netuid, name=self.name, clock=self.clock)
        other.blocks = self.blocks[: number + 1]
        other._storage = dict(other.head.storage) | {b":fork": number.to_bytes(8, "little")}
        other._seats = list(other.head.seats)
        other._uids = {seat.account: uid for uid, seat in enumerate(other._seats)}
        return other

    def register(
        self,
        hotkey: Hotkey,
        *,
        validator_permit: bool = False,
        active: bool = True,
        alpha: int = 0,
        tao: int = 0,
        total: int | None = None,
    ) -> int:
        """Gives a hotkey a place, and says its uid. Stakes are rao; `total` is their sum."""
        total = alpha + tao if total is None else total
        seat = Seat(
            account=hotkey.account_id,
            validator_permit=validator_permit,
            active=active,
            alpha=alpha,
            tao=tao,
            total=total,
        )
        uid = self._uid(hotkey)
        if uid is None:
            uid = self._uids[hotkey.account_id] = len(self._seats)
            self._seats.append(seat)
        else:
            self._seats[uid] = replace(seat, axon=self._seats[uid].axon)
        return uid

    def replace(self, old: Hotkey, new: Hotkey) -> int:
        """Gives the place of one hotkey to another; the old one's axon and certificate go."""
        uid = self._uid(old)
        assert uid is not None, f"{old} has no place"
        for item in ("Uids", "Axons", "NeuronCertificates"):
            self._storage.pop(scale.of_account(item, self.netuid, old.account_id), None)
        self._seats[uid] = Seat(account=new.account_id)
        self._uids = {seat.account: uid for uid, seat in enumerate(self._seats)}
        return uid

    def publish(self, hotkey: Hotkey, key: bytes, *, algorithm: int = 1) -> None:
        """Stores a certificate as the chain does, whatever its key is."""
        self.store_certificate(hotkey, scale.compact(len(key)) + key + bytes([algorithm]))

    def store_certificate(self, hotkey: Hotkey, value: bytes | None) -> None:
        """Stores any bytes in the place of a certificate, or takes it away."""
        key = scale.of_account("NeuronCertificates", self.netuid, hotkey.account_id)
        self.store(key, value)

    def store(self, key: bytes, value: bytes | None) -> None:
        """Stores any bytes under any key, or takes it away."""
        if value is None:
            self._storage.pop(key, None)
        else:
            self._storage[key] = value

    def serve_axon(
        self, hotkey: Hotkey, *, ip: str = "192.0.2.1", port: int = 8091, block: int | None = None
    ) -> None:
        """Stores an axon, served in the next block unless another is named."""
        block = self.head.number + 1 if block is None else block
        axon = Axon(block=block, ip=ip, port=port)
        uid = self._uid(hotkey)
        if uid is not None:
            self._seats[uid] = replace(self._seats[uid], axon=axon)
        self.store(scale.of_account("Axons", self.netuid, hotkey.account_id), axon.encode())

    def serve_axon_tls(self, hotkey: Hotkey, *, ip: str, port: int, certificate: bytes) -> None:
        """Does what the extrinsic of this name does, by the rules of the pallet `serving`.

        Args:
            hotkey: Who signs.
            ip: Of the axon; 0.0.0.0 is allowed.
            port: Of the axon; 0 is not.
            certificate: The algorithm's byte and the key. An unusable one stores nothing.

        Raises:
            Refused: With the code of the pool.
        """
        uid = self._uid(hotkey)
        if uid is None:
            raise Refused(10)
        axon, number = self._seats[uid].axon, self.head.number + 1
        if axon.block and number - axon.block < self.rate_limit:
            raise Refused(12)
        if port == 0:
            raise Refused(13)
        self.serve_axon(hotkey, ip=ip, port=port)
        if 1 <= len(certificate) <= 65:
            self.publish(hotkey, certificate[1:], algorithm=certificate[0])

    @property
    def rate_limit(self) -> int:
        """How many blocks lie between two serves of an axon."""
        value = self._storage[scale.of_subnet("ServingRateLimit", self.netuid)]
        return int.from_bytes(value, "little")

    @rate_limit.setter
    def rate_limit(self, blocks: int) -> None:
        self.store(scale.of_subnet("ServingRateLimit", self.netuid), scale.u64(blocks))

    def certificate_of(self, hotkey: Hotkey) -> bytes | None:
        """The value that the last block has for a hotkey, as it is stored."""
        key = scale.of_account("NeuronCertificates", self.netuid, hotkey.account_id)
        return self.head.storage.get(key)

    def _uid(self, hotkey: Hotkey) -> int | None:
        return self._uids.get(hotkey.account_id)

    def _write_seats(self) -> None:
        seats, netuid = self._seats, self.netuid
        for uid, seat in enumerate(seats):
            self._storage[scale.of_account("Uids", netuid, seat.account)] = scale.u16(uid)
            self._storage[scale.of_uid("Keys", netuid, uid)] = seat.account
        for item, values in (
            ("Active", [bytes([seat.active]) for seat in seats]),
            ("ValidatorPermit", [bytes([seat.validator_permit]) for seat in seats]),
            ("LastUpdate", [scale.u64(seat.last_update) for seat in seats]),
        ):
            self._storage[scale.of_subnet(item, netuid)] = scale.vector(values)
        self._storage[scale.of_subnet("SubnetworkN", netuid)] = scale.u16(len(seats))

    def _seal(self, parent: bytes) -> None:
        block = SealedBlock(
            number=len(self.blocks),
            parent=parent,
            storage=dict(self._storage),
            seats=tuple(self._seats),
        )
        self.blocks = [*self.blocks, block]


def _from_hex(text: str) -> bytes:
    """As Substrate reads bytes: with or without `0x`."""
    return bytes.fromhex(text.removeprefix("0x"))


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


class RunningNode:
    """A node in a thread of its own. Made by `running_node`.

    Attributes:
        chain: What it serves; another one (a fork, a chain of another name) may be put here.
        blocks_behind: How many blocks it is behind its chain.
        keeps: Of how many of the last blocks it has the state; None for all of them.
        delay_seconds: How long it waits before each answer to what `delay_where` matches.
        metadata: What it gives instead of the real metadata; None for that.
        requests: What it was asked, oldest first.
    """

    def __init__(self, chain: Chain, tls: tuple[Path, Path] | None = None) -> None:
        self.chain = chain
        self.port = free_port()
        self.blocks_behind = 0
        self.keeps: int | None = None
        self.delay_seconds = 0.0
        self.delay_where = ""
        self.metadata: bytes | None = None
        self.requests: list[Request] = []
        self._answers: dict[str, Answer] = {}
        self._bodies: dict[str, bytes] = {}
        self._failing_status: int | None = None
        self._stuck_at: int | None = None
        self._tls = tls
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        """Its address for HTTP; the same one after `stop` and `start`."""
        return f"{'http' if self._tls is None else 'https'}://{self._host}:{self.port}"

    @property
    def ws_url(self) -> str:
        """Its address for WebSocket."""
        return f"{'ws' if self._tls is None else 'wss'}://{self._host}:{self.port}"

    @property
    def _host(self) -> str:
        return "127.0.0.1" if self._tls is None else "localhost"

    def advance(self, blocks: int = 1, *, at: datetime | None = None) -> SealedBlock:
        """Makes blocks of its chain, see `Chain.advance`."""
        return self.chain.advance(blocks, at=at)

    def stick(self) -> None:
        """Stays at the block where it is, while its chain goes on."""
        self._stuck_at = self.head.number

    def lie(self, method: str, answer: Answer) -> None:
        """Answers a method by a function of the params and the honest result.

        The function may raise `RpcFailure`.
        """
        self._answers[method] = answer

    def answer_with(self, method: str, body: bytes) -> None:
        """Answers requests that name a method with exactly this body."""
        self._bodies[method] = body

    def fail_with(self, status: int | None) -> None:
        """Answers HTTP with this status, and takes no WebSocket; None ends that."""
        self._failing_status = status

    def behave(self) -> None:
        """Ends all faults."""
        self.blocks_behind, self.keeps, self.delay_seconds = 0, None, 0.0
        self._failing_status = self._stuck_at = None
        self._answers.clear()
        self._bodies.clear()

    @property
    def blocks(self) -> list[SealedBlock]:
        """The blocks that it has."""
        blocks = self.chain.blocks
        number = len(blocks) - self.blocks_behind
        if self._stuck_at is not None:
            number = min(number, self._stuck_at + 1)
        return blocks[: max(number, 1)]

    @property
    def head(self) -> SealedBlock:
        """The last, finalised block that it has."""
        return self.blocks[-1]

    def methods(self) -> list[str]:
        """What it was asked, by name."""
        return [request.method for request in self.requests]

    def start(self) -> Self:
        """Begins to listen, on the port it had before where it had one."""
        if self._server is not None:
            return self
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._server = server = uvicorn.Server(
            uvicorn.Config(
                self._serve,
                interface="asgi3",
                lifespan="off",
                log_config=None,
                access_log=False,
                # The other one of uvicorn's uses what the library has deprecated.
                ws="websockets-sansio",
                timeout_graceful_shutdown=1,
                ssl_certfile=None if self._tls is None else self._tls[0],
                ssl_keyfile=None if self._tls is None else self._tls[1],
            )
        )
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [self._listener]}, daemon=True
        )
        self._thread.start()
        wait_until_ready(lambda: server.started, what="the test node")
        return self

    def stop(self) -> None:
        """Stops listening and cuts every connection."""
        if self._server is None or self._thread is None or self._listener is None:
            return
        self._server.should_exit = True
        self._thread.join(10)
        self._listener.close()
        self._server = self._thread = self._listener = None

    def wait_for_requests(self, count: int, *, timeout_seconds: float = 20.0) -> None:
        """Waits until it was asked so often altogether."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.requests) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.requests) >= count, self.requests

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._serve_websocket(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = 405, b"Used HTTP Method is not allowed. POST or OPTIONS is required"
        if scope["method"] == "POST":
            status, answer = self._failing_status or 200, b"told to fail"
            if status == 200:
                answer = await self._answer("http", body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _serve_websocket(self, receive: Receive, send: Send) -> None:
        await receive()
        if self._failing_status is not None:
            await send({"type": "websocket.close", "code": 1013})
            return
        await send({"type": "websocket.accept"})

        async def answer(body: bytes) -> None:
            text = (await self._answer("ws", body)).decode("latin-1")
            await send({"type": "websocket.send", "text": text})

        # As a node does: a slow answer holds up no other on the same connection.
        async with asyncio.TaskGroup() as answers:
            while (message := await receive())["type"] == "websocket.receive":
                text = message.get("text")
                body = message.get("bytes") or b"" if text is None else text.encode()
                answers.create_task(answer(body))

    async def _answer(self, transport: str, body: bytes) -> bytes:
        try:
            asked = json.loads(body)
        except ValueError:
            return b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}'
        calls = asked if isinstance(asked, list) else [asked]
        answers = []
        for call in calls:
            method, params = call.get("method", ""), call.get("params") or []
            self.requests.append(Request(transport, method, params))
            if self.delay_seconds and re.search(self.delay_where, method):
                await asyncio.sleep(self.delay_seconds)
            if method in self._bodies:
                return self._bodies[method]
            answers.append({"jsonrpc": "2.0", "id": call.get("id")} | self._call(method, params))
        return json.dumps(answers if isinstance(asked, list) else answers[0]).encode()

    def _call(self, method: str, params: Params) -> dict[str, Any]:
        known = _METHODS.get(method)
        lie = self._answers.get(method)
        try:
            if known is None and lie is None:
                raise RpcFailure(-32601, "Method not found")  # noqa: TRY301 - as a node does
            result = None if known is None else known(self, *params)
            return {"result": result if lie is None else lie(params, result)}
        except RpcFailure as exc:
            return {"error": exc.error}
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as exc:
            return {"error": {"code": -32602, "message": "Invalid params", "data": repr(exc)}}

    # What follows answers by the rules of Substrate's RPC.

    def _block(self, at: str | None) -> SealedBlock:
        """The block of a hash, the head where there is none."""
        if at is None:
            return self.head
        for block in self.blocks:
            if block.hash == at.lower():
                return block
        raise RpcFailure(
            4003, f"Client error: UnknownBlock: Header was not found in the database: {at}"
        )

    def _state(self, at: str | None) -> SealedBlock:
        """As above, for its state, which may be pruned."""
        block = self._block(at)
        if self.keeps is not None and block.number <= self.head.number - self.keeps:
            raise RpcFailure(
                4003, f"Client error: UnknownBlock: State already discarded for {block.hash}"
            )
        return block

    def _header(self, at: str | None = None) -> object:
        try:
            return self._block(at).header()
        except RpcFailure:
            return None

    def _whole_block(self, at: str | None = None) -> object:
        header = self._header(at)
        if header is None:
            return None
        return {"block": {"header": header, "extrinsics": []}, "justifications": None}

    def _block_hash(self, number: int | str | list[int] | None = None) -> object:
        if isinstance(number, list):
            return [self._block_hash(each) for each in number]
        if isinstance(number, str):
            number = int(number, 16)
        blocks = self.blocks
        if number is None:
            return blocks[-1].hash
        return blocks[number].hash if 0 <= number < len(blocks) else None

    def _keys_paged(
        self, start_with: str, count: int, start: str | None = None, at: str | None = None
    ) -> list[str]:
        if count > MAX_KEYS_A_PAGE:
            raise RpcFailure(
                4002, f"count exceeds maximum value. value: {count}, max: {MAX_KEYS_A_PAGE}"
            )
        after = _from_hex(start or "")
        return [key for key in self._keys(start_with, at) if _from_hex(key) > after][:count]

    def _keys(self, start_with: str, at: str | None = None) -> list[str]:
        begin = _from_hex(start_with)
        return ["0x" + key.hex() for key in self._state(at).keys if key.startswith(begin)]

    def _storage(self, key: str, at: str | None = None) -> str | None:
        value = self._state(at).storage.get(_from_hex(key))
        return None if value is None else "0x" + value.hex()

    def _query(self, keys: list[str], at: str | None = None) -> object:
        block = self._state(at)
        return [
            {
                "block": block.hash,
                "changes": [[key, self._storage(key, block.hash)] for key in keys],
            }
        ]

    def _runtime_version(self, at: str | None = None) -> object:
        self._state(at)
        return {
            "specName": "node-subtensor",
            "implName": "node-subtensor",
            "authoringVersion": 1,
            "specVersion": self.chain.spec_version,
            "implVersion": 1,
            "apis": [["0x37e397fc7c91f5e4", 2]],
            "transactionVersion": 1,
            "systemVersion": 1,
            "stateVersion": 1,
        }

    def _state_call(self, name: str, data: str, at: str | None = None) -> str:
        block, argument = self._state(at), _from_hex(data)
        if name == "Metadata_metadata_versions":
            return "0x" + scale.vector([version.to_bytes(4, "little") for version in (15,)]).hex()
        if name == "Metadata_metadata_at_version":
            known = int.from_bytes(argument, "little") == 15
            return "0x" + ((self.metadata or metadata()) if known else b"\0").hex()
        netuid = int.from_bytes(argument[:2], "little")
        seats = block.seats if netuid == self.chain.netuid else None
        match name:
            case "SubnetInfoRuntimeApi_get_selective_metagraph":
                asked = argument[2:]
                size = 1 if asked[0] & 3 == 0 else 2
                indexes = [
                    int.from_bytes(asked[place : place + 2], "little")
                    for place in range(size, len(asked), 2)
                ]
                answer = (
                    b"\0" if seats is None else scale.selective_metagraph(netuid, seats, indexes)
                )
            case "SubnetInfoRuntimeApi_get_subnet_state":
                answer = b"\0" if seats is None else scale.subnet_state(netuid, seats)
            case "NeuronInfoRuntimeApi_get_neurons_lite":
                answer = scale.neurons_lite(netuid, seats or ())
            case _:
                raise RpcFailure(
                    4003,
                    f"Client error: Execution failed: Other: Exported method {name} is not found",
                )
        return "0x" + answer.hex()

    def _serve_axon_tls(self, account: str, ip: str, port: int, certificate: str) -> str:
        """No method of a node: for the commands of tests that publish from another process."""
        try:
            self.chain.serve_axon_tls(
                Hotkey(_from_hex(account)),
                ip=ip,
                port=port,
                certificate=_from_hex(certificate),
            )
        except Refused as exc:
            raise RpcFailure(1010, "Invalid Transaction", f"Custom error: {exc.code}") from exc
        return self.advance().hash


_METHODS: Final[Mapping[str, Callable[..., Any]]] = {
    "chain_getBlock": RunningNode._whole_block,
    "chain_getBlockHash": RunningNode._block_hash,
    "chain_getFinalizedHead": lambda node: node.head.hash,
    "chain_getHead": RunningNode._block_hash,
    "chain_getHeader": RunningNode._header,
    "rpc_methods": lambda node: {"methods": sorted(_METHODS)},
    "state_call": RunningNode._state_call,
    "state_getKeys": RunningNode._keys,
    "state_getKeysPaged": RunningNode._keys_paged,
    "state_getRuntimeVersion": RunningNode._runtime_version,
    "state_getStorage": RunningNode._storage,
    "state_getStorageAt": RunningNode._storage,
    "state_queryStorageAt": RunningNode._query,
    "system_chain": lambda node: node.chain.name,
    "system_health": lambda node: {"peers": 8, "isSyncing": False, "shouldHavePeers": True},
    "system_name": lambda node: "node-subtensor",
    "system_properties": lambda node: {
        "isEthereum": False,
        "ss58Format": 42,
        "tokenDecimals": 9,
        "tokenSymbol": "TAO",
    },
    "system_version": lambda node: "4.0.0-test",
    "test_serveAxonTls": RunningNode._serve_axon_tls,
}


@contextmanager
def running_node(
    chain: Chain | None = None, *, netuid: int = NETUID, tls: tuple[Path, Path] | None = None
) -> Iterator[RunningNode]:
    """Runs a node until the block ends.

    Args:
        chain: What it serves; a new one with one block besides its genesis where there is none.
        netuid: The subnet of a new chain.
        tls: Its certificate and its key, where it speaks TLS alone, as `localhost`.
    """
    if chain is None:
        chain = Chain(netuid=netuid)
        chain.advance()
    node = RunningNode(chain, tls)
    node.start()
    try:
        yield node
    finally:
        node.stop()


@contextmanager
def running_nodes(count: int, *, netuid: int = NETUID) -> Iterator[list[RunningNode]]:
    """Runs several nodes of one chain until the block ends."""
    chain = Chain(netuid=netuid)
    chain.advance()
    with ExitStack() as stack:
        yield [stack.enter_context(running_node(chain)) for _ in range(count)]
