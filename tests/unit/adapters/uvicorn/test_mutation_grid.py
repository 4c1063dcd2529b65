"""Special bytes in every kind of place of a request: a strict reader sees each grant as we do."""

from __future__ import annotations

from typing import Final

import pytest

from fuzz import heads, strict_http
from fuzz.people import with_certificates
from nexus_auth.adapters.uvicorn.head_protocol import Shared

SPECIAL: Final = {
    "NUL": b"\0",
    "CR": b"\r",
    "LF": b"\n",
    "CRLF": b"\r\n",
    "TAB": b"\t",
    "space": b" ",
    "DEL": b"\x7f",
    "0x80": b"\x80",
    "0xff": b"\xff",
    "percent": b"%",
    "plus": b"+",
    "comma": b",",
    "quote": b'"',
    "colon": b":",
    "semicolon": b";",
    "equals": b"=",
}

# A bar is a place: the beginning, the middle and the end of each part of a request.
TEMPLATE: Final = (
    b"|GE|T| |/a?b=|c| |HT|TP|/|1|.|1|\r|\n"
    b"|Ho|st|:| |au|th|\r|\n"
    b"|X-Client|-Cert|:| |{alice}|\r|\n"
    b"|X-Request|-ID|:| |r|1|\r|\n|\r|\n|"
)
PARTS: Final = TEMPLATE.split(b"|")
REQUEST: Final = b"".join(PARTS)
SECOND: Final = b"GET /2 HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: {bob}\r\n\r\n"


def grants_of(stream: bytes, cuts: bytes) -> int:
    """How many grants there are, each compared with the strict reader."""
    stream = with_certificates(stream)
    answers = heads.converse(stream, cuts, Shared())
    requests, _ = strict_http.read_requests(stream)
    heads.require_grants_agree(answers, requests)
    return sum(answer.status == heads.GRANTED for answer in answers)


def test_honest_request_is_granted() -> None:
    """The grid begins with a grant, of two callers on one connection."""
    assert grants_of(REQUEST + SECOND, b"") == 2


@pytest.mark.parametrize("special", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("cuts", [b"", b"\xff"], ids=["whole", "cut at line ends"])
def test_special_byte_anywhere_makes_no_other_request(special: bytes, cuts: bytes) -> None:
    """Put in at each place, and instead of what stands behind it; a second request follows."""
    denials = 0
    for place in range(1, len(PARTS)):
        before, behind = b"".join(PARTS[:place]), b"".join(PARTS[place:])
        for changed in (before + special + behind, before + special + behind[1:]):
            denials += grants_of(changed + SECOND, cuts) < 2
    assert denials > 0


def test_special_bytes_within_the_certificate_are_denied() -> None:
    """In the middle of the value, where the parser of heads has little to object.

    A space within PEM means nothing, and stands in the value that the strict reader sees.
    """
    head, value, rest = with_certificates(REQUEST).partition(with_certificates(b"{alice}"))
    granted = {
        name
        for name, special in SPECIAL.items()
        if grants_of(head + value[:400] + special + value[400:] + rest, b"")
    }
    assert granted == {"space"}
