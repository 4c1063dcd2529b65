"""A strict reader of requests, written from RFC 9112 and sharing no code with the service.

It exists to disagree: whatever the service grants, this reader sees the same request in the same
place. It reads no more than that needs, and knows nothing of decisions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

# RFC 9112 §3: method SP request-target SP HTTP-version. More than one space is what §3 lets a
# recipient accept; what stands in the target is bounded by §3.2 and RFC 3986.
_REQUEST_LINE: Final = re.compile(
    rb"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]+)(?P<gap> +)(?P<target>[\x21-\x7e\x80-\xff]+)"
    rb"(?P<second_gap> +)HTTP/1\.(?P<minor>[0-9])"
)
_TARGET: Final = re.compile(
    rb"(?:/|\*|[A-Za-z][A-Za-z0-9+.-]*:|[A-Za-z0-9._~-]+:[0-9]+\Z|\[[0-9A-Fa-f:.]+\]:[0-9]+\Z)"
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]-]|%[0-9A-Fa-f]{2})*"
)
# §5: field-name ":" OWS field-value OWS; no white space before the colon (§5.1), no folded lines
# (§5.2). RFC 9110 §5.5: field-vchar is visible ASCII or obs-text.
_FIELD: Final = re.compile(
    rb"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*"
    rb"(?P<value>(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
# RFC 9110 §7.2: uri-host [ ":" port ].
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_LINE_END: Final = b"\r\n"
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


class Ending(Enum):
    """Why a reader stops."""

    CLEAN = auto()
    """Everything was read."""
    UNFINISHED = auto()
    """A head has not ended yet."""
    MALFORMED = auto()
    """What comes next is no request; RFC 9112 §2.2 and §3: 400, and the connection ends."""
    LAST = auto()
    """After the last request comes no other: a body, a tunnel, or what was announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        at: Where in the stream it begins.
        method: As it was written.
        target: As it was written.
        fields: Names as they were written, values without the white space around them.
        may_refuse: Whether a recipient may answer 400 as well, by a MAY or a SHOULD.
        may_end: Whether a recipient may end the connection after it.
    """

    at: int
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    may_refuse: bool
    may_end: bool

    def values_of(self, name: bytes) -> list[bytes]:
        """The values of the fields of a name, given in lower case."""
        return _values_of(self.fields, name)


class _Malformed(Exception):
    """It is no request."""


Fields = Sequence[tuple[bytes, bytes]]


def read_requests(stream: bytes) -> tuple[list[Request], Ending]:
    """Reads all the requests of a connection, as far as there can be another one."""
    requests: list[Request] = []
    at = 0
    while True:
        # §2.2: at least one empty line before a request is ignored.
        begin = at
        while stream.startswith(_LINE_END, at):
            at += len(_LINE_END)
        if at == len(stream):
            return requests, Ending.CLEAN
        if stream[at : at + 1] in {b"\r", b"\n"} and stream[at:] != b"\r":
            return requests, Ending.MALFORMED
        end = stream.find(2 * _LINE_END, at)
        if end < 0:
            return requests, Ending.UNFINISHED
        try:
            request, is_last = _read_head(stream[at:end], at, is_odd=at - begin > len(_LINE_END))
        except _Malformed:
            return requests, Ending.MALFORMED
        requests.append(request)
        if is_last:
            return requests, Ending.LAST
        at = end + 2 * len(_LINE_END)


def _read_head(head: bytes, at: int, *, is_odd: bool) -> tuple[Request, bool]:
    """One request, and whether it is the last of its connection."""
    first, *lines = head.split(_LINE_END)
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise _Malformed
    fields = []
    for each in lines:
        found = _FIELD.fullmatch(each)
        if found is None:
            raise _Malformed
        fields.append((found["name"], found["value"]))
    has_old_version = line["minor"] == b"0"
    is_odd_line = (
        line["gap"] + line["second_gap"] != b"  "
        or line["minor"] > b"1"
        or _TARGET.fullmatch(line["target"]) is None
    )
    has_odd_host = _check_host(fields, is_optional=has_old_version)
    has_body, has_odd_framing = _read_framing(fields, has_old_version=has_old_version)
    options = [word.lower() for word in _list_of(fields, b"connection")]
    request = Request(
        at=at,
        method=line["method"],
        target=line["target"],
        fields=tuple(fields),
        may_refuse=is_odd or is_odd_line or has_odd_host or has_odd_framing,
        # §9.3; RFC 9110 §7.8: a server may take up an upgrade, or not.
        may_end=has_old_version or bool(_values_of(fields, b"upgrade")),
    )
    # RFC 9110 §9.3.6: behind a CONNECT comes the tunnel.
    return request, has_body or b"close" in options or request.method == b"CONNECT"


def _check_host(fields: Fields, *, is_optional: bool) -> bool:
    """RFC 9112 §3.2: exactly one, from HTTP/1.1 on. Says whether its value may be refused."""
    hosts = _values_of(fields, b"host")
    if len(hosts) > 1 or not (hosts or is_optional):
        raise _Malformed
    return any(_HOST.fullmatch(host) is None for host in hosts)


def _read_framing(fields: Fields, *, has_old_version: bool) -> tuple[bool, bool]:
    """§6.3: whether there is a body, and whether the framing may be refused."""
    lengths = _values_of(fields, b"content-length")
    codings = [word.lower() for word in _list_of(fields, b"transfer-encoding")]
    if _values_of(fields, b"transfer-encoding"):
        # §6.1, §6.3: chunked comes last and once; with a length it is an attempt at smuggling.
        if lengths or codings[-1:] != [b"chunked"] or codings.count(b"chunked") > 1:
            raise _Malformed
        return True, has_old_version or codings != [b"chunked"]
    if not lengths:
        return False, False
    if len(set(lengths)) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        words = {word.strip(b" \t") for value in lengths for word in value.split(b",")}
        # §6.3: a list of the same number may be read as that number.
        if len(words) > 1 or re.fullmatch(rb"[0-9]+", next(iter(words))) is None:
            raise _Malformed
        return True, True
    return int(lengths[0]) > 0, len(lengths) > 1


def _list_of(fields: Fields, name: bytes) -> list[bytes]:
    """RFC 9110 §5.6.1: the elements of a list, over all lines, without empty ones."""
    words = [word.strip(b" \t") for value in _values_of(fields, name) for word in value.split(b",")]
    return [word for word in words if word]


def _values_of(fields: Fields, name: bytes) -> list[bytes]:
    return [value for field, value in fields if field.lower() == name]
