"""Every status and body that Pylon is known to answer, over a real socket."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from nexus_auth.adapters.devnet.records import Axon
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.pylon.running import (
    OPEN_ACCESS_TOKEN,
    TOKEN,
    RunningPylon,
    running_pylon,
)

ALICE = a_hotkey("alice")
ALICE_KEY = public_bytes(a_key("alice"))
IDENTITY = "/api/v1/identity/dev/subnet/1"
OPEN = "/api/v1/subnet/1"
FIRST = "/api/v1"
UNSTABLE = "/api/_unstable"
APIS = [
    pytest.param(f"{IDENTITY}/block/latest", TOKEN, id="identity"),
    pytest.param(f"{OPEN}/block/latest", OPEN_ACCESS_TOKEN, id="open-access"),
    pytest.param(FIRST, None, id="first-generation"),
]
NO_CERTIFICATE = "Certificate not found or error fetching."


@pytest.fixture
def http(pylon: RunningPylon) -> Iterator[httpx.Client]:
    """A plain HTTP client of the development Pylon."""
    with httpx.Client(base_url=pylon.url, trust_env=False) as client:
        yield client


def bearer(token: str | None) -> dict[str, str]:
    """The headers that carry a token."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def refusal(path: str, status: int, detail: str) -> dict[str, object]:
    """Pylon's words; of certificates, the first generation says them without a status."""
    bare = path.startswith(f"{FIRST}/certificates")
    return {"detail": detail} if bare else {"status_code": status, "detail": detail}


@pytest.mark.parametrize(("api", "token"), APIS)
class TestCertificates:
    """Reading public keys is the same in each of the three APIs."""

    def test_none_are_an_empty_object(self, http: httpx.Client, api: str, token: str) -> None:
        """A subnet without keys is `{}`, not an error."""
        answer = http.get(f"{api}/certificates", headers=bearer(token))
        assert (answer.status_code, answer.content) == (200, b"{}")
        assert answer.headers["content-type"] == "application/json"

    def test_all_are_compact_json_by_hotkey(
        self, pylon: RunningPylon, http: httpx.Client, api: str, token: str
    ) -> None:
        """The body is compact, and keys are lower-case hex without 0x."""
        pylon.store.set_certificate(ALICE, ALICE_KEY)
        answer = http.get(f"{api}/certificates", headers=bearer(token))
        assert answer.status_code == 200
        assert answer.text == f'{{"{ALICE}":{{"algorithm":1,"public_key":"{ALICE_KEY.hex()}"}}}}'

    def test_one_is_found_by_its_hotkey(
        self, pylon: RunningPylon, http: httpx.Client, api: str, token: str
    ) -> None:
        """One hotkey's key is its own document."""
        pylon.store.set_certificate(ALICE, ALICE_KEY)
        answer = http.get(f"{api}/certificates/{ALICE}", headers=bearer(token))
        assert answer.status_code == 200
        assert answer.text == f'{{"algorithm":1,"public_key":"{ALICE_KEY.hex()}"}}'

    @pytest.mark.parametrize("hotkey", [str(a_hotkey("nobody")), "nonsense", "latest", "%00", "ü"])
    def test_absent_and_nonsense_are_one_404(
        self, http: httpx.Client, api: str, token: str, hotkey: str
    ) -> None:
        """What has no key, or is no hotkey, gets the same 404."""
        path = f"{api}/certificates/{hotkey}"
        answer = http.get(path, headers=bearer(token))
        expected = refusal(path, 404, NO_CERTIFICATE)
        assert answer.status_code == 404
        assert answer.text == json.dumps(expected, separators=(",", ":"))

    def test_another_subnets_key_is_not_shown(
        self, pylon: RunningPylon, http: httpx.Client, api: str, token: str
    ) -> None:
        """A key belongs to one subnet."""
        pylon.store.set_certificate(ALICE, ALICE_KEY, netuid=2)
        assert http.get(f"{api}/certificates/{ALICE}", headers=bearer(token)).status_code == 404


OWN = [
    pytest.param(f"{IDENTITY}/block/latest/certificates/self", id="identity"),
    pytest.param(f"{FIRST}/certificates/self", id="first-generation"),
]
GENERATE = [
    pytest.param(f"{IDENTITY}/certificates/self", id="identity"),
    pytest.param(f"{FIRST}/certificates/self", id="first-generation"),
]


@pytest.mark.parametrize("path", OWN)
def test_self_is_the_identitys_own_key(pylon: RunningPylon, http: httpx.Client, path: str) -> None:
    """`self` names the wallet of the identity, and is 404 while it has no key."""
    answer = http.get(path, headers=bearer(TOKEN))
    assert (answer.status_code, answer.json()) == (404, refusal(path, 404, NO_CERTIFICATE))
    pylon.store.set_certificate(pylon.hotkey, ALICE_KEY)
    assert http.get(path, headers=bearer(TOKEN)).json()["public_key"] == ALICE_KEY.hex()


def test_self_has_no_key_under_open_access(http: httpx.Client) -> None:
    """Open access stands for no wallet."""
    path = f"{OPEN}/block/latest/certificates/self"
    answer = http.get(path, headers=bearer(OPEN_ACCESS_TOKEN))
    assert (answer.status_code, answer.json()) == (404, refusal(path, 404, NO_CERTIFICATE))


@pytest.mark.parametrize("path", GENERATE)
class TestGenerate:
    """POST makes a pair, publishes its public half and hands out the private one once."""

    @pytest.mark.parametrize("body", [{"algorithm": 1}, {}])
    def test_makes_a_real_pair_and_publishes_it(
        self, pylon: RunningPylon, http: httpx.Client, path: str, body: dict[str, int]
    ) -> None:
        """The private key is the seed of the public key that is on chain at once."""
        answer = http.post(path, headers=bearer(TOKEN), json=body)
        document = answer.json()
        assert answer.status_code == 201
        assert list(document) == ["algorithm", "public_key", "private_key"]
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(document["private_key"]))
        assert public_bytes(key).hex() == document["public_key"]
        assert pylon.store.certificate(pylon.hotkey) == public_bytes(key)

    def test_replaces_the_former_key(
        self, pylon: RunningPylon, http: httpx.Client, path: str
    ) -> None:
        """Each call makes the previous key worthless."""
        first = http.post(path, headers=bearer(TOKEN), json={}).json()["public_key"]
        second = http.post(path, headers=bearer(TOKEN), json={}).json()["public_key"]
        assert first != second
        assert pylon.store.certificates() == {pylon.hotkey: bytes.fromhex(second)}

    @pytest.mark.parametrize("algorithm", [0, 2, "1", "ed25519", None, [1]])
    def test_refuses_another_algorithm(
        self, pylon: RunningPylon, http: httpx.Client, path: str, algorithm: object
    ) -> None:
        """400 names the field, and nothing is published."""
        answer = http.post(path, headers=bearer(TOKEN), json={"algorithm": algorithm})
        assert answer.status_code == 400
        assert answer.json() == {
            "status_code": 400,
            "detail": f"Validation failed for POST {path}",
            "extra": [
                {
                    "message": "Value error, Currently, only algorithm equals 1 is supported "
                    "which is EdDSA using Ed25519 curve",
                    "key": "algorithm",
                }
            ],
        }
        assert pylon.store.certificates() == {}

    @pytest.mark.parametrize(
        ("body", "detail", "key"),
        [
            (b"", "Validation failed for POST", "data"),
            (b"[]", "Validation failed for POST", None),
            (b"1", "Validation failed for POST", None),
            (b"{", "JSON is malformed", None),
            (b"\xff", "JSON is malformed", None),
            (b"[" * 10_000, "JSON is malformed", None),
        ],
    )
    def test_refuses_what_is_no_object(  # noqa: PLR0917 - two fixtures and what is tabled
        self,
        pylon: RunningPylon,
        http: httpx.Client,
        path: str,
        body: bytes,
        detail: str,
        key: str | None,
    ) -> None:
        """A body that is no JSON object is a 400 too; what is no JSON has no field to name."""
        answer = http.post(path, headers=bearer(TOKEN), content=body)
        document = answer.json()
        assert (answer.status_code, document["status_code"]) == (400, 400)
        assert document["detail"].startswith(detail)
        assert ("extra" in document) is detail.startswith("Validation")
        assert all(each.get("key") == key for each in document.get("extra", []))
        assert pylon.store.certificates() == {}

    def test_refuses_a_body_without_end(self, http: httpx.Client, path: str) -> None:
        """What is read has a bound."""
        answer = http.post(path, headers=bearer(TOKEN), content=b" " * 100_000)
        assert answer.status_code == 413

    def test_fails_for_a_hotkey_that_is_not_registered(
        self, pylon: RunningPylon, http: httpx.Client, path: str
    ) -> None:
        """The chain takes no key from a stranger: 502."""
        pylon.store.remove_neuron(pylon.hotkey)
        answer = http.post(path, headers=bearer(TOKEN), json={"algorithm": 1})
        assert answer.status_code == 502
        assert answer.json() == refusal(path, 502, "Could not generate certificate pair.")
        assert pylon.store.certificates() == {}

    def test_fails_for_a_neuron_without_an_axon(
        self, pylon: RunningPylon, http: httpx.Client, path: str
    ) -> None:
        """The chain takes no key with port 0: 502, and the log says what Pylon does not."""
        pylon.store.set_certificate(pylon.hotkey, ALICE_KEY)
        pylon.store.set_neuron(pylon.hotkey, axon=Axon())
        with capture_logs() as logged:
            answer = http.post(path, headers=bearer(TOKEN), json={})
        assert answer.status_code == 502
        assert answer.json() == refusal(path, 502, "Could not generate certificate pair.")
        assert [each["cause"] for each in logged] == ["InvalidPort"]
        assert pylon.store.certificates() == {pylon.hotkey: ALICE_KEY}

    def test_fails_too_soon_after_the_last_one(self, path: str) -> None:
        """Within the rate limit it is 500, since Pylon knows no better; the first key stays."""
        with running_pylon(serving_rate_limit=1_000_000) as pylon:
            url = f"{pylon.url}{path}"
            first = httpx.post(url, headers=bearer(TOKEN), json={}, trust_env=False)
            again = httpx.post(url, headers=bearer(TOKEN), json={}, trust_env=False)
            assert (first.status_code, again.status_code) == (201, 500)
            assert again.json() == {"status_code": 500, "detail": "Internal Server Error"}
            (kept,) = pylon.store.certificates().values()
            assert kept.hex() == first.json()["public_key"]


@pytest.mark.parametrize(
    ("path", "token"),
    [("/api/v1/block/latest", None), (f"{UNSTABLE}/openaccess/block/latest", OPEN_ACCESS_TOKEN)],
)
def test_the_latest_block_has_a_number_a_hash_and_a_time(
    http: httpx.Client, path: str, token: str | None
) -> None:
    """The time is in seconds; the neurons are of the same chain of blocks."""
    block = http.get(path, headers=bearer(token)).json()
    assert list(block) == ["number", "hash", "timestamp"]
    assert block["timestamp"] <= time.time() < block["timestamp"] + 600
    neurons = http.get(f"{OPEN}/block/latest/neurons", headers=bearer(OPEN_ACCESS_TOKEN)).json()
    assert 0 <= neurons["block"]["number"] - block["number"] < 50
    assert len(block["hash"]) == len(neurons["block"]["hash"]) == 66


@pytest.mark.parametrize(
    "path", [f"{IDENTITY}/weights", f"{UNSTABLE}/identity/dev/subnet/1/mechanism/0/weights"]
)
class TestWeights:
    """What a validator of the Nexus Framework sends, and asks about each epoch."""

    def test_are_submitted_once_they_were_sent(
        self, pylon: RunningPylon, http: httpx.Client, path: str
    ) -> None:
        """For the epoch of the block that is asked about, and for that mechanism."""
        now = pylon.store.block()

        def is_submitted(block: int, mechanism: int = 0) -> bool:
            status = f"{UNSTABLE}/identity/dev/subnet/1/mechanism/{mechanism}/block/{block}"
            answer = http.get(f"{status}/weights/status", headers=bearer(TOKEN))
            (is_submitted,) = answer.json().values()
            assert answer.json() == {"weights_submitted": is_submitted}
            return bool(is_submitted)

        assert not is_submitted(now)
        answer = http.put(path, headers=bearer(TOKEN), json={"weights": {str(ALICE): 0.5}})
        assert (answer.status_code, answer.json()) == (
            200,
            {"detail": "weights update scheduled", "count": 1},
        )
        assert is_submitted(now) or is_submitted(pylon.store.block())  # an epoch may have ended
        assert not is_submitted(now, mechanism=1)
        assert not is_submitted(now - 361)

    @pytest.mark.parametrize(
        "body", [{}, {"weights": {}}, {"weights": [1]}, {"weights": {"5C": "much"}}, [], None]
    )
    def test_refuses_what_are_no_weights(self, http: httpx.Client, path: str, body: object) -> None:
        """400, with the field where there is an object."""
        answer = http.put(path, headers=bearer(TOKEN), json=body)
        assert answer.status_code == 400
        assert answer.json()["detail"] == f"Validation failed for PUT {path}"


MALFORMED_TOKEN = (401, "Invalid Authorization header format. Expected: Bearer <token>")
WRONG_TOKEN = (403, "Invalid authorization token")
PROTECTED = [
    pytest.param("GET", f"{IDENTITY}/block/latest/certificates", id="identity-list"),
    pytest.param("GET", f"{IDENTITY}/block/latest/certificates/{ALICE}", id="identity-one"),
    pytest.param("GET", f"{IDENTITY}/block/latest/certificates/self", id="identity-self"),
    pytest.param("GET", f"{IDENTITY}/block/latest/neurons", id="identity-neurons"),
    pytest.param("GET", f"{IDENTITY}/block/recent/neurons", id="identity-recent"),
    pytest.param("GET", f"{IDENTITY}/block/latest/validators", id="identity-validators"),
    pytest.param("POST", f"{IDENTITY}/certificates/self", id="identity-generate"),
    pytest.param("PUT", f"{IDENTITY}/weights", id="identity-weights"),
    pytest.param(
        "GET",
        f"{UNSTABLE}/identity/dev/subnet/1/mechanism/0/block/1/weights/status",
        id="identity-weights-status",
    ),
    pytest.param("GET", f"{UNSTABLE}/openaccess/block/latest", id="unstable-open-block"),
    pytest.param("GET", f"{OPEN}/block/latest/certificates", id="open-list"),
    pytest.param("GET", f"{OPEN}/block/latest/certificates/{ALICE}", id="open-one"),
    pytest.param("GET", f"{OPEN}/block/latest/neurons", id="open-neurons"),
    pytest.param("GET", f"{OPEN}/block/recent/neurons", id="open-recent"),
    pytest.param("GET", f"{OPEN}/block/latest/validators", id="open-validators"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    ("header", "refusal"),
    [
        (None, (401, "Authorization header is required")),
        ("", (401, "Authorization header is required")),
        ("Bearer", MALFORMED_TOKEN),
        (f"Bearer {TOKEN} {TOKEN}", MALFORMED_TOKEN),
        (TOKEN, MALFORMED_TOKEN),
        (f"Basic {TOKEN}", MALFORMED_TOKEN),
        ("Bearer wrong", WRONG_TOKEN),
        (f"Bearer {TOKEN}x", WRONG_TOKEN),
        ("Bearer \xff", WRONG_TOKEN),
    ],
)
def test_token_is_enforced(
    http: httpx.Client, method: str, path: str, header: str | None, refusal: tuple[int, str]
) -> None:
    """Missing and malformed are 401, wrong is 403; the token is never repeated."""
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    answer = http.request(method, path, headers=headers)
    status, detail = refusal
    assert answer.status_code == status
    assert answer.json() == {"status_code": status, "detail": detail}


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer  "])
def test_the_scheme_is_read_as_pylon_reads_it(http: httpx.Client, scheme: str) -> None:
    """In any case, with any space after it."""
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    assert http.get(f"{IDENTITY}/block/latest/certificates", headers=headers).status_code == 200


def test_the_tokens_of_the_two_apis_are_not_mixed_up(http: httpx.Client) -> None:
    """Each API has a token of its own."""
    mine = http.get(f"{IDENTITY}/block/latest/neurons", headers=bearer(OPEN_ACCESS_TOKEN))
    everybodys = http.get(f"{OPEN}/block/latest/neurons", headers=bearer(TOKEN))
    assert (mine.status_code, everybodys.status_code) == (403, 403)


def test_open_access_without_a_token_is_open() -> None:
    """Where none is configured, none is asked for, and one that is sent does no harm."""
    with running_pylon(open_access_token=None) as pylon:
        for headers in ({}, bearer("whatever")):
            answer = httpx.get(
                f"{pylon.url}{OPEN}/block/latest/certificates", headers=headers, trust_env=False
            )
            assert answer.status_code == 200


def test_unknown_identity_is_404(http: httpx.Client) -> None:
    """The name is said, whatever the token; without one, that is what is missed."""
    path = "/api/v1/identity/nope/subnet/1/block/latest/certificates"
    answer = http.get(path, headers=bearer("whatever"))
    assert answer.status_code == 404
    assert answer.json() == {"status_code": 404, "detail": "Identity 'nope' not found"}
    assert http.get(path).status_code == 401


@pytest.mark.parametrize(
    ("method", "tail"),
    [
        ("GET", "/block/latest/certificates"),
        ("GET", f"/block/latest/certificates/{ALICE}"),
        ("GET", "/block/latest/neurons"),
        ("POST", "/certificates/self"),
        ("PUT", "/weights"),
    ],
)
def test_another_netuid_is_redirected_to_the_identitys_own(
    pylon: RunningPylon, http: httpx.Client, method: str, tail: str
) -> None:
    """308 with the same path under the right netuid; nothing is done on the way."""
    answer = http.request(method, f"/api/v1/identity/dev/subnet/7{tail}", headers=bearer(TOKEN))
    assert (answer.status_code, answer.content) == (308, b"")
    assert answer.headers["location"] == f"{IDENTITY}{tail}"
    assert pylon.store.certificates() == {}


def test_another_netuid_with_a_wrong_token_is_not_redirected(http: httpx.Client) -> None:
    """A stranger does not learn the identity's netuid this way."""
    answer = http.get(
        "/api/v1/identity/dev/subnet/7/block/latest/certificates", headers=bearer("wrong")
    )
    assert answer.status_code == 403


def test_identities_are_public(pylon: RunningPylon, http: httpx.Client) -> None:
    """Name and netuid of each, without a token."""
    pylon.store.add_identity("other", hotkey=ALICE, token="t", netuid=12)
    answer = http.get("/api/v1/identities")
    assert (answer.status_code, answer.text) == (200, '{"identities":{"dev":1,"other":12}}')


@pytest.mark.parametrize("value", ["nonsense", "", "0", "-1", "nan", "-inf", "1,5"])
@pytest.mark.parametrize("path", ["/api/v1/identities", f"{OPEN}/block/latest/certificates"])
def test_a_nonsense_timeout_is_400(http: httpx.Client, path: str, value: str) -> None:
    """X-Pylon-Timeout is read before anything else."""
    headers = {**bearer(OPEN_ACCESS_TOKEN), "X-Pylon-Timeout": value}
    answer = http.get(path, headers=headers)
    assert (answer.status_code, answer.json()["status_code"]) == (400, 400)


@pytest.mark.parametrize("value", ["10", "0.5", "60.0", "100000", "inf", "1e999"])
def test_a_sensible_timeout_is_taken(pylon: RunningPylon, http: httpx.Client, value: str) -> None:
    """Any number above 0 will do, and is cut to the cap; the log says which it was."""
    assert http.get("/api/v1/identities", headers={"X-Pylon-Timeout": value}).status_code == 200
    assert pylon.requests[-1].timeout == value


def test_too_slow_is_504_and_the_key_is_replaced_all_the_same() -> None:
    """Who gives up waiting for the chain has lost the old key."""
    with running_pylon(publish_seconds=30) as pylon:
        pylon.store.set_certificate(pylon.hotkey, ALICE_KEY)
        answer = httpx.post(
            f"{pylon.url}{IDENTITY}/certificates/self",
            headers={**bearer(TOKEN), "X-Pylon-Timeout": "0.1"},
            json={},
            trust_env=False,
        )
        assert answer.status_code == 504
        assert answer.json() == {"status_code": 504, "detail": "Request timed out"}
        assert pylon.store.certificate(pylon.hotkey) not in {None, ALICE_KEY}


def test_an_unreadable_store_is_502(pylon: RunningPylon, http: httpx.Client) -> None:
    """The store is this Pylon's chain."""
    pylon.store.close()
    answer = http.get("/api/v1/identities")
    assert (answer.status_code, answer.json()["status_code"]) == (502, 502)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/v1/subnet/x/block/latest/certificates", 404),
        ("GET", f"/api/v1/subnet/{'9' * 5000}/block/latest/certificates", 404),
        ("GET", "/api/v1/certificates/a/b", 404),
        ("GET", "/api/v1/identity/dev/subnet/x/block/latest/certificates", 404),
        ("DELETE", f"{OPEN}/block/latest/certificates", 405),
        ("GET", f"{IDENTITY}/certificates/self", 405),
        ("GET", f"{IDENTITY}/block/latest", 404),
        ("GET", f"{OPEN}/block/latest", 404),
    ],
)
def test_what_is_no_path_of_pylon_is_refused_in_its_own_form(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    """Errors are JSON with status_code and detail, everywhere."""
    answer = http.request(method, path, headers=bearer(OPEN_ACCESS_TOKEN))
    assert answer.status_code == status
    assert answer.json()["status_code"] == status


def test_head_is_no_method_of_pylon(http: httpx.Client) -> None:
    """It answers 405 to it, so that nobody takes it for a health check that works here alone."""
    headers = bearer(OPEN_ACCESS_TOKEN)
    assert http.head(f"{OPEN}/block/latest/certificates", headers=headers).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        f"{OPEN}/block/latest/certificates/",
        f"/{OPEN}/block/latest/certificates",
        f"{OPEN}//block/latest///certificates//",
    ],
)
def test_needless_slashes_are_no_matter(http: httpx.Client, path: str) -> None:
    """A base URL that ends in a slash works with Pylon, and here."""
    answer = get_as_it_stands(http, path, token=OPEN_ACCESS_TOKEN)
    assert (answer.status_code, answer.content) == (200, b"{}")


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("/block/latest//certificates/", "/block/latest/certificates"),
        ("/block/latest/certificates/a%20b%3F", "/block/latest/certificates/a%20b%3F"),
    ],
)
def test_needless_slashes_never_point_to_another_host(
    http: httpx.Client, tail: str, expected: str
) -> None:
    """A Location that begins with two slashes would take the token there."""
    path = f"//api/v1/identity/dev/subnet/7{tail}"
    answer = get_as_it_stands(http, path, token=TOKEN)
    assert (answer.status_code, answer.headers["location"]) == (308, f"{IDENTITY}{expected}")


def get_as_it_stands(http: httpx.Client, path: str, *, token: str) -> httpx.Response:
    """Asks for a path that httpx would have tidied up."""
    request = http.build_request("GET", http.base_url, headers=bearer(token))
    request.url = request.url.copy_with(raw_path=path.encode())
    return http.send(request)


def test_neurons_are_shown_in_full(pylon: RunningPylon, http: httpx.Client) -> None:
    """Block, and every field of a neuron under its hotkey, in every place that shows them."""
    neuron = pylon.store.set_neuron(
        ALICE,
        uid=7,
        validator_permit=True,
        alpha=10,
        tao=2.5,
        axon=Axon(ip="192.0.2.7", port=8091),
    )
    for path in (
        f"{IDENTITY}/block/latest/neurons",
        f"{IDENTITY}/block/recent/neurons",
        f"{FIRST}/neurons/latest",
    ):
        answer = http.get(path, headers=bearer(TOKEN))
        document = answer.json()
        assert answer.status_code == 200
        assert list(document) == ["block", "neurons"]
        assert document["block"]["hash"].startswith("0x")
        assert set(document["neurons"]) == {str(pylon.hotkey), str(ALICE)}
        assert document["neurons"][str(ALICE)] == {
            "uid": 7,
            "coldkey": str(neuron.coldkey),
            "hotkey": str(ALICE),
            "active": True,
            "axon_info": {"ip": "192.0.2.7", "port": 8091, "protocol": 4},
            "stake": 12.5,
            "rank": 0.0,
            "emission": 0.0,
            "incentive": 0.0,
            "consensus": 0.0,
            "trust": 0.0,
            "validator_trust": 0.0,
            "dividends": 0.0,
            "last_update": 0,
            "validator_permit": True,
            "pruning_score": 0,
            "stakes": {"alpha": 10.0, "tao": 2.5, "total": 12.5},
        }


def test_validators_are_the_neurons_with_a_permit_richest_first(
    pylon: RunningPylon, http: httpx.Client
) -> None:
    """A list, ordered by total stake."""
    for name, stake, permit in (("a", 1, True), ("b", 3, True), ("c", 9, False), ("d", 2, True)):
        pylon.store.set_neuron(a_hotkey(name), validator_permit=permit, total=stake)
    answer = http.get(f"{OPEN}/block/latest/validators", headers=bearer(OPEN_ACCESS_TOKEN))
    hotkeys = [each["hotkey"] for each in answer.json()["validators"]]
    assert hotkeys == [str(a_hotkey(name)) for name in ("b", "d", "a")]


def test_the_first_generation_speaks_for_the_first_identity(pylon: RunningPylon) -> None:
    """It has one subnet: that of the identity that was added first."""
    pylon.store.add_identity("later", hotkey=ALICE, token="t", netuid=9)
    pylon.store.set_certificate(ALICE, ALICE_KEY, netuid=9)
    assert httpx.get(f"{pylon.url}/api/v1/certificates", trust_env=False).json() == {}


def test_a_pylon_that_knows_nothing_still_answers() -> None:
    """No identity and no subnet: empty answers, no failures."""
    with (
        running_pylon(with_identity=False, open_access_token=None) as pylon,
        httpx.Client(base_url=pylon.url, trust_env=False) as http,
    ):
        assert http.get("/api/v1/identities").json() == {"identities": {}}
        assert http.get("/api/v1/certificates").json() == {}
        assert http.get("/api/v1/certificates/self").status_code == 404
        assert http.post("/api/v1/certificates/self", json={}).status_code == 502
        assert http.get(f"{OPEN}/block/latest/neurons").json()["neurons"] == {}


def test_a_stopped_pylon_comes_back_where_it_was(pylon: RunningPylon) -> None:
    """What the fault switches of this helper do."""
    url = f"{pylon.url}/api/v1/identities"
    pylon.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
    pylon.start()
    pylon.fail_with(503)
    assert httpx.get(url, trust_env=False).status_code == 503
    pylon.fail_with(None)
    assert httpx.get(url, trust_env=False).status_code == 200
