"""JSON-RPC 2.0 as the nodes of the chain speak it, over any transport, and what can go wrong.

    RegistryError
    ├── RegistryUnavailable
    │   ├── NodeUnreachable    no connection, no answer in time, a broken connection
    │   └── NodeFailed         an error for an answer; another chain, an old or forked block
    └── RegistryAnswerInvalid
        └── NodeAnswerInvalid  an answer that breaks the promises of the RPC

The texts go on after the name of a node, and repeat nothing that it wrote.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import Raw, Struct

from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryError, RegistryUnavailable

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
"""The result of a call."""

Call = Callable[[str, list[Any]], Awaitable[Json]]
"""One call of one node: method and params in, result out. Raises `RegistryError` alone."""

Exchange = Callable[[bytes, int], Awaitable[bytes]]
"""Sends a request, and gives the body of its answer, of so many bytes at most."""

Connect = Callable[[], AbstractAsyncContextManager[Exchange]]
"""Opens a transport to one node, for calls one after another."""

Observe = Callable[[int | None, float], None]

MAX_ANSWER_BYTES: Final = 512 * 1024
"""A page of 1,000 keys has 170 KB, their values 240 KB. To build an answer of this size takes
14 MB, and 30 ms where it is made of nothing but brackets."""

MAX_STATE_CALL_BYTES: Final = 2 * 1024 * 1024 + 1024
"""The answer of a runtime API is one string: 1 MiB in hexadecimal; the metadata have 568 KB."""

_STATE_CALL: Final = "state_call"
_NO_SUCH_METHOD: Final = -32601
_PRUNED: Final = "State already discarded"
_MAX_CODE: Final = 2**31


class NodeUnreachable(RegistryUnavailable):
    """A node could not be reached, or did not answer in time."""

    cause = "unreachable"


class NodeFailed(RegistryUnavailable):
    """A node answered with an error, or with a block that is not to be believed.

    Attributes:
        status: The status of HTTP that is no answer; None where that was not it.
    """

    cause = "failed"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NodeAnswerInvalid(RegistryAnswerInvalid):
    """A node's answer breaks the promises of its RPC."""


class _Error(Struct):
    code: int
    message: str = ""


class _Answer(Struct):
    id: int | None = None
    result: Raw = Raw(b"")
    error: _Error | None = None


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_TEXT: Final = msgspec.json.Decoder(str | None)
_ANY: Final = msgspec.json.Decoder(Any)


def build_call(exchange: Exchange, observe: Observe | None) -> Call:
    """Builds calls over an open transport, one after another.

    Args:
        exchange: The transport.
        observe: Called with the status and the seconds of every request; the status is None
            where no whole answer came.
    """
    numbers = itertools.count(1)

    async def call(method: str, params: list[Any]) -> Json:
        number = next(numbers)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        most = MAX_STATE_CALL_BYTES if method == _STATE_CALL else MAX_ANSWER_BYTES
        status: int | None = None
        began = time.perf_counter()
        try:
            body = await exchange(msgspec.json.encode(request), most)
            status = 200
        except NodeFailed as exc:
            status = exc.status
            raise
        finally:
            if observe is not None:
                observe(status, time.perf_counter() - began)
        return parse_answer(body, number=number, method=method)

    return call


def status_failure(status: int) -> NodeFailed:
    """The error for a status of HTTP that is no answer."""
    return NodeFailed(f"answered with the status {status}", status=status)


def parse_answer(body: bytes, *, number: int, method: str) -> Json:
    """Reads the answer of one call.

    Args:
        body: What came.
        number: The id of the request.
        method: What was called. The answer of `state_call`, which may be longer, is a string: of
            brackets, so many bytes would be built into a hundred megabytes.

    Raises:
        NodeFailed: If it is an error.
        NodeAnswerInvalid: If it is no answer to this request.
    """
    failure: RegistryError = NodeAnswerInvalid("answered something else than JSON-RPC")
    try:
        answer = _ANSWER.decode(body)
        if answer.error is not None:
            failure = NodeFailed(_explain(answer.error, method))
        elif answer.id != number:
            failure = NodeAnswerInvalid("answered another request than the one that was sent")
        else:
            decoder: msgspec.json.Decoder[Any] = _TEXT if method == _STATE_CALL else _ANY
            return cast("Json", decoder.decode(answer.result))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    # Raised outside, without a reference to a cause: its text may repeat the answer's.
    raise failure


def _explain(error: _Error, method: str) -> str:
    if _PRUNED in error.message:
        return "no longer has the state of the block (it is pruned)"
    if error.code == _NO_SUCH_METHOD:
        return f"does not offer {method}"
    code = f" {error.code}" if abs(error.code) < _MAX_CODE else ""
    return f"answered {method} with the error{code}"
