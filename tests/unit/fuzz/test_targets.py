"""The fuzz targets as plain tests: their seeds and findings, and that they notice what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

import fuzz
from fuzz import certificates, headers, heads, people, policies, pylon, records, xfcc
from fuzz.promises import PropertyBroken
from fuzz.targets import CORPUS, Target, load_target
from nexus_auth.adapters.chain import storage
from nexus_auth.adapters.headers.formats import FORMATS, der_from_xfcc
from nexus_auth.adapters.headers.names import CertificateFormat
from nexus_auth.adapters.starlette.auth_app import FastPath
from nexus_auth.adapters.starlette.gate import Claim
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Decision, Granted
from nexus_auth.domain.policy import ADMIT_REGISTERED, PolicySet
from nexus_auth.domain.ports import Headers, KeyMap
from nexus_auth.domain.verifier import CertificateVerifier
from tests.builders import NOW, a_hotkey
from tests.fakes import FakeClock, FakeRegistry


@pytest.fixture(scope="module", autouse=True)
def _one_loop() -> Iterator[None]:
    """The loop of the targets ends with these tests."""
    yield
    people.close_event_loop()


def check_all(target: Target) -> None:
    """Runs a target on all its seeds."""
    for seed in target.seeds.values():
        target.check(seed)


@pytest.mark.parametrize("name", fuzz.NAMES)
def test_every_seed_and_every_finding_keeps_the_promises(name: str) -> None:
    """What the fuzzer begins with, and what it found before, without the fuzzer."""
    target = load_target(name)
    assert target.seeds
    assert all(len(seed) <= target.max_bytes for seed in target.seeds.values())
    check_all(target)


@pytest.mark.parametrize("name", fuzz.NAMES)
def test_cut_seeds_keep_the_promises(name: str) -> None:
    """The beginnings of every seed: the cheapest of what a fuzzer does."""
    target = load_target(name)
    for seed in target.seeds.values():
        for parts in range(1, 8):
            target.check(seed[: len(seed) * parts // 8])


def test_corpus_holds_inputs_of_targets_alone() -> None:
    """A folder of another name would never be read."""
    assert {path.name for path in CORPUS.iterdir()} <= set(fuzz.NAMES)


class GrantsEverything(CertificateVerifier):
    """A verifier with the worst of all defects."""

    async def verify(self, *_: object, **__: object) -> Decision:
        return Granted(hotkey=a_hotkey(), fingerprint="", expires_at=NOW)


def lenient_base64(header: bytes) -> bytes:
    """A reader that takes what it can get."""
    return FORMATS[CertificateFormat.BASE64_DER](header.split(b",")[0])


def break_certificates(patch: pytest.MonkeyPatch) -> None:
    """Everything is granted."""
    broken = GrantsEverything(registry=FakeRegistry(), clock=FakeClock())
    patch.setattr(certificates, "a_verifier", lambda: broken)


def break_certificate_errors(patch: pytest.MonkeyPatch) -> None:
    """An exception that is not ours."""

    def fail(_: bytes) -> None:
        raise IndexError

    patch.setattr(ClientCertificate, "from_der", fail)


def break_headers(patch: pytest.MonkeyPatch) -> None:
    """A second spelling is read."""
    broken = dict(FORMATS) | {CertificateFormat.BASE64_DER: lenient_base64}
    patch.setattr(headers, "FORMATS", broken)


def break_xfcc(patch: pytest.MonkeyPatch) -> None:
    """The first element counts instead of the last."""
    patch.setattr(xfcc, "der_from_xfcc", lambda header: der_from_xfcc(header.split(b",")[0]))


def break_heads(patch: pytest.MonkeyPatch) -> None:
    """The last of several certificate headers counts."""
    honest: FastPath = heads._app.fast_path

    def read(fields: Headers) -> Claim | None:
        return honest.read(tuple({name.lower(): value for name, value in fields}.items()))

    broken = replace(honest, read=read)

    class App:
        fast_path = broken

    patch.setattr(heads, "_app", App)


def break_answers(patch: pytest.MonkeyPatch) -> None:
    """The key of one hotkey is given for another."""

    async def fetch_keys() -> KeyMap:
        return KeyMap(keys={a_hotkey("mallory"): people.REGISTERED[people.ALICE]}, rejected=0)

    patch.setattr(pylon, "_CALLS", (fetch_keys, *pylon._CALLS[1:]))


def break_chain(patch: pytest.MonkeyPatch) -> None:
    """A key is taken out of a value, whatever the algorithm."""
    patch.setattr(storage, "parse_certificate", lambda value: value[1:-1])


def break_records(patch: pytest.MonkeyPatch) -> None:
    """A seal is not looked at."""
    unsealed = records._UNSEALED
    patch.setattr(records, "_OURS", unsealed)


def break_policies(patch: pytest.MonkeyPatch) -> None:
    """A file says nothing."""
    patch.setattr(policies, "parse_policies", lambda _: PolicySet.of(ADMIT_REGISTERED))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("certificates", break_certificates),
        ("certificates", break_certificate_errors),
        ("headers", break_headers),
        ("xfcc", break_xfcc),
        ("heads", break_heads),
        ("pylon", break_answers),
        ("chain", break_chain),
        ("records", break_records),
        ("policies", break_policies),
    ],
)
def test_target_notices_a_defect(
    name: str, spoil: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No target is a rubber stamp: with a defect in the code under test, some seed fails."""
    target = load_target(name)
    spoil(monkeypatch)
    with pytest.raises((PropertyBroken, IndexError)):
        check_all(target)
