from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.domain.server_name import MAX_NAMES, names_of, parse_names
from tests.builders import a_certificate, to_pem

LONGEST_LABEL = "a" * 63
LONGEST = ".".join([LONGEST_LABEL] * 3 + ["a" * 61])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("localhost", (x509.DNSName("localhost"),)),
        ("Miner.Example.COM", (x509.DNSName("miner.example.com"),)),
        ("*.example.com", (x509.DNSName("*.example.com"),)),
        ("xn--bcher-kva.example", (x509.DNSName("xn--bcher-kva.example"),)),
        ("3com.example", (x509.DNSName("3com.example"),)),
        (LONGEST, (x509.DNSName(LONGEST),)),
        ("192.0.2.7", (x509.IPAddress(IPv4Address("192.0.2.7")),)),
        ("2001:db8::1", (x509.IPAddress(IPv6Address("2001:db8::1")),)),
        (
            ",".join(f"a{number}" for number in range(MAX_NAMES)),
            tuple(x509.DNSName(f"a{number}") for number in range(16)),
        ),
        ("b,a,b", (x509.DNSName("b"), x509.DNSName("a"))),
    ],
)
def test_names_and_addresses_are_told_apart(
    text: str, expected: tuple[x509.GeneralName, ...]
) -> None:
    """RFC 5280 §4.2.1.6: dNSName and iPAddress; in the order given, each once, in lower case."""
    assert parse_names(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(",", "a,", " ", " a", "a ", "a, b", "a b", "a\n", "a\0"),
        *(".", "a.", ".a", "a..b", "-a", "a-", "a.-b.c", "a_b", "a/b", "a@b", "a%b"),
        *("https://a.example", "a.example:8443", "192.0.2.7:8443", "[2001:db8::1]"),
        *("192.0.2.0/24", "fe80::1%eth0", "::1%1", "192.0.2.256", "192.0.2", "1", "0x7f.1.1.1.1"),
        *("*", "*.", "*.com", "*.*.example.com", "a.*.com", "*a.example.com", "**.example.com"),
        *(LONGEST_LABEL + "a", LONGEST + "a", "*." + LONGEST),
        *("bücher.example", "例え.jp", "a。b", "\u0661.example", "ﬁ.example", "٣"),
        ",".join(f"a{number}" for number in range(MAX_NAMES + 1)),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    """Nothing is trimmed or repaired: a name that no client would match helps no client."""
    with pytest.raises(ValueError, match=r"expected|xn--|neither|stands for"):
        parse_names(text)


def test_name_with_other_letters_is_refused_with_the_way_out() -> None:
    """IDNA has two versions that disagree: which name is meant is the owner's to say."""
    with pytest.raises(ValueError, match="xn--"):
        parse_names("straße.example")


@given(st.text(alphabet="abzAZ019-.*:%,_ü [/", max_size=40))
def test_whatever_is_accepted_is_read_back_from_a_certificate(text: str) -> None:
    """Any text is refused, or gives names that an independent encoder takes as they are."""
    try:
        names = parse_names(text)
    except ValueError:
        return
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    if names:
        extensions.append((x509.SubjectAlternativeName(names), False))
    assert names_of(to_pem(a_certificate(extensions=extensions))) == names


@pytest.mark.parametrize("pem", [b"", b"garbage", to_pem(a_certificate())[:-60]])
def test_names_of_what_is_no_certificate_are_unknown(pem: bytes) -> None:
    """That is not the same as none."""
    assert names_of(pem) is None
    assert names_of(to_pem(a_certificate())) == ()
