"""Checks Pylon: it answers, takes our token, knows the subnet, and its clock agrees."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from nexus_auth.adapters.bounded_http import trusted_servers
from nexus_auth.adapters.pylon import api
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.domain.errors import BulkNotOffered, RegistryError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.ports import KeyMap
from nexus_auth.entrypoints.container import Container, build_container
from nexus_auth.entrypoints.diagnostics.findings import Finding, Outcome
from nexus_auth.entrypoints.settings import Settings

_SUBJECT: Final = "Pylon"
_CLOCK: Final = "clock"
_NOTABLE_SKEW: Final = timedelta(seconds=30)
_REDIRECTS: Final = range(300, 400)
_ANY_HOTKEY: Final = Hotkey(bytes(32))
"""For a request whose answer does not matter, only that there is one."""


async def check_pylon(
    settings: Settings, container: Container
) -> tuple[list[Finding], Mapping[Hotkey, bytes] | None]:
    """Fetches all certificates of the subnet, as the service with these settings does.

    Returns:
        What was found, and the registered keys; None when they could not be had.
    """
    endpoint, spoken = settings.pylon_endpoint, _api_name(container.pylon_api())
    async with container.pylon() as client:
        try:
            answer = await client.fetch_keys()
        except BulkNotOffered:
            return [await _explain_missing_path(client, settings, spoken)], None
        except RegistryError as exc:
            return [_explain(exc, endpoint)], None
    text = f"{endpoint} answers: {spoken}, {len(answer.keys)} registered keys"
    return [Finding(_SUBJECT, Outcome.OK, text), *judge_subnet("Pylon", answer)], answer.keys


def judge_subnet(source: str, answer: KeyMap) -> list[Finding]:
    """Says what is notable about the keys of a subnet, as some source has them."""
    findings = []
    if not answer.keys:
        text = f"{source} knows no key at all on this subnet; every caller is denied"
        next_step = "check NEXUS_PYLON_NETUID; otherwise no key has been published yet"
        findings.append(Finding("subnet", Outcome.WARNING, text, next_step))
    if answer.rejected:
        text = f"{answer.rejected} entries cannot be used, and those hotkeys are refused"
        next_step = "their owners should publish a new key: nexus-auth generate"
        findings.append(Finding("subnet", Outcome.WARNING, text, next_step))
    return findings


def _api_name(spoken: api.PylonApi) -> str:
    """An API of Pylon by the name that the documentation uses."""
    match spoken:
        case api.IdentityApi():
            return f"identity API, netuid {spoken.netuid}"
        case api.OpenAccessApi():
            return f"open-access API, netuid {spoken.netuid}"
        case api.FirstGenerationApi():
            return "first-generation API (no netuid is set)"


async def _explain_missing_path(client: PylonClient, settings: Settings, spoken: str) -> Finding:
    """Says what it means that there is no path where all keys should be."""
    endpoint = settings.pylon_endpoint
    outcome, text = Outcome.WRONG, f"{endpoint} does not speak the {spoken}"
    oldest = replace(settings, netuid=None, identity_name=None, identity_token=None)
    async with build_container(oldest).pylon() as first_generation:
        if settings.netuid is None:
            next_step = "set NEXUS_PYLON_NETUID to your subnet's number"
        elif await _answers(client.fetch_key(_ANY_HOTKEY)):
            outcome = Outcome.WARNING
            text = f"{endpoint} cannot give all keys at once, so that each hotkey is asked for"
            next_step = "a newer Pylon makes the service faster and more robust"
        elif await _answers(first_generation.fetch_keys()):
            text += ", but the first generation's, which has neither netuids nor identities"
            next_step = (
                "unset NEXUS_PYLON_NETUID, NEXUS_PYLON_IDENTITY_NAME and "
                "NEXUS_PYLON_IDENTITY_TOKEN, or get a newer Pylon"
            )
        else:
            next_step = "is NEXUS_PYLON_ENDPOINT really Pylon's address?"
    return Finding(_SUBJECT, outcome, text, next_step)


async def _answers(request: Awaitable[object]) -> bool:
    try:
        await request
    except RegistryError:
        return False
    return True


def _explain(exc: RegistryError, endpoint: str) -> Finding:
    outcome, text = Outcome.WRONG, str(exc)
    match exc:
        case api.PylonUnreachable(problem=problem, remedy=remedy):
            outcome, text = Outcome.UNREACHABLE, problem
            next_step = remedy or f"is Pylon running at {endpoint}? NEXUS_PYLON_ENDPOINT names it"
        case api.PylonRefused():
            next_step = "have Pylon's operator tell you the token, and set it"
        case api.PylonFailed(status=status) if status in _REDIRECTS:
            text = f"{endpoint} redirects: the netuid is not that of the identity"
            next_step = "set NEXUS_PYLON_NETUID to the netuid of your identity"
        case api.PylonAnswerInvalid():
            text = f"{endpoint}: {exc}"
            next_step = "is NEXUS_PYLON_ENDPOINT really Pylon's address?"
        case _:
            next_step = "Pylon's own log says more"
    return Finding(_SUBJECT, outcome, text, next_step)


async def fetch_date(settings: Settings) -> str | None:
    """The `Date` header of whatever Pylon answers on its root; None when there is none."""
    timeout = settings.pylon_connect_timeout_seconds + settings.pylon_read_timeout_seconds
    try:
        async with httpx.AsyncClient(
            trust_env=False, timeout=timeout, verify=trusted_servers(settings.pylon_endpoint)
        ) as client:
            # Without a token: the clock is no secret, and this path belongs to no API.
            answer = await client.head(settings.pylon_endpoint + "/")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError):
        return None
    date: str | None = answer.headers.get("date")
    return date


def judge_clock(date_header: str | None, now: datetime, leeway: timedelta) -> Finding:
    """Compares this machine's clock with the `Date` of an answer (RFC 9110 §6.6.1).

    Args:
        date_header: The header as it came; None where there was none.
        now: This machine's time (aware, UTC).
        leeway: By how much a certificate's validity may begin later than now.
    """
    try:
        theirs = parsedate_to_datetime(date_header or "")
    except (ValueError, OverflowError):
        return Finding(_CLOCK, Outcome.SKIPPED, "Pylon's answers carry no date")
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    skew = abs(now - theirs)
    text = f"this machine and Pylon are {skew.total_seconds():.0f} s apart"
    return judge_skew(skew, leeway, text, keeping="both")


def judge_skew(skew: timedelta, leeway: timedelta, text: str, *, keeping: str) -> Finding:
    """Says how bad it is that clocks differ.

    Args:
        skew: By how much.
        leeway: By how much a certificate's validity may begin later than now.
        text: What was found.
        keeping: Which clocks are to be kept right.
    """
    if skew <= _NOTABLE_SKEW:
        return Finding(_CLOCK, Outcome.OK, text)
    return Finding(
        _CLOCK,
        Outcome.WRONG if skew > leeway else Outcome.WARNING,
        f"{text}; the leeway for certificates is {leeway.total_seconds():.0f} s",
        f"let {keeping} keep time by NTP (timedatectl set-ntp true)",
    )
