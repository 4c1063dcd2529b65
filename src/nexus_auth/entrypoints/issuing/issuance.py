"""Carries out an order: from what is on disk to a pair that is confirmed on chain.

What is done next, `domain/issuance.py` decides; the effects are here. Their order keeps a key
from getting lost: whatever can fail is tried before Pylon is asked for a key pair, because that
replaces the key on chain.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.credentials.directory import (
    CERTIFICATE_NAME,
    KEY_NAME,
    CredentialsDirectory,
    CredentialsNotPlaced,
    CredentialsUnusable,
    Reservation,
)
from nexus_auth.domain import errors
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuance import (
    SETTLING,
    Action,
    Facts,
    Holdings,
    Leftovers,
    NoCertificate,
    Order,
    Problem,
    Step,
    next_step,
)
from nexus_auth.domain.issuing import Credentials, build_credentials, parse_private_key
from nexus_auth.domain.ports import CertIssuer, Clock, KeyMap
from nexus_auth.domain.server_name import names_of
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.description import shown_names
from nexus_auth.entrypoints.issuing.hook import Hook
from nexus_auth.entrypoints.issuing.preflight import Preflight
from nexus_auth.entrypoints.reporter import Reporter
from nexus_auth.entrypoints.signals import HeldSignals

_RESCUE_EVERY_SECONDS: Final = 2.0

_NOT_NOW: Final = (
    "Not now: Pylon may be replacing the key on chain, and the answer holds the only copy of the "
    "new one. Ending as soon as it is on disk."
)
_STILL_WAITING: Final = (
    "Still waiting. Ending now may lose the new key: the certificate on disk would be worthless, "
    "and a new one would have to be made. Press Ctrl-C once more to end all the same."
)
_UNCLEAR: Final = (
    "the key on chain may be another one now: the old certificate would be refused. The next run "
    "of generate looks at the chain and says so; -force-recreate has a new pair made."
)


def is_nothing_to_do(order: Order, directory: CredentialsDirectory) -> bool:
    """Says whether the files that are there are all that was ordered. Touches nothing.

    Raises:
        CredentialsUnusable: If that cannot be found out.
    """
    if not order.accepts_any_pair:
        return False  # The directory comes after the settings: wrong ones are reported first.
    holdings = directory.holdings()
    is_unfinished = directory.has_unfinished_work() or directory.is_notification_due()
    leftovers = Leftovers.UNFINISHED if is_unfinished else Leftovers.NONE
    facts = Facts(
        order=order,
        now=utc_now(),
        holdings=holdings,
        leftovers=leftovers,
        requested_at=directory.requested_at(),
        pending=directory.pending_key(),
    )
    return next_step(facts).action is Action.KEEP_PAIR


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Issuance:
    """Carries out one order in one directory.

    Attributes:
        order: What the user wants.
        directory: Where the pair belongs.
        issuer: Makes key pairs, and knows what is on chain.
        fetch_keys: As of `KeySource`: helps to explain a key that is on chain for another hotkey.
        clock: The wall clock.
        reporter: Shows what happens.
        after_change: Run after the files have changed.
        preflight: Stops what must not be asked for; None asks at once.
        confirm_seconds: How long to wait until the chain has the new key; 0 does not look.
        poll_seconds: The pause between two lookups of a key; a block of the chain takes twelve
            seconds.
    """

    order: Order
    directory: CredentialsDirectory
    issuer: CertIssuer
    fetch_keys: Callable[[], Awaitable[KeyMap]]
    clock: Clock
    reporter: Reporter
    after_change: Hook | None = None
    preflight: Preflight | None = None
    confirm_seconds: float = 60.0
    poll_seconds: float = 2.0

    async def run(self) -> int:
        """Does what is needed and returns the exit code.

        Raises:
            NexusAuthError: If it cannot be done; nothing is lost then.
        """
        with self.directory.opened_for_writing():
            # What a killed run left can only be seen and removed now.
            facts = self._look(Leftovers.UNFINISHED)
            code = exit_codes.DONE
            while True:
                step = next_step(facts)
                match step.action:
                    case Action.FINISH_EARLIER_RUNS:
                        leftovers, code = await self._finish_earlier_runs()
                        facts = self._look(leftovers)
                    case Action.READ_PAIR:
                        facts = replace(facts, certificate=self._read_certificate())
                    case Action.LOOK_UP_PUBLISHED_KEY:
                        facts = await self._look_up_key(facts)
                    case Action.FORGET_REQUESTS:
                        self.directory.forget_requests()
                        self.reporter.say(f"{_request_of(facts)}; it changed nothing on chain.")
                        facts = replace(facts, requested_at=None)
                    case Action.KEEP_PAIR:
                        self._report_kept(step)
                        return code
                    case Action.CONFIRM_PAIR:
                        return await self._confirm(self.directory.load()) or code
                    case Action.REUSE_KEY | Action.PLACE_PENDING | Action.REPLACE_PAIR:
                        self._explain(step)
                        return await self._change_pair(step.action, facts)
                    case Action.STOP:
                        raise self._error_of(step, facts)

    # What is there

    def _look(self, leftovers: Leftovers) -> Facts:
        return Facts(
            order=self.order,
            now=self.clock(),
            holdings=self.directory.holdings(),
            leftovers=leftovers,
            requested_at=self.directory.requested_at(),
            pending=self.directory.pending_key(),
        )

    async def _finish_earlier_runs(self) -> tuple[Leftovers, int]:
        """Returns what is left, and the exit code of the user's command."""
        placed = self.directory.finish_interrupted_work()
        is_due = self.directory.is_notification_due()
        if placed is not None:
            self.reporter.say("Finished what an interrupted run had left to do.")
            self._report_files(placed, "In place are")
            if self.directory.keeps_old():
                self.reporter.say(
                    "The other pair is beside them as .old until the chain has this key."
                )
        elif is_due:
            self.reporter.say("An earlier run changed the pair, and its command did not succeed.")
        code = await self._run_hook() if is_due else exit_codes.DONE
        return Leftovers.NONE if placed is None else Leftovers.PAIR_PLACED, code

    async def _look_up_key(self, facts: Facts) -> Facts:
        if facts.lookups:
            await asyncio.sleep(self.poll_seconds)
        key = await self.issuer.published_key(self.order.hotkey)
        return replace(facts, lookups=(*facts.lookups, key))

    def _read_certificate(self) -> ClientCertificate | NoCertificate:
        try:
            return self.directory.load().certificate
        except errors.CredentialsError as exc:
            self.reporter.say(f"The pair is unusable: {exc}.")
            return NoCertificate.UNREADABLE

    # What is decided

    def _report_kept(self, step: Step) -> None:
        if step.problem is Problem.UNSETTLED:
            self.reporter.warn(
                "an earlier run asked Pylon for a key pair, and ended without the answer. So far "
                "the chain has the key on disk, but the request may still take effect: run this "
                f"again in {SETTLING.total_seconds() / 60:.0f} minutes"
            )
        if step.remaining is not None:
            self.directory.discard_old()
            if self.order.names not in {None, self.directory.load_names()}:
                self.reporter.warn("the certificate has other names; -reuse-key -san changes them")
            self.reporter.result(
                f"Nothing to do: valid for {step.remaining.days} more days, and the key is on "
                "chain."
            )

    def _explain(self, step: Step) -> None:
        if step.action is Action.PLACE_PENDING:
            self.reporter.say("The chain has the key that an earlier run made here.")
        elif step.problem is Problem.NOT_PUBLISHED:
            self.reporter.say("Another key is on chain, or none.")
        elif step.remaining is not None:
            self.reporter.say(f"The certificate has {max(step.remaining.days, 0)} days left.")

    def _error_of(self, step: Step, facts: Facts) -> CredentialsUnusable:
        self._explain(step)
        directory = self.directory
        if step.problem is Problem.HALF_A_PAIR:
            path = directory.path
            name = KEY_NAME if facts.holdings is Holdings.KEY_ONLY else CERTIFICATE_NAME
            problem = (
                f"holds only {name}; -force-recreate replaces the pair, and the key on chain with "
                "it; -reuse-key makes a certificate for a key"
            )
        elif step.problem is Problem.OTHER_HOTKEY:
            path = directory.certificate_path
            problem = (
                f"is the certificate of {step.found}, not of {self.order.hotkey}; "
                "-force-recreate replaces it all the same"
            )
        elif step.problem is Problem.KEY_LOST:
            path = directory.certificate_path
            found = "another key" if any(facts.lookups) else "no key"
            problem = (
                f"the key on chain has been replaced: the chain has {found} for this hotkey. "
                f"{_request_of(facts)}. Its private key is lost, unless that run named a recovery "
                "file (nexus-auth-recovered-....pem), and callers with this pair are refused. "
                "-force-recreate has a new pair made"
            )
        elif step.problem is Problem.OTHER_PENDING:
            path = directory.pending_key_path
            problem = (
                f"was made for {step.found}, not for {self.order.hotkey}. Name another directory, "
                f"or have it published with generate -local -ss58-address {step.found}; where no "
                "chain has it, remove it"
            )
        elif step.problem is Problem.PENDING:
            path = directory.pending_key_path
            problem = (
                "a key pair that was made here waits to be published: generate -local goes on "
                "with it. Where it was not and will not be published, remove it"
            )
        elif step.problem is Problem.UNREADABLE:
            path = directory.path
            problem = (
                "the pair cannot be read, so that it cannot be compared with the chain. "
                f"{_request_of(facts)}. -force-recreate has a new pair made"
            )
        else:
            path = directory.key_path
            problem = (
                "this key is not on chain, so that no certificate around it can work; leave out "
                "-reuse-key to have a new one made"
            )
        return CredentialsUnusable(path=path, problem=problem)

    # Doing it

    async def _change_pair(self, action: Action, facts: Facts) -> int:
        if facts.requested_at is not None and action is Action.REPLACE_PAIR:
            self.reporter.say(f"{_request_of(facts)}; its answer is lost.")
        self.order = replace(self.order, names=self._choose_names())
        signals = HeldSignals(self.reporter.say, (_NOT_NOW, _STILL_WAITING))
        if action is Action.REPLACE_PAIR and not self.issuer.keeps_pairs:
            credentials = await self._replace_pair(signals)
        else:
            # A new certificate around a key that is on disk, and stays there whatever happens.
            with self.directory.reserved() as reservation:
                credentials = self._build(await self._kept_key(action))
                reservation.save(credentials)
        self._report_files(credentials)
        if signals.exit_code is not None:
            self.reporter.say("Ended as asked. The new pair was not looked up on chain.")
            if self.after_change is not None:
                self.reporter.warn(
                    f"{self.after_change} was not run; the next run with -after-change makes up "
                    "for it"
                )
            return signals.exit_code
        code = await self._run_hook()
        return await self._confirm(credentials) or code

    async def _kept_key(self, action: Action) -> bytes:
        directory = self.directory
        if action is Action.REUSE_KEY:
            return directory.load_private_key()
        pending = directory.load_pending()
        if action is Action.PLACE_PENDING and pending is not None:
            return parse_private_key(pending.key_pem).private_bytes_raw()
        self._rehearse()
        try:
            return (await self.issuer.generate(algorithm=self.order.algorithm)).private_key
        except (asyncio.CancelledError, errors.IssuingError):
            if directory.pending_key() is not None:
                path = str(directory.pending_key_path)
                self.reporter.say(f"The key waits in {path!r}; the next run goes on with it.")
            raise

    async def _replace_pair(self, signals: HeldSignals) -> Credentials:
        """Has a new pair made, and does not let go of it before it is on disk."""
        self._rehearse()
        with self.directory.reserved() as reservation, ExitStack() as stack:
            if self.preflight is not None:
                await self.preflight.check(self._present_certificate())
            stack.enter_context(signals.held())
            try:
                credentials = self._build(await self._have_key_made(reservation))
                await self._save(reservation, credentials)
                with suppress(CredentialsUnusable):  # Then the next run looks at the chain.
                    self.directory.forget_requests()
            except asyncio.CancelledError:
                self.reporter.warn(
                    "given up. If Pylon has replaced the key on chain, the new one is lost: run "
                    "nexus-auth generate -force-recreate"
                )
                raise
        return credentials

    def _present_certificate(self) -> ClientCertificate | None:
        try:
            return self.directory.load().certificate
        except errors.CredentialsError:
            return None

    async def _have_key_made(self, reservation: Reservation) -> bytes:
        reservation.note_request()
        waiting = "Waiting for Pylon to make and publish a key pair; this can take a minute"
        async with self.reporter.waiting(waiting):
            try:
                pair = await self.issuer.generate(algorithm=self.order.algorithm)
            except (errors.IssuerUnavailable, errors.IssuingRefused) as exc:
                text = str(exc)
                if exc.chain_may_have_refused and self.preflight is not None:
                    text += self.preflight.likely_refusals()
                if exc.key_may_have_changed:
                    word = "As" if isinstance(exc, errors.IssuingRefused) else "If"
                    text += f"\nThe files were not touched. {word} Pylon did get the request, "
                    text += _UNCLEAR
                else:
                    reservation.withdraw_request()
                raise type(exc)(text, key_may_have_changed=exc.key_may_have_changed) from None
        return pair.private_key

    def _rehearse(self) -> None:
        """What goes wrong with a certificate goes wrong here, before a key is published."""
        self._build(Ed25519PrivateKey.generate().private_bytes_raw())

    def _build(self, private_key: bytes) -> Credentials:
        return build_credentials(
            hotkey=self.order.hotkey,
            private_key=private_key,
            now=self.clock(),
            valid_for=self.order.valid_for,
            names=self.order.names or (),
        )

    def _choose_names(self) -> tuple[x509.GeneralName, ...]:
        """Those of the order, or of the certificate that is about to be replaced."""
        names = self.directory.load_names() if self.order.names is None else self.order.names
        if names is None:
            self.reporter.warn(
                f"the names in {self.directory.certificate_path} cannot be read, so that the new "
                "certificate has none; -reuse-key -san gives it some"
            )
        return names or ()

    async def _save(self, reservation: Reservation, credentials: Credentials) -> None:
        try:
            reservation.save(credentials)
        except CredentialsNotPlaced:
            raise  # it is on disk
        except Exception as exc:  # noqa: BLE001 - whatever went wrong, this is the only copy
            problem = str(exc) if isinstance(exc, CredentialsUnusable) else type(exc).__name__
        else:
            return
        self.reporter.warn(f"the new pair could not be written: {problem}")
        path = self.directory.save_elsewhere(credentials)
        if path is None:
            self.reporter.warn(
                "and nowhere else either. The only copy is in this process: make room, or make "
                f"{self.directory.path} writable. Trying again every two seconds."
            )
        while path is None:
            await asyncio.sleep(_RESCUE_EVERY_SECONDS)
            path = self.directory.save_elsewhere(credentials)
        raise CredentialsUnusable(
            path=self.directory.path,
            problem="the new pair could not be written there. Private key and certificate, which "
            f"are on chain already, are in {str(path)!r}: move them to their place, or name that "
            "file for both in your proxy's configuration",
        )

    def _report_files(self, credentials: Credentials, what: str = "Wrote") -> None:
        ends = credentials.certificate.not_after
        names = names_of(credentials.certificate_pem)
        self.reporter.result(
            f"{what} {self.directory.key_path} and {self.directory.certificate_path}, "
            f"valid until {ends:%Y-%m-%d}{', for ' if names else ''}{shown_names(names or ())}."
        )

    async def _run_hook(self) -> int:
        """Runs the user's command, where there is one; returns the exit code."""
        hook = self.after_change
        if hook is None:
            return exit_codes.DONE
        problem = await hook.run()
        if problem:
            self.reporter.warn(
                f"the pair is in its place, but {hook} {problem}; the next run with "
                "-after-change tries again"
            )
            return exit_codes.FAILED
        self.directory.clear_notification()
        self.reporter.say(f"Ran {hook}.")
        return exit_codes.DONE

    # Whether it works

    async def _confirm(self, credentials: Credentials) -> int:
        """Looks the new key up on chain, and says plainly when it is not there.

        Returns:
            The exit code: 1 where the key is another hotkey's.
        """
        certificate = credentials.certificate
        if self.confirm_seconds <= 0:
            return exit_codes.DONE
        waiting = f"Looking up the key of {certificate.hotkey} on chain"
        async with self.reporter.waiting(waiting):
            code, problem = await self._await_published(certificate.hotkey, certificate.public_key)
        if problem:
            kept = "\nThe old pair is kept beside it as .old." if self.directory.keeps_old() else ""
            self.reporter.warn(f"{problem}{kept}")
            return code
        self.directory.discard_old()
        self.reporter.result(f"Confirmed: the chain has this key for {certificate.hotkey}.")
        return code

    async def _await_published(self, hotkey: Hotkey, public_key: bytes) -> tuple[int, str]:
        """Waits until the chain has the key.

        Returns:
            The exit code, and what is there instead; nothing where the key is there.
        """
        deadline = time.monotonic() + self.confirm_seconds
        while True:
            try:
                published = await self.issuer.published_key(hotkey)
                if published == public_key:
                    return exit_codes.DONE, ""
                holder = None
                with suppress(errors.RegistryError):  # a help for the reader, no more
                    keys = (await self.fetch_keys()).keys
                    holder = next((each for each, key in keys.items() if key == public_key), None)
                if holder is not None and holder != hotkey:
                    return exit_codes.FAILED, (
                        f"this certificate names {hotkey}, but its key belongs to {holder}: "
                        f"it is not accepted. Where you mean {holder}, run nexus-auth generate "
                        f"-reuse-key -ss58-address {holder} "
                        f"-output-dir {shlex.quote(str(self.directory.path))}; otherwise use the "
                        f"Pylon identity of {hotkey}, and -force-recreate"
                    )
                found = "no key" if published is None else "another key"
                problem = (
                    f"the chain has {found} for {hotkey} so far. If it stays like that, the "
                    "address is not that of the Pylon identity, and the certificate will never "
                    f"work. Ask again with nexus-auth verify {self.directory.certificate_path}"
                )
            except errors.IssuingError as exc:
                problem = f"whether the chain has the key could not be found out: {exc}"
            if time.monotonic() + self.poll_seconds > deadline:
                if not await self._is_of_another_identity(hotkey, public_key):
                    return exit_codes.DONE, problem
                return exit_codes.FAILED, (
                    f"this certificate names {hotkey}, but its key is that of the Pylon identity, "
                    f"which is another hotkey: it is not accepted. Use the Pylon identity of "
                    f"{hotkey}, and -force-recreate"
                )
            await asyncio.sleep(self.poll_seconds)

    async def _is_of_another_identity(self, hotkey: Hotkey, public_key: bytes) -> bool:
        """Whether the identity surely has this key, and is another hotkey."""
        if self.preflight is not None:
            with suppress(errors.NexusAuthError):  # Open access and failures tell nothing.
                found = await self.preflight.compare(hotkey)
                return found.own == public_key and not found.is_one_key
        return False


def _request_of(facts: Facts) -> str:
    """Names the latest request whose answer is not on disk."""
    at = facts.requested_at
    return f"A run asked Pylon for a key pair{at and f' at {at:%Y-%m-%d %H:%M:%S} UTC'}"
