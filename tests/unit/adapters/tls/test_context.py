"""A context over memory buffers: what leaves before the check, and what cannot be switched off."""

from __future__ import annotations

import copy
import inspect
import pickle
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from nexus_auth.adapters.tls.context import (
    PinnedContext,
    PinnedObject,
    ServerKeyRefused,
    ServerUnknown,
)
from nexus_auth.domain.errors import (
    CredentialsError,
    NexusAuthError,
    RegistryUnavailable,
    ServerKeyMismatch,
    ServerKeyUnknown,
    ServerNotProven,
)
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.server import fingerprint_of
from tests.builders import a_hotkey, a_key, organization, public_bytes
from tests.tls_pairs import (
    MINER,
    Handshake,
    Registry,
    is_client_hello_alone,
    pinned_context,
    records_of,
    server_context,
    today_certificate,
    write_pair,
)


def _peer_name(handshake: Handshake) -> str:
    """The O of the certificate that the server has seen."""
    der = handshake.server.getpeercert(binary_form=True)
    assert der is not None
    subject = x509.load_der_x509_certificate(der).subject
    return str(subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """The caller's pair."""
    return write_pair(tmp_path / "caller", "caller")


def test_right_key_completes_the_handshake_and_shows_the_pair(tmp_path: Path, pair: Path) -> None:
    """The server sees the caller's certificate, and both can speak."""
    registry = Registry()
    handshake = Handshake.between(pinned_context(pair, registry), server_context(tmp_path))
    handshake.run()
    assert handshake.client.version() == "TLSv1.3"
    assert _peer_name(handshake) == a_hotkey("caller").address
    handshake.client.write(b"hello")
    handshake.move()
    assert handshake.server.read() == b"hello"
    handshake.server.write(b"well")
    handshake.move()
    assert handshake.client.read() == b"well"
    assert registry.asked == 1


def test_wrong_key_gets_the_first_message_alone(tmp_path: Path, pair: Path) -> None:
    """Neither the certificate nor the Finished message is left in the buffer."""
    handshake = Handshake.between(
        pinned_context(pair), server_context(tmp_path, key=a_key("impostor"))
    )
    with pytest.raises(ServerKeyRefused) as refused:
        handshake.run()
    error = refused.value
    assert error.hotkey == MINER.address
    assert error.expected == fingerprint_of(public_bytes(a_key("miner")))
    assert error.found == fingerprint_of(public_bytes(a_key("impostor")))
    assert error.named is None
    assert error.expected in str(error)
    assert error.found in str(error)
    assert not handshake.server_completed()
    assert is_client_hello_alone(handshake.sent)


_WRONG = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    "key", [_WRONG, ec.generate_private_key(ec.SECP256R1())], ids=["rsa", "ecdsa"]
)
def test_key_of_another_kind_is_refused_and_its_fingerprint_shown(
    tmp_path: Path, pair: Path, key: Any
) -> None:
    """A key of any kind has a fingerprint; only Ed25519 is registered."""
    chain = (today_certificate("miner", key, signed_by=a_key("miner")),)
    handshake = Handshake.between(
        pinned_context(pair), server_context(tmp_path, key=key, chain=chain)
    )
    with pytest.raises(ServerKeyRefused) as refused:
        handshake.run()
    assert refused.value.found is not None
    assert refused.value.found != refused.value.expected
    assert is_client_hello_alone(handshake.sent)


def test_certificate_of_another_hotkey_is_refused_although_its_key_is_right(
    tmp_path: Path, pair: Path
) -> None:
    """Otherwise a hotkey could register another's key, and pass callers on to the other."""
    chain = (today_certificate("other", a_key("miner")),)
    handshake = Handshake.between(pinned_context(pair), server_context(tmp_path, chain=chain))
    with pytest.raises(ServerKeyRefused) as refused:
        handshake.run()
    assert refused.value.named == a_hotkey("other").address
    assert refused.value.found == refused.value.expected
    assert a_hotkey("other").address in str(refused.value)
    assert is_client_hello_alone(handshake.sent)


@pytest.mark.parametrize(
    "subject",
    [
        x509.Name([]),
        x509.Name([organization("some company")]),
        x509.Name([organization(a_hotkey("other").address)] * 2),
    ],
    ids=["no name", "no hotkey", "two names"],
)
def test_certificate_that_names_no_one_hotkey_counts_by_its_key(
    tmp_path: Path, pair: Path, subject: x509.Name
) -> None:
    """The key alone is registered."""
    chain = (today_certificate("miner", a_key("miner"), subject=subject),)
    handshake = Handshake.between(pinned_context(pair), server_context(tmp_path, chain=chain))
    handshake.run()
    assert handshake.server_completed()


def test_leaf_of_a_chain_counts(tmp_path: Path, pair: Path) -> None:
    """The registered key at the leaf is accepted, whatever follows."""
    chain = (today_certificate("miner"), today_certificate("other", a_key("other")))
    handshake = Handshake.between(pinned_context(pair), server_context(tmp_path, chain=chain))
    handshake.run()
    assert handshake.server_completed()


def test_registered_key_further_up_a_chain_is_refused(tmp_path: Path, pair: Path) -> None:
    """Anyone can append the miner's certificate to a chain of their own."""
    impostor = today_certificate("miner", a_key("impostor"))
    handshake = Handshake.between(
        pinned_context(pair),
        server_context(
            tmp_path, key=a_key("impostor"), chain=(impostor, today_certificate("miner"))
        ),
    )
    with pytest.raises(ServerKeyRefused):
        handshake.run()
    assert is_client_hello_alone(handshake.sent)


def test_dates_of_the_certificate_do_not_count(tmp_path: Path, pair: Path) -> None:
    """A registered key is good until another one is registered."""
    past = datetime(2020, 1, 1, tzinfo=UTC)
    chain = (today_certificate("miner", not_before=past, not_after=past + timedelta(days=1)),)
    handshake = Handshake.between(pinned_context(pair), server_context(tmp_path, chain=chain))
    handshake.run()
    assert handshake.server_completed()


def _raise() -> Registration:
    raise RegistryUnavailable("no news")


@pytest.mark.parametrize(
    "expected",
    [
        Registry(key=None),
        Registry(expires_at=datetime.now(UTC) - timedelta(seconds=1)),
        _raise,
        lambda: 1 / 0,
    ],
    ids=["none", "expired", "unavailable", "a defect"],
)
def test_unknown_key_refuses_every_server(
    tmp_path: Path, pair: Path, expected: Callable[[], Registration | None]
) -> None:
    """What is not known for certain now is a refusal, as an error that event loops handle."""
    handshake = Handshake.between(pinned_context(pair, expected), server_context(tmp_path))
    with pytest.raises(ServerUnknown) as refused:
        handshake.run()
    assert isinstance(refused.value, ServerKeyUnknown)
    assert not handshake.server_completed()
    assert is_client_hello_alone(handshake.sent)


def test_cause_of_an_unknown_key_is_kept(tmp_path: Path, pair: Path) -> None:
    """Why the registry could not answer is not lost."""
    handshake = Handshake.between(pinned_context(pair, _raise), server_context(tmp_path))
    with pytest.raises(ServerUnknown) as refused:
        handshake.run()
    assert isinstance(refused.value.__cause__, RegistryUnavailable)


def _interrupt() -> Registration:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("expected", "error"),
    [(_interrupt, KeyboardInterrupt), (lambda: "no registration", AttributeError)],
    ids=["Ctrl-C", "nonsense"],
)
def test_interrupt_in_the_check_sends_nothing(
    tmp_path: Path, pair: Path, expected: Any, error: type[BaseException]
) -> None:
    """Whatever ends the check, it was not passed."""
    handshake = Handshake.between(pinned_context(pair, expected), server_context(tmp_path))
    with pytest.raises(error):
        handshake.run()
    assert not handshake.server_completed()
    assert is_client_hello_alone(handshake.sent)


def test_rotated_key_counts_at_the_next_handshake(tmp_path: Path, pair: Path) -> None:
    """One context lives on; the old key is refused, the new one accepted."""
    registry = Registry()
    context = pinned_context(pair, registry)
    old, new = server_context(tmp_path), server_context(tmp_path, key=a_key("rotated"))
    Handshake.between(context, old).run()
    registry.key = "rotated"
    with pytest.raises(ServerKeyRefused):
        Handshake.between(context, old).run()
    Handshake.between(context, new).run()


def test_own_pair_is_followed(tmp_path: Path, pair: Path) -> None:
    """A renewed pair is shown by the next handshake; one under way keeps the one it began with."""
    context = pinned_context(pair)
    begun = Handshake.between(context, server_context(tmp_path))
    write_pair(pair, "caller", key="renewed")
    following = Handshake.between(context, server_context(tmp_path, asks="renewed"))
    keys = []
    for handshake in (begun, following):
        handshake.run()
        der = handshake.server.getpeercert(binary_form=True)
        assert der is not None
        keys.append(x509.load_der_x509_certificate(der).public_key())
    assert keys == [a_key("caller").public_key(), a_key("renewed").public_key()]


def test_own_pair_that_is_broken_stops_calls_until_it_is_mended(tmp_path: Path, pair: Path) -> None:
    """A call without the pair, or with half of it, would be refused by every miner."""
    context, server = pinned_context(pair), server_context(tmp_path)
    (pair / "client.crt").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CredentialsError):
            Handshake.between(context, server)
    write_pair(pair, "caller")
    handshake = Handshake.between(context, server)
    handshake.run()
    assert _peer_name(handshake) == a_hotkey("caller").address


def test_pair_must_be_usable_from_the_beginning(tmp_path: Path) -> None:
    """The error comes where the context is made."""
    with pytest.raises(CredentialsError):
        pinned_context(tmp_path)


def _step(name: str) -> Callable[[ssl.SSLObject], object]:
    steps: dict[str, Callable[[ssl.SSLObject], object]] = {
        "read": lambda client: client.read(10),
        "read into": lambda client: client.read(10, bytearray(10)),
        "write": lambda client: client.write(b"secret"),
        "unwrap": lambda client: client.unwrap(),
        "authenticate": lambda client: client.verify_client_post_handshake(),
    }
    return steps[name]


@pytest.mark.parametrize("name", ["read", "read into", "write", "unwrap", "authenticate"])
@pytest.mark.parametrize("failed", [False, True], ids=["before", "after a failed one"])
def test_nothing_but_the_handshake_completes_it(
    tmp_path: Path, pair: Path, name: str, *, failed: bool
) -> None:
    """OpenSSL would complete a handshake on the way of reading or writing."""
    handshake = Handshake.between(
        pinned_context(pair), server_context(tmp_path, key=a_key("impostor"))
    )
    with pytest.raises(ssl.SSLWantReadError):
        handshake.client.do_handshake()
    handshake.move()
    with pytest.raises(ssl.SSLWantReadError):
        handshake.server.do_handshake()
    handshake.move()
    if failed:
        with pytest.raises(ServerKeyRefused):
            handshake.client.do_handshake()
    with pytest.raises((ssl.SSLError, AttributeError)):
        _step(name)(handshake.client)
    assert not handshake.server_completed()
    assert is_client_hello_alone(handshake.sent)


def test_handshake_that_failed_fails_again(tmp_path: Path, pair: Path) -> None:
    """Trying once more checks once more."""
    handshake = Handshake.between(
        pinned_context(pair), server_context(tmp_path, key=a_key("impostor"))
    )
    for _ in range(2):
        with pytest.raises(ServerKeyRefused):
            handshake.run()
    assert is_client_hello_alone(handshake.sent)


def test_second_handshake_checks_again(tmp_path: Path, pair: Path) -> None:
    """It does nothing on the wire; a key that has rotated ends the connection."""
    registry = Registry()
    handshake = Handshake.between(pinned_context(pair, registry), server_context(tmp_path))
    handshake.run()
    handshake.client.do_handshake()
    handshake.client.write(b"hello")
    handshake.move()
    registry.key = "rotated"
    with pytest.raises(ServerKeyRefused):
        handshake.client.do_handshake()
    with pytest.raises(ssl.SSLError, match="not proven"):
        handshake.client.write(b"more")
    assert handshake.from_client.pending == 0


def test_server_that_speaks_older_versions_alone_gets_no_certificate(
    tmp_path: Path, pair: Path
) -> None:
    """TLS 1.2 shows the client's certificate before the server's Finished message."""
    server = server_context(tmp_path)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    context = pinned_context(pair)
    # As a library may do it for a context that it is given.
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    handshake = Handshake.between(context, server)
    with pytest.raises(ssl.SSLError):
        handshake.run()
    assert is_client_hello_alone(handshake.sent)


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.MAXIMUM_SUPPORTED])
def test_library_cannot_switch_the_check_off(
    tmp_path: Path, pair: Path, maximum: ssl.TLSVersion
) -> None:
    """Settings that HTTP libraries make of their own accord, or of `verify=False`."""
    context = pinned_context(pair)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = maximum
    context.verify_flags = ssl.VerifyFlags.VERIFY_DEFAULT
    context.load_default_certs()
    context.set_alpn_protocols(["http/1.1"])
    context.options &= ~ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is True
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    handshake = Handshake.between(context, server_context(tmp_path, key=a_key("impostor")))
    with pytest.raises(ssl.SSLError):
        handshake.run()
    assert not handshake.server_completed()
    # Its first message, or the alert that it has no version left to speak.
    assert [kind for kind, _ in records_of(handshake.sent)] in ([22], [21])


def test_library_that_demands_authorities_and_names_changes_nothing(
    tmp_path: Path, pair: Path
) -> None:
    """The miner's certificate is of no authority, and names no host."""
    context = pinned_context(pair)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    handshake = Handshake.between(context, server_context(tmp_path), name="miner.example")
    handshake.run()
    assert handshake.server_completed()


@pytest.mark.parametrize("name", [None, "", "miner.example", "127.0.0.1", "::1"])
def test_any_way_of_naming_the_host_is_fine(tmp_path: Path, pair: Path, name: str | None) -> None:
    """Only a name is sent along (SNI); RFC 6066 §3 knows no addresses."""
    seen: list[str | None] = []
    server = server_context(tmp_path)
    server.sni_callback = lambda _, sent, __: seen.append(sent)
    handshake = Handshake.between(pinned_context(pair), server, name=name)
    handshake.run()
    assert seen == ["miner.example" if name == "miner.example" else None]


def test_sessions_are_not_resumed(tmp_path: Path, pair: Path) -> None:
    """Each handshake is a whole one, in which the server proves its key."""
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    plain.check_hostname = False
    plain.verify_mode = ssl.CERT_NONE
    server = server_context(tmp_path, asks=None)
    earlier = Handshake.between(plain, server)
    earlier.run()
    earlier.server.write(b"tickets come with the first bytes")
    earlier.move()
    earlier.client.read()
    session = earlier.client.session
    assert session is not None
    assert session.has_ticket
    context = pinned_context(pair)
    with pytest.raises(ValueError, match="session"):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), session=session)
    handshake = Handshake.between(context, server)
    handshake.client.session = session
    handshake.run()
    handshake.server.write(b"tickets")
    handshake.move()
    handshake.client.read()
    assert not handshake.client.session_reused
    assert not handshake.server.session_reused
    assert context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO()).session is None


def test_context_is_a_clients() -> None:
    """As a server it would check nobody."""
    with pytest.raises(ValueError, match="client's"):
        pinned_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)


def test_context_without_a_pair_shows_what_it_has_loaded(tmp_path: Path, pair: Path) -> None:
    """As any context of `ssl`."""
    context = pinned_context()
    context.load_cert_chain(pair / "client.crt", pair / "client.key")
    handshake = Handshake.between(context, server_context(tmp_path))
    handshake.run()
    assert _peer_name(handshake) == a_hotkey("caller").address


def test_server_may_ask_for_the_certificate_later(tmp_path: Path, pair: Path) -> None:
    """Post-handshake authentication (RFC 8446 §4.6.2): the server is proven by then."""
    context, server = pinned_context(pair), server_context(tmp_path)
    context.post_handshake_auth = server.post_handshake_auth = True
    handshake = Handshake.between(context, server)
    handshake.run()
    server_end: Any = handshake.server
    server_end._sslobj.verify_client_post_handshake()
    handshake.server.write(b"x")
    handshake.move()
    assert handshake.client.read() == b"x"
    handshake.client.write(b"y")
    handshake.move()
    assert handshake.server.read() == b"y"
    assert _peer_name(handshake) == a_hotkey("caller").address


def test_offer_to_authenticate_later_is_none_before_the_check(tmp_path: Path, pair: Path) -> None:
    """`http.client` makes the offer in contexts that it is given."""
    context = pinned_context(pair)
    context.post_handshake_auth = True
    server = server_context(tmp_path, key=a_key("impostor"))
    server.post_handshake_auth = True
    handshake = Handshake.between(context, server)
    with pytest.raises(ServerKeyRefused):
        handshake.run()
    assert not handshake.server_completed()
    assert is_client_hello_alone(handshake.sent)


def test_python_has_no_early_data() -> None:
    """Nothing is sent with the first message (0-RTT, RFC 8446 §2.3); a new API shows here."""
    names = {name.lower() for each in (ssl.SSLContext, ssl.SSLObject) for name in dir(each)}
    assert not [name for name in names if "early" in name or "0rtt" in name]


def test_methods_of_a_connection_are_known() -> None:
    """A method that a new Python adds is looked at before it is offered here."""
    looked_at = {
        *("cipher", "compression", "context", "do_handshake", "get_channel_binding"),
        *("getpeercert", "get_unverified_chain", "get_verified_chain", "pending", "read"),
        *("selected_alpn_protocol", "selected_npn_protocol", "server_hostname", "server_side"),
        *("session", "session_reused", "shared_ciphers", "unwrap", "version", "write"),
        *("group", "client_sigalg", "server_sigalg", "verify_client_post_handshake"),
    }
    public = {name for name in dir(ssl.SSLObject) if not name.startswith("_")}
    assert public <= looked_at


def test_overridden_methods_take_what_their_parents_take() -> None:
    """Event loops pass arguments by place and by name."""
    for ours, parent in (
        (PinnedContext.wrap_bio, ssl.SSLContext.wrap_bio),
        (PinnedContext.wrap_socket, ssl.SSLContext.wrap_socket),
        (PinnedObject.read, ssl.SSLObject.read),
        (PinnedObject.write, ssl.SSLObject.write),
        (PinnedObject.do_handshake, ssl.SSLObject.do_handshake),
        (PinnedObject.unwrap, ssl.SSLObject.unwrap),
    ):
        assert _shape(ours) == _shape(parent), parent.__qualname__


def _shape(function: Callable[..., object]) -> list[tuple[str, object]]:
    return [
        (name, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    ]


def test_context_cannot_be_copied_or_pickled_and_shows_no_key(pair: Path) -> None:
    """Its pair stays in this process."""
    context = pinned_context(pair)
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="pickle"):
            make(context)
    assert "PRIVATE" not in f"{context!r}{context!s}"
    assert vars(context)["_pair"] is not None
    assert "PRIVATE" not in repr(vars(context)["_pair"].__dict__)


def test_errors_look_as_those_of_openssl() -> None:
    """HTTP libraries read these attributes."""
    for error in (ServerKeyRefused(hotkey="a", expected="b", found=None), ServerUnknown("a")):
        assert isinstance(error, ssl.SSLCertVerificationError)
        assert isinstance(error, ServerNotProven)
        assert (error.errno, error.library) == (ssl.SSL_ERROR_SSL, "SSL")
        assert error.reason == "CERTIFICATE_VERIFY_FAILED"
        assert error.verify_code == 50
        assert error.verify_message
        assert error.strerror == str(error)
        assert str(error).startswith("the server is not proven to be a: ")
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert (str(again), again.__dict__) == (str(error), error.__dict__)
        assert isinstance(again, NexusAuthError)


def test_typed_errors_are_those_of_the_domain() -> None:
    """A user catches the domain's error, and need not know of adapters."""
    assert issubclass(ServerKeyRefused, ServerKeyMismatch)
    assert issubclass(ServerUnknown, ServerKeyUnknown)
