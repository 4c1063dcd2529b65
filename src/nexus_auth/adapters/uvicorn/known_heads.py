"""Heads of granted requests, parsed: the cache between the socket and the gate.

A proxy sends the same bytes for the same caller, again and again, but for one field: the name that
it gives to every request. Parsing depends on the bytes alone, so that it need not be repeated;
what is decided does not, and nothing of a decision is kept here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from nexus_auth.adapters.headers.names import REQUEST_ID_FIELD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexus_auth.adapters.starlette.gate import Claim

HEADS_KEPT: Final = 512
_MAX_HEAD_BYTES: Final = 4096
_MAX_HEAD_FIELDS: Final = 40
"""How many heads are kept, twice the neurons of a subnet, and how long they are at most: some 2 KB
each with an ordinary certificate. Only heads that were granted are kept, so that unknown callers
cannot fill this. Each field costs 150 bytes beside its text: without a bound, the 500 tiny ones
that a registered caller can have a proxy pass on (Caddy does) would make 512 heads 35 MB. Browsers
send some 20."""

_LINE_END: Final = b"\r\n"

_PLAIN_ID: Final = re.compile(rb"[0-9A-Za-z-]{1,128}")
"""A name that can stand in the place of any other: no character of it means anything to a parser.
It is shorter than any certificate, should one be sent in a header of this name."""

Fields = tuple[tuple[bytes, bytes], ...]


class KnownHead(NamedTuple):
    """What parsing a head gave: an HTTP/1.1 request without a body that keeps the connection.

    Attributes:
        fields: The header fields.
        method: The method.
        target: The target.
        claim: What the gate read among the fields.
        id_place: Where among the fields the request's name stands, which is not part of the key;
            -1 where the key is the whole head.
    """

    fields: Fields
    method: bytes
    target: bytes
    claim: Claim
    id_place: int


class KnownHeads:
    """Immutable parsed heads, by their bytes; or by those around the request's own name.

    A remembered caller's request takes 4.1 µs of ours with this cache, and 6.4 without (5.5 and 7.1
    where each has a name; docs/benchmarks.md). The name is left out of the key where it stands in
    the one field `X-Request-ID` and is plain. Two heads that differ in nothing
    else parse alike, but for that value: fields do not run over lines (the parser rejects folded
    ones, RFC 9112 §5.2), and this one says nothing about the message.
    """

    __slots__ = ("_heads", "_id_field")

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        # The field as the proxy spells it, from the end of the line before to the value.
        self._id_field = b""

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, head: bytes) -> tuple[KnownHead, Fields] | None:
        """What parsing this head would give, and its own fields; None where that is not known."""
        cut = self._cut(head) if self._id_field else None
        if cut is None:
            known = self._heads.get(head)
            return None if known is None or known.id_place >= 0 else (known, known.fields)
        rest, value = cut
        known = self._heads.get(rest)
        if known is None or known.id_place < 0:
            return None
        fields, place = known.fields, known.id_place
        own = (fields[place][0], value)
        return known, (*fields[:place], own, *fields[place + 1 :])

    def remember(
        self,
        head: bytes,
        fields: Sequence[tuple[bytes, bytes]],
        method: bytes,
        target: bytes,
        claim: Claim,
    ) -> None:
        """Keeps how a head was parsed; the oldest one goes where there are too many.

        Args:
            head: The whole head of a request that was granted, without a body.
            fields: What the parser found in it, in order.
            method: Likewise.
            target: Likewise.
            claim: What the gate read among the fields.
        """
        if len(head) > _MAX_HEAD_BYTES or len(fields) > _MAX_HEAD_FIELDS:
            return
        key, id_place = head, -1
        places = [at for at, (name, _) in enumerate(fields) if name.lower() == REQUEST_ID_FIELD]
        if len(places) == 1:
            spelt, value = fields[places[0]]
            self._id_field = b"%b%b: " % (_LINE_END, spelt)
            cut = self._cut(head)
            if cut is not None and cut[1] == value:
                key, id_place = cut[0], places[0]
        self._heads[key] = KnownHead(tuple(fields), method, target, claim, id_place)
        if len(self._heads) > HEADS_KEPT:
            del self._heads[next(iter(self._heads))]

    def _cut(self, head: bytes) -> tuple[bytes, bytes] | None:
        """A head without its request's name, and the name; None where there is no plain one."""
        begin = head.find(self._id_field)
        if begin < 0:
            return None
        begin += len(self._id_field)
        end = head.find(_LINE_END, begin)
        value = head[begin:end]
        if _PLAIN_ID.fullmatch(value) is None:
            return None
        return head[:begin] + head[end:], value
