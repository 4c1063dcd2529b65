"""docs/calling.md: every block runs as it stands, against a miner behind nginx."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from nexus_auth.domain.server import fingerprint_of
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.proxies.stack import open_folder
from tests.integration.pylon.running import OPEN_ACCESS_TOKEN
from tests.integration.real import require_program
from tests.integration.tls.miner import Miner, running_miner
from tests.pages import ROOT, Block, blocks

MINER: Final = str(a_hotkey("miner"))
PAGE: Final = list(blocks(ROOT / "docs" / "calling.md"))
EXAMPLES: Final = ("httpx", "httpx_sync", "aiohttp", "requests")
_SECONDS: Final = 60


@pytest.fixture(scope="module")
def miner() -> Iterator[Miner]:
    """A miner, and the validator's pair in ./certs."""
    with open_folder() as folder, running_miner(folder) as running:
        (folder / "certs").symlink_to(folder / "validator")
        yield running


def python_with(words: str) -> Block:
    """The one program of the page that has these words."""
    [found] = [each for each in PAGE if each.language == "python" and words in each.code]
    return found


def for_miner(miner: Miner, code: str) -> str:
    """The same for the miner of the tests."""
    for shown, real in (
        ("http://pylon:8000", miner.pylon.url),
        ("netuid=12", f"netuid={miner.pylon.netuid}"),
        ("_NETUID=12", f"_NETUID={miner.pylon.netuid}"),
        ("203.0.113.7:8443", f"127.0.0.1:{miner.port}"),
        ("5F...", MINER),
    ):
        code = code.replace(shown, real)
    return code


def run(miner: Miner, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in the validator's folder, with the settings that the page names."""
    clean = {name: value for name, value in os.environ.items() if "NEXUS" not in name}
    return subprocess.run(
        command,
        env={
            **clean,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NEXUS_PYLON_ENDPOINT": miner.pylon.url,
            "NEXUS_PYLON_NETUID": str(miner.pylon.netuid),
            "NEXUS_PYLON_OPEN_ACCESS_TOKEN": OPEN_ACCESS_TOKEN,
        },
        cwd=miner.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )


def run_python(miner: Miner, block: Block, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of the page, from a file."""
    code = for_miner(miner, block.code)
    # The Pylon of these tests wants a token, which the short programs leave out.
    code = code.replace('", netuid=', f'", open_access_token="{OPEN_ACCESS_TOKEN}", netuid=')
    path = miner.directory / "program.py"
    path.write_text(code, encoding="utf-8")
    return run(miner, sys.executable, str(path), *arguments)


@pytest.mark.parametrize("name", EXAMPLES)
def test_programs_shown_are_the_examples(name: str) -> None:
    """The page shows what other tests run against impostors."""
    code = (ROOT / "examples" / f"call_with_{name}.py").read_text(encoding="utf-8")
    assert [block.language for block in PAGE if block.code == code] == ["python"]


@pytest.mark.parametrize(
    "block",
    [each for each in PAGE if each.language == "sh"],
    ids=lambda block: f"line-{block.line}",
)
def test_commands_are_answered(miner: Miner, block: Block) -> None:
    """Every line of shell, as it stands, with the hotkey and the address of the miner."""
    bash = require_program("bash", "apt-get install bash")
    for program in ("curl", "jq"):
        if program in block.code:
            require_program(program, f"apt-get install {program}")
    before = miner.backend.requests
    done = run(miner, str(bash), "-euo", "pipefail", "-c", for_miner(miner, block.code))
    assert done.returncode == 0, done.stderr
    assert miner.backend.requests - before == len(re.findall("5F[.]", block.code))


def test_steps_are_shown_as_the_page_says(miner: Miner) -> None:
    """Line by line; keys, ports and the answer's own headers differ."""
    [shown] = [each.code for each in PAGE if each.language == "text"]
    done = run(miner, "nexus-auth", "call", MINER, "/v1/status", "-v")
    said = [line for line in done.stderr.splitlines() if not re.match("< [A-Z]", line)]

    def but_for_values(line: str) -> str:
        line = re.sub(r"sha256//\S{43}=|\b5\w{47}\b", "KEY", line)
        return re.sub(r"http://\S+|[\d.]+:\d+", "ADDRESS", line)

    assert list(map(but_for_values, said)) == list(map(but_for_values, shown.splitlines()))


@pytest.mark.parametrize(
    "arguments",
    [
        ("call_with_httpx.py", MINER, "https://{}/"),
        ("call_with_httpx_sync.py", MINER + "={}"),
        ("call_with_aiohttp.py", MINER, "https://{}/"),
        ("call_with_requests.py", MINER, "https://{}/"),
        ("asyncio.open_connection", MINER, "127.0.0.1", "{port}"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_program_calls_the_miner_and_no_impostor(miner: Miner, arguments: tuple[str, ...]) -> None:
    """With another key on chain, the same program sends nothing."""
    words, *rest = arguments
    real = [each.format(f"127.0.0.1:{miner.port}", port=miner.port) for each in rest]
    done = run_python(miner, python_with(words), *real)
    assert done.returncode == 0, done.stderr
    assert "200" in done.stdout
    name = a_hotkey("miner")
    published = miner.pylon.store.certificate(name)
    assert published is not None
    reached = miner.backend.requests
    miner.pylon.store.set_certificate(name, public_bytes(a_key("mallory")))
    try:
        done = run_python(miner, python_with(words), *real)
    finally:
        miner.pylon.store.set_certificate(name, published)
    assert done.returncode == 1
    assert fingerprint_of(public_bytes(a_key("mallory"))) in done.stderr
    assert miner.backend.requests == reached


def test_client_of_pylon_is_shown_as_it_works(miner: Miner) -> None:
    """With both paths it calls the miner with the pair; without them, it speaks plain http."""
    block = python_with("mtls_cert_path")
    done = run_python(miner, block, MINER, miner.token("validator"))
    assert done.returncode == 0, done.stderr
    assert f"x-hotkey: {a_hotkey('validator')}".lower() in done.stdout.lower()
    plain = "\n".join(line for line in block.code.splitlines() if "mtls_" not in line)
    plain = plain.replace('http.get("/").text', "http.base_url")
    path = miner.directory / "plain.py"
    path.write_text(for_miner(miner, plain), encoding="utf-8")
    done = run(miner, sys.executable, str(path), MINER, miner.token("validator"))
    assert done.stdout.startswith("http://")


def test_every_block_of_the_page_is_run() -> None:
    """None is left that no test above knows."""
    known = [*(f"call_with_{name}.py" for name in EXAMPLES), "open_connection", "mtls_cert_path"]
    assert [block.language for block in PAGE if block.language not in {"sh", "text"}] == [
        "python"
    ] * len(known)
    for words in known:
        python_with(words)


def test_command_line_refuses_an_impostor_that_the_page_warns_of(miner: Miner) -> None:
    """The pin in curl, and the command: exit codes, and no request."""
    require_program("curl", "apt-get install curl")
    name = a_hotkey("miner")
    published = miner.pylon.store.certificate(name)
    assert published is not None
    [curl] = [each.code for each in PAGE if "--pinnedpubkey" in each.code]
    reached = miner.backend.requests
    miner.pylon.store.set_certificate(name, public_bytes(a_key("mallory")))
    try:
        assert run(miner, "sh", "-c", for_miner(miner, curl)).returncode == 90  # curl's own code
        assert run(miner, "nexus-auth", "call", MINER).returncode == 1
    finally:
        miner.pylon.store.set_certificate(name, published)
    assert miner.backend.requests == reached
