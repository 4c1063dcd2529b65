"""What is read of the answers of a node, and what is said of them."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.adapters.chain import rpc
from nexus_auth.adapters.chain.rpc import (
    MAX_ANSWER_BYTES,
    MAX_STATE_CALL_BYTES,
    Json,
    NodeAnswerInvalid,
    NodeFailed,
    NodeUnreachable,
    build_call,
    parse_answer,
)
from nexus_auth.domain.errors import RegistryError

CANARY: Final = "canary-of-the-node"


def an_answer(**members: Any) -> bytes:
    """One to the request 1."""
    return json.dumps({"jsonrpc": "2.0", "id": 1} | members).encode()


def parse(body: bytes, method: str = "chain_getHeader") -> Json:
    """Reads the answer to the request 1."""
    return parse_answer(body, number=1, method=method)


@pytest.mark.parametrize("result", [None, "0x", ["a", ["b", None]], {"number": "0x1"}, 7])
def test_result_is_given_as_it_is(result: Any) -> None:
    """Null included."""
    assert parse(an_answer(result=result)) == result


def test_runtime_api_answers_with_a_text() -> None:
    """Its answer may be longer; nothing but a text is built of it."""
    assert parse(an_answer(result="0x00"), "state_call") == "0x00"
    with pytest.raises(NodeAnswerInvalid):
        parse(an_answer(result=[]), "state_call")


INVALID: Final = {
    "nothing": b"",
    "a page": b"<html>" + CANARY.encode(),
    "no UTF-8": b'{"id":1,"result":"\xff"}',
    "an array": b"[]",
    "a batch": b"[" + an_answer(result="x") + b"]",
    "another id": an_answer(id=2, result="x"),
    "no id": b'{"jsonrpc":"2.0","result":"x"}',
    "the id as a text": an_answer(id="1", result="x"),
    "no result": an_answer(),
    "a half answer": an_answer(result="x")[:-2],
    "more behind it": an_answer(result="x") + b"x",
    "brackets": b'{"id":1,"result":' + b"[" * 100_000,
    "an endless number": b'{"id":1,"result":' + b"9" * 100_000 + b"}",
    "an error that is a text": an_answer(error=CANARY),
    "an error without a code": an_answer(error={"message": CANARY}),
    "a notification": b'{"jsonrpc":"2.0","method":"x","params":{}}',
}


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID)
def test_anything_else_is_no_answer(body: bytes) -> None:
    """And nothing of it is repeated, nor kept by the error."""
    with pytest.raises(NodeAnswerInvalid) as raised:
        parse(body)
    assert CANARY not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"code": -32601, "message": CANARY}, "does not offer chain_getHeader"),
        ({"code": -32000, "message": CANARY, "data": [CANARY]}, "with the error -32000"),
        ({"code": 9**40, "message": CANARY}, ""),
        (
            {"code": 4003, "message": f"Client error: State already discarded for {CANARY}"},
            "pruned",
        ),
    ],
)
def test_error_of_a_node_is_explained_without_its_text(error: Any, text: str) -> None:
    """By its code, and by what a pruned state is known by. With any id: it may not be known."""
    for number in (1, None):
        with pytest.raises(RegistryError) as raised:
            parse(an_answer(id=number, error=error))
        assert text in str(raised.value)
        assert CANARY not in str(raised.value)
        assert len(str(raised.value)) < 200


@example(body=b'{"id":1,"result":{"a":1e999}}')
@example(body=b'{"id":1,"result":"\\ud800"}')
@given(body=st.binary(max_size=60) | st.text(alphabet='[]{}":,0x1eid', max_size=40).map(str.encode))
def test_any_body_is_a_result_or_our_own_error(body: bytes) -> None:
    """Nothing of msgspec's or Python's comes out."""
    for method in ("chain_getHeader", "state_call"):
        try:
            parse(body, method)
        except (NodeAnswerInvalid, NodeFailed):
            continue


@pytest.mark.parametrize(
    ("method", "size", "piece"),
    [
        ("state_queryStorageAt", MAX_ANSWER_BYTES, b"[],"),
        ("state_queryStorageAt", MAX_ANSWER_BYTES, b'{"":0},'),
        ("state_call", MAX_STATE_CALL_BYTES, b"[],"),
    ],
)
def test_worst_answer_takes_little_memory(method: str, size: int, piece: bytes) -> None:
    """Of the longest answer of each method, made of what takes most."""
    body = b'{"id":1,"result":[' + piece * (size // len(piece)) + b"0]}"
    tracemalloc.start()
    with contextlib.suppress(NodeAnswerInvalid):
        parse(body, method)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 1024 * 1024


async def test_requests_are_numbered_and_observed() -> None:
    """Each has an id of its own; the bound is the method's; a status is None without an answer."""
    sent: list[tuple[Any, int]] = []
    seen: list[int | None] = []
    failing: list[RegistryError] = []

    async def exchange(request: bytes, most: int) -> bytes:
        sent.append((json.loads(request), most))
        if failing:
            raise failing.pop()
        return an_answer(id=len(sent), result="0x")

    call = build_call(exchange, lambda status, _: seen.append(status))
    assert await call("chain_getBlockHash", [0]) == "0x"
    assert await call("state_call", ["a", "b"]) == "0x"
    for error in (NodeUnreachable("gone"), rpc.status_failure(503)):
        failing.append(error)
        with pytest.raises(type(error)):
            await call("chain_getHeader", [])
    assert [request["id"] for request, _ in sent] == [1, 2, 3, 4]
    assert sent[0] == (
        {"jsonrpc": "2.0", "id": 1, "method": "chain_getBlockHash", "params": [0]},
        MAX_ANSWER_BYTES,
    )
    assert sent[1][1] == MAX_STATE_CALL_BYTES
    assert seen == [200, 200, None, 503]
