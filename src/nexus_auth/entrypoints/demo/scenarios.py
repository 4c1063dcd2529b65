"""The scenarios, in their order: who makes a request, what must come back, and why."""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import httpx

from nexus_auth.adapters.headers.names import HOTKEY_HEADER, REASON_HEADER
from nexus_auth.adapters.proxies.table import PROXIES
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints.demo.environment import Environment
from nexus_auth.entrypoints.demo.processes import LOOPBACK, DemoFailed
from nexus_auth.entrypoints.reporter import Reporter
from nexus_auth.entrypoints.terminal import painted

_CHANGE_SECONDS: Final = 20.0
"""How long a change may take to count before the demo calls it a failure; some refreshes."""

_PAUSE_SECONDS: Final = 0.1
_TIMEOUT_SECONDS: Final = 15.0
_LINE_COLUMNS: Final = 38


@dataclass(frozen=True, slots=True)
class Scenario:
    """One request, and the answer that it must get.

    Attributes:
        line: What is shown of the request.
        why: Why its answer is right. Both may name `{caller}` and `{miner}`; this one also
            `{seconds}`, the time since the change.
        reason: Why access must be denied; None where it must be granted.
        pair: Which certificate the caller shows; None for none.
        claimed_hotkey: Whether the caller also sends X-Hotkey, with the miner's.
        claimed_pair: Whose certificate the caller also sends, in the proxy's own header.
        change: What is done before. The request is then repeated until its answer is right, or
            the time for that has passed.
    """

    line: str
    why: str
    reason: DenialReason | None = None
    pair: str | None = "validator"
    claimed_hotkey: bool = False
    claimed_pair: str | None = None
    change: Callable[[Environment], None] | None = None


_NAMED: Final = "the application saw X-Hotkey {caller}"
_REPLACED: Final = "replaced: it saw {caller}"

SCENARIOS: Final = (
    Scenario("registered caller, its own certificate", _NAMED),
    Scenario("  also claiming X-Hotkey {miner}", _REPLACED, claimed_hotkey=True),
    Scenario("  also sending the miner's in a header", _REPLACED, claimed_pair="miner"),
    Scenario(
        "stranger, a certificate of its own",
        "unknown on the chain",
        DenialReason.NOT_REGISTERED,
        pair="stranger",
    ),
    Scenario("no certificate", "nothing proves who it is", DenialReason.NO_CERTIFICATE, pair=None),
    Scenario(
        "  the caller's certificate in a header",
        "only what TLS proved counts",
        DenialReason.NO_CERTIFICATE,
        pair=None,
        claimed_pair="validator",
    ),
    Scenario(
        "impostor, caller's hotkey, its own key",
        "another key is registered",
        DenialReason.KEY_MISMATCH,
        pair="impostor",
    ),
    Scenario(
        "key rotated: the old certificate",
        "refused {seconds:.1f} s after the new key",
        DenialReason.KEY_MISMATCH,
        pair="validator-before",
        change=Environment.rotate_key,
    ),
    Scenario("key rotated: the new certificate", _NAMED),
    Scenario(
        "policy, validators only: no permit yet",
        "the log says which rule",
        DenialReason.NOT_PERMITTED,
        change=Environment.admit_validators_only,
    ),
    Scenario("policy, validators only: with a permit", _NAMED, change=Environment.permit_caller),
    Scenario(
        "Pylon stopped: the caller again",
        "what is known stays good for 15 minutes",
        change=Environment.stop_pylon,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a caller got, and what the application behind the proxy saw of the request.

    Attributes:
        status: The HTTP status.
        reason: Why access was denied, as the auth service says it; None where it says nothing.
        seen: The headers that the application saw; None when it was not reached.
    """

    status: int
    reason: str | None
    seen: Message | None


def run_scenarios(running: Environment, reporter: Reporter) -> bool:
    """Runs the scenarios in their order, shows each, and returns whether all went right.

    A line tells what was requested, what came back, and why that is right, or what is wrong.
    """
    names = {"caller": _short(running.caller), "miner": _short(running.miner)}
    all_right = True
    for scenario in SCENARIOS:
        answer, problem, seconds = _answer_to(scenario, running)
        why = scenario.why.format(seconds=seconds, **names)
        if scenario.reason is not None:
            why = f"{scenario.reason}: {why}"
        status = painted(f"{answer.status}", "bold", sys.stdout)
        text = f"{status}  {scenario.line.format(**names):<{_LINE_COLUMNS}}"
        reporter.check(text, problem or why, is_right=not problem)
        all_right = all_right and not problem
    return all_right


def _answer_to(scenario: Scenario, running: Environment) -> tuple[Answer, str, float]:
    """The answer, what is wrong with it, and how many seconds after the change it came."""
    patience = 0.0
    if scenario.change is not None:
        scenario.change(running)
        patience = _CHANGE_SECONDS
    begun = time.monotonic()
    while True:
        answer = _fetch_answer(scenario, running)
        problem = problem_of(answer, scenario, caller=running.caller)
        seconds = time.monotonic() - begun
        if not problem or seconds > patience:
            return answer, problem, seconds
        time.sleep(_PAUSE_SECONDS)


def problem_of(answer: Answer, scenario: Scenario, *, caller: Hotkey) -> str:
    """What is wrong with an answer, or nothing.

    A grant is right when the application was reached and saw the caller's name alone. A denial is
    right when it has the right reason and the application was not reached.
    """
    status = HTTPStatus.OK if scenario.reason is None else HTTPStatus.FORBIDDEN
    if answer.status != status:
        return f"expected {status}"
    if scenario.reason is not None:
        if answer.seen is not None:
            return "the application was reached"
        right = answer.reason == scenario.reason
        return "" if right else f"expected {scenario.reason}, the reason is {answer.reason}"
    if answer.seen is None:
        return "the answer is not the application's"
    hotkeys = answer.seen.get_all(HOTKEY_HEADER, [])
    if hotkeys != [caller.address]:
        return f"the application saw X-Hotkey: {hotkeys}"
    leaked = any(proxy.header.name in answer.seen for proxy in PROXIES.values())
    return "a certificate header reached the application" if leaked else ""


def _fetch_answer(scenario: Scenario, running: Environment) -> Answer:
    """Makes the request of a scenario over mutual TLS, on a connection of its own.

    Raises:
        DemoFailed: When there is no answer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the pin says more: this certificate and no other
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(running.server_pair.certificate_path)
    if scenario.pair is not None:
        client = running.pair(scenario.pair)
        context.load_cert_chain(client.certificate_path, client.key_path)
    claims = {HOTKEY_HEADER: running.miner.address} if scenario.claimed_hotkey else {}
    if scenario.claimed_pair is not None:
        header = PROXIES[running.proxy.name].header
        pem = quote(running.pair(scenario.claimed_pair).certificate_path.read_text(), safe="")
        claims[header.name] = f'Cert="{pem}"' if header.format == "xfcc" else pem
    before = running.backend.requests
    url = f"https://{LOOPBACK}:{running.port}/hello"
    try:
        response = httpx.get(
            url, headers=claims, verify=context, timeout=_TIMEOUT_SECONDS, trust_env=False
        )
    except httpx.HTTPError as exc:
        raise DemoFailed(f"the proxy did not answer: {type(exc).__name__}: {exc}") from exc
    return Answer(
        status=response.status_code,
        reason=response.headers.get(REASON_HEADER),
        seen=running.backend.received if running.backend.requests != before else None,
    )


def _short(hotkey: Hotkey) -> str:
    """A hotkey as it is recognised at a glance."""
    return f"{hotkey.address[:6]}...{hotkey.address[-4:]}"
