"""The scenarios, in their order: who asks, what must come back, and why."""

from __future__ import annotations

import shutil
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from nexus_auth.adapters.proxies.table import PROXIES
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.entrypoints.demo.people import KeyPair, a_hotkey, save_self_made
from nexus_auth.entrypoints.demo.requests import Answer, fetch_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.entrypoints.demo.reporter import Reporter
    from nexus_auth.entrypoints.demo.stage import Stage

_ROTATION_SECONDS: Final = 20.0
"""How long the old key may live on before the demo calls it a failure; two refreshes and more."""

_CHANGE_SECONDS: Final = 20.0
"""How long a change of the policy, or of what it looks at, may take to count."""

_PAUSE_SECONDS: Final = 0.1
_CERTIFICATE_HEADERS: Final = tuple(proxy.header.name for proxy in PROXIES.values())


class Play:
    """Performs every scenario on a stage and remembers whether all went as they must."""

    def __init__(self, *, stage: Stage, reporter: Reporter) -> None:
        self._stage = stage
        self._reporter = reporter
        self.all_right = True

    def perform(self) -> None:
        """Performs the scenarios in their order."""
        self._registered_caller()
        self._spoofed_headers()
        self._strangers()
        self._rotation()
        self._policy()
        self._without_pylon()

    def _registered_caller(self) -> None:
        self._expect_grant(
            "registered caller, its own certificate",
            self._ask(self._stage.caller_pair),
            self._named,
        )

    def _spoofed_headers(self) -> None:
        caller, miner = self._stage.caller_pair, self._stage.miner
        self._expect_grant(
            f"  also claiming X-Hotkey {_short(miner)}",
            self._ask(caller, {"X-Hotkey": miner.address}),
            f"replaced: it saw {_short(self._stage.caller)}",
        )
        claimed = self._forged_header(self._stage.miner_pair)
        self._expect_grant(
            "  also sending the miner's in a header",
            self._ask(caller, claimed),
            f"replaced: it saw {_short(self._stage.caller)}",
        )

    @property
    def _named(self) -> str:
        return f"the application saw X-Hotkey {_short(self._stage.caller)}"

    def _forged_header(self, pair: KeyPair) -> dict[str, str]:
        """The header in which the proxy passes a certificate on, as a caller may send it too."""
        header = PROXIES[self._stage.proxy.name].header
        pem = quote(pair.certificate.read_text(), safe="")
        return {header.name: f'Cert="{pem}"' if header.format == "xfcc" else pem}

    def _strangers(self) -> None:
        stage = self._stage
        stranger = save_self_made(stage.directory / "stranger", hotkey=a_hotkey("stranger"))
        self._expect_denial(
            "stranger, a certificate of its own",
            DenialReason.NOT_REGISTERED,
            "unknown on the chain",
            client=stranger,
        )
        self._expect_denial(
            "no certificate",
            DenialReason.NO_CERTIFICATE,
            "nothing proves who it is",
            client=None,
        )
        self._expect_denial(
            "  the caller's certificate in a header",
            DenialReason.NO_CERTIFICATE,
            "only what TLS proved counts",
            client=None,
            headers=self._forged_header(stage.caller_pair),
        )
        impostor = save_self_made(stage.directory / "impostor", hotkey=stage.caller)
        self._expect_denial(
            "impostor, caller's hotkey, its own key",
            DenialReason.KEY_MISMATCH,
            "another key is registered",
            client=impostor,
        )

    def _rotation(self) -> None:
        stage = self._stage
        old = stage.directory / "validator-before"
        shutil.copytree(stage.directory / "validator", old)
        stage.generate("validator", "-force-recreate")
        begun = time.monotonic()
        client = KeyPair.in_directory(old)
        while time.monotonic() - begun < _ROTATION_SECONDS:
            if self._ask(client).status != HTTPStatus.OK:
                break
            time.sleep(_PAUSE_SECONDS)
        self._expect_denial(
            "key rotated: the old certificate",
            DenialReason.KEY_MISMATCH,
            f"refused {time.monotonic() - begun:.1f} s after the new key",
            client=client,
        )
        self._expect_grant(
            "key rotated: the new certificate",
            self._ask(stage.caller_pair),
            self._named,
        )

    def _policy(self) -> None:
        stage = self._stage
        stage.admit("require_validator_permit = true")
        self._wait_for_status(HTTPStatus.FORBIDDEN)
        self._expect_denial(
            "policy, validators only: no permit yet",
            DenialReason.NOT_PERMITTED,
            "the log says which rule",
            client=stage.caller_pair,
        )
        stage.permit_caller()
        self._wait_for_status(HTTPStatus.OK)
        self._expect_grant(
            "policy, validators only: with a permit", self._ask(stage.caller_pair), self._named
        )

    def _wait_for_status(self, status: HTTPStatus) -> None:
        """Waits until the caller's own certificate gets this answer, or long enough to report."""
        begun = time.monotonic()
        while time.monotonic() - begun < _CHANGE_SECONDS:
            if self._ask(self._stage.caller_pair).status == status:
                break
            time.sleep(_PAUSE_SECONDS)

    def _without_pylon(self) -> None:
        self._stage.stop_pylon()
        self._expect_grant(
            "Pylon stopped: the caller again",
            self._ask(self._stage.caller_pair),
            "what is known stays good for 15 minutes",
        )

    def _ask(self, client: KeyPair | None, headers: Mapping[str, str] | None = None) -> Answer:
        return fetch_answer(
            self._stage.port,
            server_certificate=self._stage.server_pair.certificate,
            client=client,
            headers=headers,
        )

    def _expect_grant(self, asked: str, answer: Answer, why: str) -> None:
        """A grant is right when the application was reached and saw this one name alone."""
        problem = ""
        if answer.status != HTTPStatus.OK:
            problem = "expected 200"
        elif answer.seen is None:
            problem = "the answer is not the application's"
        elif answer.seen_values("X-Hotkey") != [self._stage.caller.address]:
            problem = f"the application saw X-Hotkey: {answer.seen_values('X-Hotkey')}"
        elif any(answer.seen_values(name) for name in _CERTIFICATE_HEADERS):
            problem = "a certificate header reached the application"
        self._report(asked, answer, why, problem)

    def _expect_denial(
        self,
        asked: str,
        reason: DenialReason,
        why: str,
        *,
        client: KeyPair | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A denial is right when it has the right reason and the application was not reached."""
        reached = self._stage.backend.requests
        answer = self._ask(client, headers)
        problem = ""
        if answer.status != HTTPStatus.FORBIDDEN:
            problem = "expected 403"
        elif self._stage.backend.requests != reached:
            problem = "the application was reached"
        elif answer.reason != reason.value:
            problem = f"expected {reason.value}, the reason is {answer.reason}"
        self._report(asked, answer, f"{reason.value}: {why}", problem)

    def _report(self, asked: str, answer: Answer, why: str, problem: str) -> None:
        self.all_right = self.all_right and not problem
        self._reporter.scenario(
            is_right=not problem, status=answer.status, asked=asked, why=problem or why
        )


def _short(hotkey: Hotkey) -> str:
    """A hotkey as people recognise it."""
    return f"{hotkey.address[:6]}...{hotkey.address[-4:]}"
