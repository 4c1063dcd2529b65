"""Knows heads of requests again that were parsed before.

A proxy asks for the same caller with the same bytes, again and again, but for one field: the name
that it gives to every request. Parsing depends on the bytes alone, so that it need not be repeated;
what is decided does not, and nothing of a decision is kept here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nexus_auth.adapters.headers.names import REQUEST_ID_FIELD
from nexus_auth.adapters.starlette.auth_app import KnownHeaders

HEADS_KEPT: Final = 512
_MAX_HEAD_BYTES: Final = 4096
_MAX_HEAD_FIELDS: Final = 40
"""How many heads of granted requests are known again, twice the neurons of a subnet, and how long
they are at most: some 2 KB each with an honest certificate. Only what was granted is kept, so that
strangers cannot fill this. Each field costs 150 bytes beside its text: without a bound, the 500
tiny ones that a registered caller can have a proxy hand on (Caddy does) would make 512 heads 35 MB.
Browsers send some 20."""

_LINE_END: Final = b"\r\n"

_PLAIN_ID: Final = re.compile(rb"[0-9A-Za-z-]{1,128}")
"""A name that can stand in the place of any other: no character of it means anything to a parser.
It is shorter than any certificate, should somebody have that sent in a header of this name."""


@dataclass(slots=True, eq=False)
class KnownHead:
    """What parsing a head gave: an HTTP/1.1 request without a body that keeps the connection."""

    headers: KnownHeaders
    method: bytes
    target: bytes


class KnownHeads:
    """Heads of granted requests, by their bytes; or by those around the request's own name.

    The name is left out where it stands in the one field `X-Request-ID` and is plain. Two heads
    that differ in nothing else parse alike, but for that value: fields do not run over lines (the
    parser refuses folded ones, RFC 9112 §5.2), and this one says nothing about the message.
    """

    __slots__ = ("_heads", "_id_field", "_named")

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        # By the head without the name; beside it, the place of the field among the headers.
        self._named: dict[bytes, tuple[KnownHead, int]] = {}
        # The field as the proxy spells it, from the end of the line before to the value.
        self._id_field = b""

    def __len__(self) -> int:
        return len(self._heads) + len(self._named)

    def find(self, head: bytes) -> KnownHead | None:
        """What parsing this head would give; None where that is not known.

        Its headers are to be used at once: the next head may be shown in the same object.
        """
        cut = self._cut(head) if self._id_field else None
        if cut is None:
            return self._heads.get(head)
        rest, value = cut
        named = self._named.get(rest)
        if named is None:
            return None
        known, at = named
        known.headers[at] = known.headers[at][0], value
        return known

    def remember(
        self, head: bytes, headers: Sequence[tuple[bytes, bytes]], method: bytes, target: bytes
    ) -> None:
        """Keeps how a head has parsed, and forgets another one where there are too many.

        Args:
            head: The whole head of a request that was granted, without a body.
            headers: What the parser found in it, in order.
            method: Likewise.
            target: Likewise.
        """
        if len(head) > _MAX_HEAD_BYTES or len(headers) > _MAX_HEAD_FIELDS:
            return
        known = KnownHead(KnownHeaders(headers), method, target)
        places = [at for at, (name, _) in enumerate(headers) if name.lower() == REQUEST_ID_FIELD]
        if len(places) == 1:
            spelt, value = headers[places[0]]
            self._id_field = b"%b%b: " % (_LINE_END, spelt)
            cut = self._cut(head)
            if cut is not None and cut[1] == value:
                self._named[cut[0]] = known, places[0]
                self._make_room()
                return
        self._heads[head] = known
        self._make_room()

    def _make_room(self) -> None:
        if len(self) > HEADS_KEPT:
            fuller = self._named if len(self._named) > len(self._heads) else self._heads
            del fuller[next(iter(fuller))]

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
