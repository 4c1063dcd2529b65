"""The page of the sidecar, typed in as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from examples.grpc_caller import grpc_target
from tests.integration.docs.shell import typed_in
from tests.integration.proxies.stack import PROGRAMS
from tests.integration.real import free_port, require_program
from tests.pages import ROOT, blocks

PAGE = ROOT / "docs" / "sidecar.md"
_SECONDS = 90


@pytest.mark.timeout(_SECONDS + 10)
def test_the_page_leads_to_a_grant(tmp_path: Path) -> None:
    """Every `bash` block in turn, in one shell; the application is the first of Python."""
    bash = require_program("bash", "apt-get install bash")
    require_program("curl", "apt-get install curl")
    require_program("envoy", PROGRAMS["envoy"])
    code: dict[str, list[str]] = {}
    for block in blocks(PAGE):
        code.setdefault(block.language, []).append(block.code)
    (tmp_path / "app.py").write_text(code["python"][0])
    script = "set -e\n" + "\n".join(code["bash"]) + "wait\n"
    # Where the page relies on defaults, they are said: other programs may use those ports here.
    script = script.replace("pylon --data", "pylon --listen 127.0.0.1:8000 --data")
    script = script.replace("-listen :8443", "-listen 127.0.0.1:8443 -admin-addr 127.0.0.1:8081")
    script = script.replace("--port 9000", "--port @127.0.0.1:9000")
    for port in ("8000", "8081", "8443", "9000"):
        script = script.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}")
    script = script.replace("@127.0.0.1:", "")
    done = typed_in(bash, script, tmp_path, seconds=_SECONDS)
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    assert "Access denied: No client certificate" in done.stdout, said
    assert re.search(r'^\{"caller":"5\w{47}"\}', done.stdout, re.MULTILINE), said
    assert "nexus-auth: ready: mutual TLS on" in done.stderr, said
    assert "Traceback" not in said


def test_the_way_of_grpcio_is_that_of_the_example() -> None:
    """What the page shows stands in the example, which `tests/integration/sidecar` runs."""
    shown = [block.code for block in blocks(PAGE) if block.language == "python"][1]
    assert textwrap.indent(shown, " " * 8) in (grpc_target.__doc__ or "")


def test_the_page_names_every_flag_of_its_own() -> None:
    """With its default, as the help says it."""
    done = subprocess.run(
        [sys.executable, "-m", "nexus_auth", "sidecar", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={**os.environ, "COLUMNS": "200"},
    )
    own = done.stdout.partition("\noptions:")[2].partition("\nsettings ")[0]
    for flag, default in re.findall(r"--([a-z-]+) VALUE.*\(default: (.*)\)", own):
        assert f"| `-{flag}` | `{default}` |" in PAGE.read_text()
    assert len(re.findall(r"\(default: ", own)) == 4
