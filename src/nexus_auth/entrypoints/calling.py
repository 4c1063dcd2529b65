"""One request to the server of a hotkey, whose key is known; the answer is passed on as it comes.

Synchronous throughout: signals end it at any moment, also where the reader of the output, the disk
or standard input makes it wait.
"""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import ssl
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, Self

import httpx

from nexus_auth import __version__
from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.headers.names import REASON_HEADER
from nexus_auth.adapters.tls.context import PinnedContext
from nexus_auth.adapters.tls.sockets import PinnedSocket
from nexus_auth.domain.errors import (
    ConfigurationError,
    NexusAuthError,
    ServerKeyMismatch,
    ServerNotProven,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints.signals import handled_by
from nexus_auth.entrypoints.terminal import escaped

Say = Callable[[str], None]

_CONNECT_SECONDS: Final = 10.0
_PIECE_BYTES: Final = 64 * 1024
_MEMORY_BYTES: Final = 1024 * 1024
"""What is read of a file or of standard input before the request is sent. A body that ends within
it has a length; not every server takes one without."""
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SHOWN_CHARACTERS: Final = 200
_HTTPS_PORT: Final = 443


class StrictContext(PinnedContext):
    """Takes the end of a connection for the end of an answer only where the server says so.

    Otherwise an attacker who cuts it could shorten a body that has no length.
    """

    def wrap_socket(  # type: ignore[override] # the parent's arguments, whatever they are
        self, *args: Any, **options: Any
    ) -> PinnedSocket:
        """As the parent's."""
        options["suppress_ragged_eofs"] = False
        return super().wrap_socket(*args, **options)


class CallFailed(NexusAuthError):
    """No answer came, or none that was wanted."""


@dataclass(slots=True, kw_only=True)
class CallReport:
    """What is known of a call so far. The fields are what `-json` prints; None is not known.

    Attributes:
        hotkey: Who is called.
        caller: The hotkey that the pair names.
        url: What is requested.
        address: The address and port that were connected to.
        tls: The version of TLS.
        expected: The fingerprint of the registered key.
        found: That of the key that the server holds.
        status: The status of the answer.
        headers: The headers of the answer.
        reason: The code with which nexus-auth denied the request.
        body_bytes: How long the body is.
        error: What went wrong.
    """

    hotkey: str
    caller: str | None = None
    url: str | None = None
    address: str | None = None
    tls: str | None = None
    expected: str | None = None
    found: str | None = None
    status: int | None = None
    headers: list[tuple[str, str]] | None = None
    reason: str | None = None
    body_bytes: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, or a path at a hotkey's axon."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses an https URL, or a path.

        Raises:
            ConfigurationError: If it is neither.
        """
        problem = "expected https://HOST:PORT/PATH, or /PATH at the hotkey's axon"
        if text.startswith("http:"):
            problem = "http shows the request to all on the way, and proves no server; use https"
        with suppress(httpx.InvalidURL, UnicodeError):
            url = httpx.URL(text)
            url.host.encode("idna")  # As the resolver does, which takes no label over 63 bytes.
            is_path = text.startswith("/") and not url.host
            if url.userinfo:
                problem = "names and passwords do not belong into the URL; send them with -H"
            elif is_path or (url.scheme == "https" and url.host and url.port != 0):
                return cls(text)
        raise ConfigurationError(setting="URL", problem=problem)

    @property
    def needs_place(self) -> bool:
        """Whether the address is that of the axon."""
        return self.text.startswith("/")

    def url(self, hotkey: Hotkey, place: Place | None) -> httpx.URL:
        """Completes a path.

        Raises:
            CallFailed: If the hotkey has no axon.
        """
        if not self.needs_place:
            return httpx.URL(self.text)
        remedy = f"give the address: nexus-auth call {hotkey} https://HOST:PORT{escaped(self.text)}"
        if place is None:
            raise CallFailed(f"{hotkey} has no place on the subnet, so no axon; {remedy}")
        if not place.port or ipaddress.ip_address(place.ip).is_unspecified:
            raise CallFailed(f"{hotkey} serves no axon that can be called; {remedy}")
        return httpx.URL(f"https://{TcpAddress(place.ip, place.port)}{self.text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is sent, in the words of curl.

    Attributes:
        method: None is GET, or POST where there is data.
        headers: Lines, `Name: value`.
        data: The body, `@FILE` or `@-`; None for no body.
        max_seconds: How long the call may take; 0 is without end.
        fails: Whether an answer of 400 and above is a failure.
        includes_head: Whether the answer's head is written before its body.
    """

    method: str | None = None
    headers: Sequence[str] = ()
    data: str | None = None
    max_seconds: float = 0.0
    fails: bool = False
    includes_head: bool = False
    _fields: httpx.Headers = field(init=False, default_factory=httpx.Headers)

    def __post_init__(self) -> None:
        if self.method is not None and not _TOKEN.fullmatch(self.method):
            raise ConfigurationError(setting="-X", problem="expected a method, such as POST")
        fields = []
        for line in self.headers:
            name, _, value = line.partition(":")
            # The value is not shown: it may be a secret.
            if not _TOKEN.fullmatch(name) or not value.strip() or not value.isprintable():
                raise ConfigurationError(setting="-H", problem="expected 'Name: value', printable")
            fields.append((name.encode(), os.fsencode(value.strip())))
        defaults = {"Accept": "*/*", "User-Agent": f"nexus-auth/{__version__}"}
        if self.data is not None:
            defaults["Content-Type"] = "application/x-www-form-urlencoded"
        own = httpx.Headers(fields)
        added = [(n.encode(), v.encode()) for n, v in defaults.items() if n not in own]
        object.__setattr__(self, "_fields", httpx.Headers([*fields, *added]))

    @contextmanager
    def request_to(self, url: httpx.URL) -> Iterator[httpx.Request]:
        """Makes the request, whose body may be read from a file until the block ends.

        Raises:
            CallFailed: If the file cannot be read.
        """
        method = self.method or ("GET" if self.data is None else "POST")
        if self.data is None or not self.data.startswith("@"):
            content = None if self.data is None else os.fsencode(self.data)
            yield httpx.Request(method, url, headers=self._fields, content=content)
            return
        name = self.data[1:]
        with _opened(name) as file:
            begin = _read(file, _MEMORY_BYTES, name)
            if len(begin) < _MEMORY_BYTES:
                yield httpx.Request(method, url, headers=self._fields, content=begin)
                return
            headers, found = self._fields.copy(), os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode):
                headers["Content-Length"] = str(found.st_size - file.tell() + len(begin))
            yield httpx.Request(method, url, headers=headers, content=_pieces(begin, file, name))


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as exc:
        raise CallFailed(f"cannot read {name!a}: {exc.strerror}") from None


def _read(file: BinaryIO, size: int, name: str) -> bytes:
    try:
        return file.read(size)
    except OSError as exc:
        raise CallFailed(f"cannot read {name!a}: {exc.strerror}") from None


def _pieces(begin: bytes, file: BinaryIO, name: str) -> Iterator[bytes]:
    yield begin
    while piece := _read(file, _PIECE_BYTES, name):
        yield piece


class Output:
    """Where the answer is written: standard output, a file, or nowhere."""

    def __init__(self, file: BinaryIO | None, name: str | None = None) -> None:
        self._file, self._name, self._has_begun = file, name, False

    @classmethod
    @contextmanager
    def opened(cls, name: str | None, *, is_wanted: bool) -> Iterator[Self]:
        """Opens it before anything is sent; a file is left as it is until `write`.

        Args:
            name: The file; None or `-` is standard output.
            is_wanted: Whether anything is written to standard output.
        """
        if name is None or name == "-":
            yield cls(sys.stdout.buffer if is_wanted else None)
            return
        path = Path(name)
        is_new = not path.exists()
        with _explained(name):
            file = path.open("ab", buffering=0)
        output = cls(file, name)
        try:
            yield output
        finally:
            file.close()
            if is_new and not output._has_begun:
                path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Writes all of it now: the next piece may take long to come.

        Raises:
            CallFailed: If it cannot be written to the file.
            OSError: If it cannot be written to standard output.
        """
        if self._file is None:
            return
        if self._name is None:
            self._file.write(data)
            self._file.flush()
            return
        with _explained(self._name):
            if not self._has_begun:
                with suppress(OSError):  # a device or a pipe has no length
                    self._file.truncate(0)
                self._has_begun = True
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise CallFailed(f"cannot write {name!a}: {exc.strerror}") from None


def send(
    order: Order,
    url: httpx.URL,
    *,
    context: StrictContext,
    output: Output,
    report: CallReport,
    say: Say,
    warn: Say,
) -> None:
    """Sends the request, and writes the answer.

    Args:
        order: What to send.
        url: Where to.
        context: Proves the server, and shows the pair.
        output: Where the answer is written.
        report: Is filled.
        say: Shows what happens.
        warn: Shows what an answer means that is none of the application's.

    Raises:
        CallFailed: If the server is not proven, cannot be reached, does not answer, or if the
            order takes its answer for a failure.
    """
    with (
        _ended_after(order.max_seconds),
        order.request_to(url) as request,
        # Not even the environment says where the request goes, or who else is trusted.
        httpx.Client(
            verify=context,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        ) as client,
    ):
        report.url = str(request.url)
        request.extensions["trace"] = partial(_follow, request=request, report=report, say=say)
        try:
            answer = client.send(request, stream=True)
            try:
                _note_head(answer, report, say, warn)
                if order.fails and answer.is_error:
                    raise CallFailed(f"the server answered {_status_of(answer)}")
                if order.includes_head:
                    output.write(_head_of(answer))
                report.body_bytes = 0
                output.write(b"")  # an empty body replaces a file as well
                for piece in answer.iter_raw():
                    output.write(piece)
                    report.body_bytes += len(piece)
            finally:
                answer.close()
        except httpx.HTTPError as exc:
            raise _failure(exc, url, report) from exc


@contextmanager
def _ended_after(limit_seconds: float) -> Iterator[None]:
    """Ends the block with `CallFailed`, wherever it waits; 0 is without end."""

    def end(*_: object) -> NoReturn:
        raise CallFailed(f"not done within {limit_seconds:g} s (-max-time)")

    with handled_by(end, (signal.SIGALRM,)):
        signal.setitimer(signal.ITIMER_REAL, limit_seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _follow(
    event: str, info: Mapping[str, Any], *, request: httpx.Request, report: CallReport, say: Say
) -> None:
    """Takes note of what httpcore does; the names of events are those of its documentation."""
    if event == "connection.connect_tcp.complete":
        host, port = info["return_value"].get_extra_info("server_addr")[:2]
        report.address = str(TcpAddress(host, port))
        say(f"connected  {report.address}")
    elif event == "connection.start_tls.complete":
        report.tls = info["return_value"].get_extra_info("socket").version()
        report.found = report.expected
        say(f"found      {report.found}: the same, {report.tls}")
        say(f"> {request.method} {escaped(request.url.raw_path.decode())}")


def _note_head(answer: httpx.Response, report: CallReport, say: Say, warn: Say) -> None:
    report.status = answer.status_code
    report.headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw
    ]
    say(f"< {_status_of(answer)}")
    for name, value in report.headers:
        line = f"{name}: {value}"
        say(f"< {line if line.isascii() and line.isprintable() else ascii(line)}")
    if answer.status_code == HTTPStatus.FORBIDDEN and REASON_HEADER in answer.headers:
        report.reason = answer.headers[REASON_HEADER]
        warn(f"denied, {_explained_reason(report.reason)}")
    if answer.has_redirect_location:
        warn(f"a redirect, not followed, to {escaped(answer.headers['Location'])}")


def _explained_reason(code: str) -> str:
    with suppress(ValueError):
        reason = DenialReason(code)
        return f"{reason.value}: {reason.explanation}"
    return escaped(code)


def _status_of(answer: httpx.Response) -> str:
    return escaped(f"{answer.status_code} {answer.reason_phrase}".rstrip())


def _head_of(answer: httpx.Response) -> bytes:
    extensions = answer.extensions
    first = b"%s %d %s" % (
        extensions["http_version"],
        answer.status_code,
        extensions["reason_phrase"],
    )
    lines = [first, *(b"%s: %s" % field for field in answer.headers.raw)]
    return b"\r\n".join([*lines, b"", b""])


def _failure(exc: httpx.HTTPError, url: httpx.URL, report: CallReport) -> CallFailed:
    where = report.address or str(TcpAddress(url.host, url.port or _HTTPS_PORT))
    if report.status is not None:
        return CallFailed(f"the answer broke off after {report.body_bytes or 0} bytes")
    words = escaped(str(exc)[:_SHOWN_CHARACTERS])
    if isinstance(exc, httpx.TimeoutException):
        words = f"nothing came within {_CONNECT_SECONDS:g} s"
    refused = ServerNotProven.find(exc)
    if isinstance(refused, ServerKeyMismatch):
        report.found = refused.found
        return CallFailed(
            f"{refused}. No part of the request was sent. Either another machine answers at "
            f"{where}, or the server still shows an older pair, and its owner has to load the one "
            "of the last nexus-auth generate"
        )
    cause: BaseException | None = refused or exc
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and cause.reason:
            words = cause.reason.lower().replace("_", " ")
        elif isinstance(cause, OSError) and cause.strerror:
            words = cause.strerror
        cause = cause.__cause__ or cause.__context__
    what = "answer from" if report.tls else "TLS with" if report.address else "connection with"
    return CallFailed(f"no {what} {where}: {words}")
