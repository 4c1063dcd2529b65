"""The names in a certificate, which nginx sends for the log: a client chooses every byte."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from tests.builders import a_certificate, a_hotkey, a_key, organization, to_der
from tests.integration.nginx.test_development_configuration import House, Recorder, running_house
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import Identity, ask
from tests.integration.proxies.stack import make_server_certificate, open_folder, started_proxy
from tests.integration.pylon.running import running_pylon
from tests.integration.service.running import RunningService, a_header, register, running_service

ALICE: Final = a_hotkey("alice").address
PLAIN: Final = f"O={ALICE}"

HOSTILE: Final[dict[str, tuple[str, str]]] = {
    "nothing else": ("", PLAIN),
    "quotes and commas": (
        "a\"b\\c'd, O=5x + <b>; #",
        f"OU=a\\\"b\\\\c'd\\, O=5x \\+ \\<b\\>\\; #,{PLAIN}",
    ),
    "line ends": (
        'x\r\nX-Client-Cert: y\r\n\r\nGET / HTTP/1.1\r\n{"event":"decision"}\n',
        (
            "OU=x\\0D\\0AX-Client-Cert: y\\0D\\0A\\0D\\0AGET / HTTP/1.1\\0D\\0A"
            f'{{\\"event\\":\\"decision\\"}}\\0A,{PLAIN}'
        ),
    ),
    "a null and an escape": ("a\0\x1b[2Jb", f"OU=a\\00\\1B[2Jb,{PLAIN}"),
    "another script": ("ä\u202e", f"OU=\\C3\\A4\\E2\\80\\AE,{PLAIN}"),
    "16 KB": ("\x01" * 7800, ("OU=" + "\\01" * 100)[:256]),
}
"""What stands in OU beside alice's O, and what arrives of it."""


def save_pair(folder: Path, unit: str, *, raw: bytes | None = None) -> Path:
    """Writes a certificate of alice with this OU, signed by alice's key, and the key.

    With `raw`, these bytes are put in the place of as many characters, as a T61String.
    """
    extra = [
        x509.NameAttribute(
            NameOID.ORGANIZATIONAL_UNIT_NAME,
            unit,
            _type=_ASN1Type.UTF8String if raw is None else _ASN1Type.T61String,
            _validate=False,
        )
    ]
    name = x509.Name([organization(ALICE), *(extra if unit else [])])
    now = datetime.now(UTC).replace(microsecond=0)
    hour = timedelta(hours=1)
    certificate = a_certificate(
        subject=name, issuer=name, not_before=now - hour, not_after=now + hour
    )
    der = to_der(certificate)
    if raw is not None:
        told = certificate.tbs_certificate_bytes.replace(unit.encode(), raw)
        der = der.replace(certificate.tbs_certificate_bytes, told)
        der = der.replace(certificate.signature, a_key().sign(told))
    key = a_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "hostile.pem"
    path.write_bytes(key + ssl.DER_cert_to_PEM_cert(der).encode())
    return path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that knows alice, and logs every decision."""
    folder = tmp_path_factory.mktemp("service")
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(
            folder,
            pylon.url,
            NEXUS_AUTH_LOG_GRANTS="all",
            NEXUS_AUTH_REUSE_SECONDS="0",
            NEXUS_AUTH_TRUSTED_PROXIES="127.0.0.1",
        ) as service:
            yield service


def without_bounds(configuration: str) -> str:
    """Has the names sent whole, as the original's configuration does."""
    for ours, whole in (
        ("Subject $nexus_auth_subject;", "Subject $ssl_client_s_dn;"),
        ("Issuer $nexus_auth_issuer;", "Issuer $ssl_client_i_dn;"),
    ):
        assert ours in configuration
        configuration = configuration.replace(ours, whole)
    return configuration


@pytest.fixture(scope="module", params=[str, without_bounds], ids=["ours", "the original's"])
def house(
    request: pytest.FixtureRequest,
    service: RunningService,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """The development configuration in front of it."""
    folder = tmp_path_factory.mktemp("house")
    application, auth = Recorder(answers_always=True), Recorder(port=service.port)
    with (
        application.serving(),
        running_house(folder, auth, application, edit=request.param) as house,
    ):
        yield house


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_names_change_no_decision_and_forge_no_line(
    house: House, service: RunningService, case: str
) -> None:
    """One request, one decision, one line: the grant that it is without them, and both escaped."""
    unit, logged = HOSTILE[case]
    save_pair(house.folder, unit)
    before = len(service.process.output.splitlines())
    asked = len(house.application.seen)
    assert house.request("hostile") == 200
    lines = [json.loads(line) for line in service.process.output.splitlines()[before:]]
    (line,) = lines
    assert (line["event"], line["code"], line["hotkey"]) == ("decision", "granted", ALICE)
    for name in (line["proxy_subject"], line["proxy_issuer"]):
        text, _, whole = name.partition("… (")
        assert (text, len(text) <= 256) == (logged, True)
        assert whole in {"", f"{len(PLAIN) + 7800 * 3 + 4} bytes)"}
    assert (line["uri"], line["vouched"]) == ("/some/path", True)
    (seen,) = house.application.seen[asked:]
    assert seen["x-hotkey"] == ALICE
    assert not [name for name in seen if name.startswith("x-client-cert")]


def test_bytes_that_are_no_text_are_escaped(house: House, service: RunningService) -> None:
    """A T61String may hold any bytes. The denial is the one that the certificate alone gets."""
    path = save_pair(house.folder, "XXXXX", raw=b"\xff\xfe\r\n\x80")
    pem = path.read_text("ascii")
    certificate = quote(pem[pem.index("-----BEGIN CERT") :], safe="").encode()
    alone = service.ask(certificate)
    assert (house.request("hostile"), alone.status) == (403, 403)
    without, line = service.lines("decision")[-2:]
    assert line["proxy_subject"] == f"OU=\\C3\\BF\\C3\\BE\\0D\\0A\\C2\\80,{PLAIN}"
    assert (line["code"], line["detail"]) == (without["code"], without["detail"])
    assert line["code"] == alone.reason == "malformed-certificate"


def test_a_clients_own_words_never_arrive(house: House, service: RunningService) -> None:
    """Neither with a certificate nor without one, in which case there is no subject at all."""
    words = {"X-Client-Cert-Subject": "O=forged", "X-Client-Cert-Issuer": "O=forged"}
    save_pair(house.folder, "")
    assert house.request("hostile", headers=words) == 200
    assert service.lines("decision")[-1]["proxy_subject"] == PLAIN
    assert house.request(None, headers=words) == 403
    assert not {"proxy_subject", "proxy_issuer"} & set(service.lines("decision")[-1])
    assert "forged" not in str(house.application.seen)


def test_the_subject_decides_nothing(service: RunningService) -> None:
    """Another name beside the certificate is logged, and that is all."""
    headers = {"X-Client-Cert-Subject": f"O={a_hotkey('bob')}", "X-Client-Cert-Issuer": "CN=ca"}
    answer = service.ask(a_header(), **headers)
    assert (answer.status, answer.headers["X-Hotkey"]) == (200, ALICE)
    line = service.lines("decision")[-1]
    assert (line["hotkey"], line["proxy_issuer"]) == (ALICE, "CN=ca")
    assert service.ask(None, **headers).reason == "no-certificate"


def test_the_generated_configuration_sends_the_same() -> None:
    """Each name as above, under the same bound; and nothing of it to the application."""
    with (
        open_folder() as folder,
        AuthService("nginx", 0, reuse_seconds=0, knows=("alice",)) as auth,
        Application() as application,
        started_proxy(
            "nginx",
            folder,
            app=application.address,
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
        ) as nginx,
    ):
        for unit, logged in HOSTILE.values():
            path = save_pair(folder, unit)
            assert ask(nginx.port, Identity(path, path)).status == 200
            facts = auth.listener.facts[-1]
            assert (facts["proxy_subject"], facts["proxy_issuer"]) == (logged, logged)
            # What a head keeps its place in the cache of known heads with.
            sizes = [len(value) for _, value in auth.listener.headers[-1]]
            assert sorted(sizes)[-2] <= 256
        assert len(auth.listener.facts) == len(application.records) == len(HOSTILE)
        for record in application.records:
            assert "client-cert" not in str(record.headers).lower()
