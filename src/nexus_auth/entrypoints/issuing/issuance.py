"""The steps from an order to a pair on disk that is confirmed on chain.

Their order is what keeps a key from getting lost: whatever can fail is tried before Pylon is
asked, because being asked is what replaces the key on chain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, unique
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.credentials.directory import CredentialsDirectory, Holdings, Reservation
from nexus_auth.adapters.credentials.errors import CredentialsNotPlaced, CredentialsUnusable
from nexus_auth.adapters.credentials.recovery import save_recovery_file
from nexus_auth.domain.errors import (
    CredentialsError,
    IssuerUnavailable,
    IssuingError,
    IssuingRefused,
    RegistryError,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import Credentials, build_credentials
from nexus_auth.domain.ports import CertIssuer, Clock
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.issuing.hook import Hook
from nexus_auth.entrypoints.issuing.interrupts import HeldSignals
from nexus_auth.entrypoints.issuing.reporter import Reporter

POLL_SECONDS: Final = 2.0
"""How often Pylon is asked for the new key: a block of the chain takes twelve seconds."""

ABSENT_CONFIRMATIONS: Final = 3
"""To Pylon, "not registered" and "cannot read the chain now" are one answer. Replacing a good key
because of it would be a pity, so it is asked for more than once."""

_RESCUE_EVERY_SECONDS: Final = 2.0

_UNCLEAR: Final = (
    "the key on chain may be another one now: the old certificate would be refused. Then run this "
    "again, with -force-recreate where files exist."
)

FindHolder = Callable[[bytes], Awaitable[Hotkey | None]]
"""Says which hotkey the chain has a public key for; raises RegistryError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user wants.

    Attributes:
        hotkey: Becomes O.
        algorithm: 1.
        valid_for: How long the certificate is valid.
        force: Replace what is there.
        reuse_key: Make a new certificate around the key that is there; never touch the chain.
        renew_before: Do nothing while the certificate is valid for longer, and on chain.
        confirm_seconds: How long to wait until the chain has the new key; 0 does not ask.
        after_change: Run after the files have changed.
    """

    hotkey: Hotkey
    algorithm: int
    valid_for: timedelta
    force: bool = False
    reuse_key: bool = False
    renew_before: timedelta | None = None
    confirm_seconds: float = 60.0
    after_change: Hook | None = None

    def has_untold_change(self, directory: CredentialsDirectory) -> bool:
        """Whether an earlier run's change still has to be told of, and somebody can be."""
        return self.after_change is not None and directory.is_change_untold()

    @property
    def is_content_with_any_pair(self) -> bool:
        """Whether two files that are there are all that is wanted."""
        return not self.force and not self.reuse_key and self.renew_before is None


@unique
class _Step(Enum):
    NOTHING = "nothing"
    CONFIRM = "confirm"
    REUSE = "reuse"
    REPLACE = "replace"


class Issuance:
    """Carries out one order in one directory."""

    def __init__(
        self,
        *,
        order: Order,
        directory: CredentialsDirectory,
        issuer: CertIssuer,
        find_holder: FindHolder,
        clock: Clock,
        reporter: Reporter,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._order = order
        self._directory = directory
        self._issuer = issuer
        self._find_holder = find_holder
        self._clock = clock
        self._reporter = reporter
        self._poll_seconds = poll_seconds
        self._signals = HeldSignals(reporter.say)

    async def run(self) -> int:
        """Does what is needed and returns the exit code.

        Raises:
            NexusAuthError: If it cannot be done; nothing is lost then.
        """
        with self._directory.opened_for_writing():
            finished = self._directory.finish_interrupted_work(will_tell=self._will_tell)
            # What was finished just now is untold too, where somebody is to be told.
            is_untold = self._order.has_untold_change(self._directory)
            if finished is not None:
                self._reporter.say("Finished what an interrupted run had left to do.")
                self._tell_files(finished)
            elif is_untold:
                self._reporter.say(
                    "An earlier run changed the pair, and its command did not succeed."
                )
            # Now, since nothing else may be left to do, or Pylon be away.
            problem = await self._run_hook() if is_untold else ""
            step = await self._choose(finished)
            credentials = await self._carry_out(step)
            if credentials is None:
                return exit_codes.FAILED if problem else exit_codes.DONE
            if self._signals.exit_code is not None:
                self._reporter.say("Ended as asked. The new pair was not looked up on chain.")
                if self._order.after_change is not None:
                    self._reporter.warn(
                        f"{self._order.after_change} was not run; the next run with "
                        "-after-change makes up for it"
                    )
                return self._signals.exit_code
            if step is not _Step.CONFIRM:
                problem = await self._run_hook()
            await self._confirm(credentials)
            return exit_codes.FAILED if problem else exit_codes.DONE

    @property
    def _will_tell(self) -> bool:
        return self._order.after_change is not None

    # What is to be done

    async def _choose(self, finished: Credentials | None) -> _Step:
        order, holdings = self._order, self._directory.holdings()
        if order.force:
            return self._reuse_or(_Step.REPLACE)
        match holdings:
            case Holdings.NOTHING:
                return self._reuse_or(_Step.REPLACE)
            case Holdings.KEY_ONLY if order.reuse_key:
                return _Step.REUSE
            case Holdings.KEY_ONLY | Holdings.CERTIFICATE_ONLY:
                raise CredentialsUnusable(
                    path=self._directory.path,
                    problem=f"holds only {holdings.value}; -force-recreate replaces the pair, and "
                    "the key on chain with it; -reuse-key makes a certificate for a key",
                )
            case Holdings.BOTH if order.renew_before is not None:
                return await self._choose_renewal(order.renew_before)
            case Holdings.BOTH:
                if finished is not None:
                    return _Step.CONFIRM
                return self._reuse_or(_Step.NOTHING)

    def _reuse_or(self, step: _Step) -> _Step:
        return _Step.REUSE if self._order.reuse_key else step

    async def _choose_renewal(self, renew_before: timedelta) -> _Step:
        try:
            credentials = self._directory.load()
        except CredentialsError as exc:
            self._reporter.say(f"The pair is unusable: {exc}.")
            return self._reuse_or(_Step.REPLACE)
        certificate = credentials.certificate
        if certificate.hotkey != self._order.hotkey:
            raise CredentialsUnusable(
                path=self._directory.certificate_path,
                problem=f"is the certificate of {certificate.hotkey}, not of "
                f"{self._order.hotkey}; -force-recreate replaces it all the same",
            )
        left = certificate.not_after - self._clock()
        is_on_chain = await self._is_surely_published(certificate.public_key)
        if is_on_chain and left > renew_before:
            if self._directory.keeps_old():
                self._directory.discard_old()
            self._reporter.result(
                f"Nothing to do: valid for {left.days} more days, and the key is on chain."
            )
            return _Step.NOTHING
        if not is_on_chain:
            self._reporter.say("Another key is on chain, or none.")
            if self._order.reuse_key:
                raise CredentialsUnusable(
                    path=self._directory.key_path,
                    problem="this key is not on chain, so that no certificate around it can "
                    "work; leave out -reuse-key to have a new one made",
                )
        else:
            self._reporter.say(f"The certificate has {max(left.days, 0)} days left.")
        return self._reuse_or(_Step.REPLACE)

    async def _is_surely_published(self, public_key: bytes) -> bool:
        for attempt in range(ABSENT_CONFIRMATIONS):
            if attempt:
                await asyncio.sleep(self._poll_seconds)
            published = await self._issuer.published_key(self._order.hotkey)
            if published is not None:
                return published == public_key
        return False

    # Doing it

    async def _carry_out(self, step: _Step) -> Credentials | None:
        match step:
            case _Step.NOTHING:
                return None
            case _Step.CONFIRM:
                return self._directory.load()
            case _Step.REUSE:
                return self._renew_certificate()
            case _Step.REPLACE:
                return await self._replace_pair()

    def _renew_certificate(self) -> Credentials:
        """Makes a new certificate around the key that is there."""
        with self._directory.reserved(will_tell=self._will_tell) as reservation:
            credentials = self._build(self._directory.load_private_key())
            reservation.save(credentials)
        self._tell_files(credentials)
        return credentials

    async def _replace_pair(self) -> Credentials:
        """Has a new pair made, and does not let go of it before it is on disk."""
        # A rehearsal: what goes wrong with a certificate goes wrong here.
        self._build(Ed25519PrivateKey.generate().private_bytes_raw())
        with (
            self._directory.reserved(will_tell=self._will_tell) as reservation,
            self._signals.held(),
        ):
            try:
                pair = await self._ask_pylon(self._order.algorithm)
                credentials = self._build(pair)
                await self._save(reservation, credentials)
            except asyncio.CancelledError:
                self._reporter.warn(
                    "given up. If Pylon has replaced the key on chain, the new one is lost: run "
                    "nexus-auth generate -force-recreate"
                )
                raise
        self._tell_files(credentials)
        return credentials

    async def _ask_pylon(self, algorithm: int) -> bytes:
        waiting = "Waiting for Pylon to make and publish a key pair; this can take a minute"
        async with self._reporter.waiting(waiting):
            try:
                pair = await self._issuer.generate(algorithm=algorithm)
            except IssuerUnavailable as exc:
                raise IssuerUnavailable(
                    f"{exc}\nThe files were not touched. If Pylon did get the request, {_UNCLEAR}"
                ) from None
            except IssuingRefused as exc:
                if not exc.key_may_have_changed:
                    raise
                raise IssuingRefused(
                    f"{exc}\nThe files were not touched. As Pylon did get the request, {_UNCLEAR}",
                    key_may_have_changed=True,
                ) from None
        return pair.private_key

    def _build(self, private_key: bytes) -> Credentials:
        return build_credentials(
            hotkey=self._order.hotkey,
            private_key=private_key,
            now=self._clock(),
            valid_for=self._order.valid_for,
        )

    async def _save(self, reservation: Reservation, credentials: Credentials) -> None:
        problem: str
        try:
            reservation.save(credentials)
        except CredentialsNotPlaced:
            raise  # it is on disk
        except Exception as exc:  # noqa: BLE001 - whatever went wrong, this is the only copy
            problem = str(exc) if isinstance(exc, CredentialsUnusable) else type(exc).__name__
        else:
            return
        self._reporter.warn(f"the new pair could not be written: {problem}")
        path = save_recovery_file(credentials, near=self._directory.path)
        if path is None:
            self._reporter.warn(
                "and nowhere else either. The only copy is in this process: make room, or make "
                f"{self._directory.path} writable. Trying again every two seconds."
            )
        while path is None:
            await asyncio.sleep(_RESCUE_EVERY_SECONDS)
            path = save_recovery_file(credentials, near=self._directory.path)
        raise CredentialsUnusable(
            path=self._directory.path,
            problem="the new pair could not be written there. Private key and certificate, which "
            f"are on chain already, are in {str(path)!r}: move them to their place, or name that "
            "file for both in your proxy's configuration",
        )

    def _tell_files(self, credentials: Credentials) -> None:
        ends = credentials.certificate.not_after
        self._reporter.result(
            f"Wrote {self._directory.key_path} and {self._directory.certificate_path}, "
            f"valid until {ends:%Y-%m-%d}."
        )

    async def _run_hook(self) -> str:
        hook = self._order.after_change
        if hook is None:
            return ""
        problem = await hook.run()
        if problem:
            self._reporter.warn(
                f"the pair is in its place, but {hook} {problem}; the next run with "
                "-after-change tries again"
            )
        else:
            self._directory.note_told()
            self._reporter.say(f"Ran {hook}.")
        return problem

    # Whether it works

    async def _confirm(self, credentials: Credentials) -> None:
        """Looks the new key up on chain, and warns plainly when it is not there."""
        certificate = credentials.certificate
        if self._order.confirm_seconds <= 0:
            return
        waiting = f"Looking up the key of {certificate.hotkey} on chain"
        async with self._reporter.waiting(waiting):
            problem = await self._await_published(certificate.hotkey, certificate.public_key)
        if problem:
            kept = ""
            if self._directory.keeps_old():
                kept = "\nThe old pair is kept beside it as .old."
            self._reporter.warn(f"{problem}{kept}")
            return
        if self._directory.keeps_old():
            self._directory.discard_old()
        self._reporter.result(f"Confirmed: the chain has this key for {certificate.hotkey}.")

    async def _await_published(self, hotkey: Hotkey, public_key: bytes) -> str:
        """Waits until the chain has the key; otherwise says what is there instead."""
        deadline = time.monotonic() + self._order.confirm_seconds
        while True:
            try:
                published = await self._issuer.published_key(hotkey)
                if published == public_key:
                    return ""
                holder = await self._holder_of(public_key)
                if holder is not None and holder != hotkey:
                    return (
                        f"this certificate names {hotkey}, but its key belongs to {holder}: "
                        "nobody will accept it. Where that is your hotkey, run nexus-auth "
                        f"generate -reuse-key -ss58-address {holder}"
                    )
                found = "no key" if published is None else "another key"
                problem = (
                    f"the chain has {found} for {hotkey} so far. If it stays like that, the "
                    "address is not that of the Pylon identity, and the certificate will never "
                    "work. Ask again with nexus-auth verify "
                    f"{self._directory.certificate_path}"
                )
            except IssuingError as exc:
                problem = f"whether the chain has the key could not be found out: {exc}"
            if time.monotonic() + self._poll_seconds > deadline:
                return problem
            await asyncio.sleep(self._poll_seconds)

    async def _holder_of(self, public_key: bytes) -> Hotkey | None:
        try:
            return await self._find_holder(public_key)
        except RegistryError:
            return None  # a help for the reader, no more
