from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_auth.adapters.pylon.api import PylonUnreachable
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.domain.errors import RegistryAnswerInvalid
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.server import fingerprint_of
from nexus_auth.entrypoints import calling, exit_codes
from nexus_auth.entrypoints.cli import main
from nexus_auth.entrypoints.demo.certificates import save_self_made
from tests.builders import a_hotkey, a_key, public_bytes

ALICE = str(a_hotkey())
PIN = fingerprint_of(public_bytes(a_key()))


class _Chain:
    """What Pylon answers, what it was asked, and what was sent to servers."""

    def __init__(self) -> None:
        self.keys: dict[Hotkey, bytes] = {a_hotkey(): public_bytes(a_key())}
        self.place: Place | None = Place(ip="192.0.2.7", port=8443)
        self.problem: Exception | None = None
        self.asked: list[str] = []
        self.sent: list[tuple[calling.Order, httpx.URL]] = []

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        self.asked.append("key")
        if self.problem is not None:
            raise self.problem
        return self.keys.get(hotkey)

    async def fetch_place(self, _: Hotkey) -> Place | None:
        self.asked.append("place")
        return self.place


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Chain:
    """A chain on which alice has her key, and a pair in ./certs; nothing is sent anywhere."""
    monkeypatch.chdir(tmp_path)
    save_self_made(tmp_path / "certs", hotkey=a_hotkey("validator"))
    chain = _Chain()
    monkeypatch.setattr(PylonClient, "fetch_key", lambda _, hotkey: chain.fetch_key(hotkey))
    monkeypatch.setattr(PylonClient, "fetch_place", lambda _, hotkey: chain.fetch_place(hotkey))

    def send(order: calling.Order, url: httpx.URL, **_: Any) -> None:
        chain.sent.append((order, url))

    monkeypatch.setattr(calling, "send", send)
    return chain


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ([ALICE], "https://192.0.2.7:8443/"),
        ([ALICE, "/v1/x?y"], "https://192.0.2.7:8443/v1/x?y"),
        ([ALICE, "-v", "-X", "PUT", "/v1"], "https://192.0.2.7:8443/v1"),
        (["--max-time", "9", ALICE, "--fail", "/v1", "-i"], "https://192.0.2.7:8443/v1"),
        ([ALICE, "https://example.com:1/x"], "https://example.com:1/x"),
    ],
)
def test_flags_may_stand_anywhere(chain: _Chain, arguments: list[str], url: str) -> None:
    """As with curl: the URL need not follow the hotkey at once."""
    assert main(["call", *arguments]) == exit_codes.DONE
    assert [str(sent) for _, sent in chain.sent] == [url]
    assert chain.asked == (["key"] if "example" in url else ["key", "place"])


def test_axon_of_ipv6_is_written_in_brackets(chain: _Chain) -> None:
    """RFC 3986 §3.2.2."""
    chain.place = Place(ip="2001:db8::7", port=1)
    assert main(["call", ALICE, "/x"]) == exit_codes.DONE
    assert str(chain.sent[0][1]) == "https://[2001:db8::7]:1/x"


@pytest.mark.parametrize(
    "place",
    [None, Place(ip="192.0.2.7", port=0), Place(ip="0.0.0.0", port=1), Place(ip="::", port=1)],  # noqa: S104 - an axon that was never served
)
def test_hotkey_without_an_axon_is_named_with_the_remedy(
    chain: _Chain, capsys: pytest.CaptureFixture[str], place: Place | None
) -> None:
    """Nothing is sent; the message has the command that works."""
    chain.place = place
    assert main(["call", ALICE, "/x"]) == exit_codes.FAILED
    assert f"nexus-auth call {ALICE} https://HOST:PORT/x" in capsys.readouterr().err
    assert chain.sent == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["5F"], "HOTKEY: not an SS58 address"),
        ([ALICE, "http://example.com/"], "http shows the request to all on the way"),
        ([ALICE, "example.com"], "expected https://HOST:PORT/PATH"),
        ([ALICE, "//example.com/"], "expected https://HOST:PORT/PATH"),
        ([ALICE, "https://"], "expected https://HOST:PORT/PATH"),
        ([ALICE, "https://a:b/"], "expected https://HOST:PORT/PATH"),
        ([ALICE, f"https://{'a' * 64}/"], "expected https://HOST:PORT/PATH"),
        ([ALICE, "https://example.com:0/"], "expected https://HOST:PORT/PATH"),
        ([ALICE, "https://me:secret@example.com/"], "names and passwords do not belong"),
        ([ALICE, "-X", "G T"], "-X: expected a method"),
        ([ALICE, "-H", "Nonsense"], "-H: expected 'Name: value'"),
        ([ALICE, "-H", "A: secret\r\nB: c"], "-H: expected 'Name: value'"),
        ([ALICE, "-H", "A:"], "-H: expected 'Name: value'"),
        ([ALICE, "-max-time", "-1"], "-max-time: '-1': expected seconds"),
        ([ALICE, "-max-time", "nan"], "-max-time: 'nan': expected seconds"),
        (["-pin", ALICE, "/x"], "-pin: calls no server; leave out URL"),
        ([ALICE, "-certs", "missing"], "there is no 'missing/client.crt'"),
    ],
)
def test_wrong_usage_is_found_before_anything_is_asked(
    chain: _Chain, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Exit code 2, one line, and no secret in it."""
    assert main(["call", *arguments]) == exit_codes.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert "secret" not in shown.err
    assert (chain.asked, chain.sent) == ([], [])


def test_data_is_given_once(chain: _Chain, capsys: pytest.CaptureFixture[str]) -> None:
    """The first would be lost; curl joins them, which is meant for forms."""
    with pytest.raises(SystemExit) as caught:
        main(["call", ALICE, "-d", "a", "-d", "b"])
    assert caught.value.code == exit_codes.USAGE
    assert "once" in capsys.readouterr().err
    assert chain.asked == []


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (PylonUnreachable("Pylon is away"), exit_codes.UNREACHABLE),
        (RegistryAnswerInvalid("Pylon talks nonsense"), exit_codes.UNREACHABLE),
        (None, exit_codes.FAILED),
    ],
)
def test_hotkey_without_a_known_key_is_not_called(
    chain: _Chain, capsys: pytest.CaptureFixture[str], problem: Exception | None, code: int
) -> None:
    """What is not known is exit code 3; that there is none is exit code 1."""
    chain.problem = problem
    chain.keys.clear()
    assert main(["call", ALICE]) == code
    assert (str(problem) if problem else "no key is registered") in capsys.readouterr().err
    assert chain.sent == []


def test_pin_needs_neither_pair_nor_server(
    chain: _Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fingerprint alone is printed, for `curl --pinnedpubkey`."""
    assert main(["call", "-pin", ALICE, "-certs", "missing"]) == exit_codes.DONE
    assert capsys.readouterr().out == f"{PIN}\n"
    assert chain.asked == ["key"]
    assert main(["call", "-pin", "-json", ALICE]) == exit_codes.DONE
    assert json.loads(capsys.readouterr().out)["expected"] == PIN
    assert chain.sent == []


def test_document_says_what_failed(chain: _Chain, capsys: pytest.CaptureFixture[str]) -> None:
    """One document in any case, and the line on standard error beside it."""
    chain.problem = PylonUnreachable("Pylon is away")
    assert main(["call", "-json", ALICE]) == exit_codes.UNREACHABLE
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert (document["hotkey"], document["caller"]) == (ALICE, str(a_hotkey("validator")))
    assert document["error"] == "Pylon is away"
    assert document["status"] is None
    assert shown.err == "nexus-auth: Pylon is away\n"
