"""Makes the worst that each parser of outside data can be given, within its bound of bytes.

    python -m tests.integration.bounds.worst_cases neurons 16000000

parses all of them one after the other, with so many bytes of address space beyond what the process
has before: an allocation beyond that is a MemoryError, and ends it.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nexus_auth.adapters.clock import Clocks
from nexus_auth.adapters.policy.parsing import MAX_FILE_BYTES, parse_policies
from nexus_auth.adapters.pylon import answers
from nexus_auth.adapters.pylon.client import (
    MAX_CERTIFICATES_BYTES,
    MAX_NEURONS_BYTES,
    MAX_SINGLE_BYTES,
)
from nexus_auth.adapters.store.record import MAX_RECORD_BYTES, RecordFormat
from nexus_auth.domain.errors import NexusAuthError
from tests.builders import NOW, a_hotkey

_HOTKEYS: Final = [a_hotkey(str(number)).address.encode() for number in range(20_000)]
_KEY: Final = b'"' + b"ab" * 32 + b'"'
_NEURON: Final = (
    b'{"uid":1,"validator_permit":true,"active":true,"alpha":1,"tao":1,"total":1,'
    b'"stakes":{"alpha":1,"tao":1,"total":1}}'
)


def _joined(entries: Iterable[bytes], room: int) -> bytes:
    """As many entries as fit, with commas between them. Takes no memory beside the result."""
    joined = bytearray()
    for entry in entries:
        if len(joined) + len(entry) + 1 > room:
            break
        joined += b"," if joined else b""
        joined += entry
    return bytes(joined)


def _repeated(entry: bytes, room: int) -> bytes:
    return (entry + b",") * ((room - 1) // (len(entry) + 1) - 1) + entry


def values(room: int) -> Iterator[bytes]:
    """JSON values of so many bytes that are small to send and large to build."""
    texts = [b"1", b'""', b'"\\n"', b"0.5", b"1e9", b"null", b"12345678901"]
    for depth in (1, 2, 60, 900):
        texts += [b"[" * depth + b"]" * depth, b'{"":' * depth + b"1" + b"}" * depth]
    for text in texts:
        yield b"[%s]" % _repeated(text, room - 2)
    for pattern in (b'"%x":1', b'"\\n%x":{}'):
        yield b"{%s}" % _joined((pattern % number for number in range(room)), room - 2)
    yield b"{%s}" % _repeated(b'"":1', room - 2)
    for unit in (b"x", b"\\n", b"\\u00e9", b"\\ud83d\\ude00", "é".encode(), "😀".encode()):
        yield b'"' + unit * ((room - 2) // len(unit)) + b'"'
    # One character has the whole text take four bytes for each of them; as a name too.
    yield b'"' + b"x" * (room - 6) + "😀".encode() + b'"'
    yield b'{"' + b"x" * (room - 10) + "😀".encode() + b'":1}'
    yield b"1" * room
    yield b"0." + b"1" * (room - 2)
    yield b"1e" + b"9" * (room - 2)
    yield b" " * (room - 1) + b"1"
    yield b"[" * room


def documents(room: int, *wrappers: bytes) -> Iterator[bytes]:
    """Such values of so many bytes, each where an answer has something that is read."""
    for wrapper in (b"%s", *wrappers):
        for value in values(room - len(wrapper)):
            yield wrapper % value


def maps(room: int, wrapper: bytes, good: bytes) -> Iterator[bytes]:
    """Maps of so many bytes: of values, and of as many entries as there may be."""
    yield from documents(room, wrapper, wrapper % (b'{"%s":%%s}' % _HOTKEYS[0]))
    for count in (answers.MAX_ENTRIES, answers.MAX_ENTRIES + 1):
        numbered = _joined((b'"%x":1' % number for number in range(count)), room)
        yield wrapper % (b"{%s}" % numbered)
    for entry in (good, *values(answers.MAX_ENTRY_BYTES)):
        entries = _joined((b'"%s":%s' % (each, entry) for each in _HOTKEYS), room - 100)
        yield wrapper % (b"{%s}" % entries)


def contents(room: int) -> Iterator[bytes]:
    """Contents of records."""
    frame = (
        b'{"scope":"a subnet","said_at":"%s","boot":{"id":null,"seconds":1},"keys":{%%s},'
        b'"neurons":{%%s}}' % NOW.isoformat().encode()
    )
    yield from documents(room, b'{"scope":%s}', b'{"scope":"x","keys":%s}')
    room -= len(frame)
    for names in (_HOTKEYS, [b"%048d" % number for number in range(len(_HOTKEYS))]):
        yield frame % (_joined((b'"%s":%s' % (each, _KEY) for each in names), room), b"")
        yield frame % (b"", _joined((b'"%s":%s' % (each, _NEURON) for each in names), room))


def policies(room: int) -> Iterator[bytes]:
    """Policies in TOML."""
    for unit in (b"[],", b"1,", b"{},", b"{b=1},", b'"",', b"0.5,", b"1979-05-27,"):
        yield b"a=[" + unit * ((room - 4) // len(unit)) + b"]"
    for count in (4000, room):
        for pattern in (
            b"[%x]\n",
            b"[[%x]]\n",
            b"%x.b=1\n",
            b"%x=1\n",
            b"[a.%x.b]\n",
            b'"%x"=""\n',
        ):
            lines = bytearray()
            for number in range(count):
                lines += pattern % number
            yield bytes(lines)
    for depth in (10, 60, 400, room // 2 - 1):
        key = (b"a." * depth)[:-1]
        for count in (4000 // depth or 1, room // (len(key) + 8) or 1):
            yield b"".join(b"[a%x.%s]\n" % (number, key) for number in range(count))
            yield b"".join(b"a%x.%s=1\n" % (number, key) for number in range(count))
        yield b"a={" + key + b"=1}"
        yield b"a=" + b"[" * depth + b"]" * depth
    for digits in (9_000, room - 8):
        for start in (b"1", b"0.", b"0x1", b"1_", b"1e"):
            yield b"a=" + start + b"1" * digits
    for unit in (b"x", b"#", b"\\n", b"\\u00e9", "é".encode()):
        yield b'a="' + unit * ((room - 8) // len(unit)) + b'"'
    yield b"\n" * room
    yield b"#" * room
    listed = _joined((b'"%s"' % each for each in _HOTKEYS), room - 50)
    yield b'default="a"\n[policies.a]\nallow=[%s]' % listed


@dataclass(frozen=True)
class Parser:
    """What reads bytes from outside.

    Attributes:
        limit: How many bytes it is given at most.
        parse: Reads them.
        make: Makes the worst of them.
    """

    limit: int
    parse: Callable[[bytes], object]
    make: Callable[[int], Iterator[bytes]]


def _finish(coroutine: Coroutine[Any, Any, object]) -> None:
    """Runs a parser that lets other tasks run in between."""
    with suppress(StopIteration):
        while True:
            coroutine.send(None)


def _record_parser(*, secret: bytes | None) -> Callable[[bytes], object]:
    clocks = Clocks(lambda: NOW, lambda: 1000.0)
    reader = RecordFormat(scope="a subnet", secret=secret, clocks=clocks, boot_id=None)
    return lambda content: reader.parse(b"nexus-auth snapshot 2 -\n" + content)


def _parse_policies(body: bytes) -> None:
    parse_policies(body.decode("utf-8", "ignore"))


def _load_greedily(body: bytes) -> None:
    with suppress(ValueError):
        json.loads(body)


PARSERS: Final = {
    "certificates": Parser(
        MAX_CERTIFICATES_BYTES,
        lambda body: _finish(answers.parse_certificates(body)),
        lambda room: maps(room, b"%s", b'{"algorithm":1,"public_key":%s}' % _KEY),
    ),
    "neurons": Parser(
        MAX_NEURONS_BYTES,
        lambda body: _finish(answers.parse_neurons(body)),
        lambda room: maps(room, b'{"neurons":%s}', _NEURON),
    ),
    "key pair": Parser(
        MAX_SINGLE_BYTES,
        answers.parse_key_pair,
        lambda room: documents(
            room,
            b'{"algorithm":%s}',
            b'{"algorithm":1,"public_key":%s}',
            b'{"algorithm":1,"public_key":%s,"private_key":%%s}' % _KEY,
        ),
    ),
    "error": Parser(
        MAX_SINGLE_BYTES, answers.parse_detail, lambda room: documents(room, b'{"detail":%s}')
    ),
    "unsealed record": Parser(MAX_RECORD_BYTES - 24, _record_parser(secret=None), contents),
    "forged record": Parser(MAX_RECORD_BYTES - 24, _record_parser(secret=b"secret"), contents),
    "policy": Parser(MAX_FILE_BYTES, _parse_policies, policies),
    # What shows that too much is noticed.
    "greedy": Parser(MAX_RECORD_BYTES, _load_greedily, documents),
}


def _address_space_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    return int(pages) * resource.getpagesize()


def main(name: str, room: int) -> None:
    """Has one parser read the worst."""
    parser = PARSERS[name]
    # What is loaded only when it is used is loaded before the limit counts.
    with suppress(NexusAuthError):
        parser.parse(b"{}")
    count = 0
    for made in parser.make(parser.limit):
        body = made[: parser.limit]
        del made
        gc.collect()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space_bytes() + room, hard))
        try:
            with suppress(NexusAuthError):
                parser.parse(body)
        except MemoryError:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            sys.exit(f"{name}: {len(body)} bytes, {body[:60]!r}...: more than {room} bytes")
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        count += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report: dict[str, Any] = {"cases": count, "resident_peak_bytes": peak}
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
