"""The quickstart, typed in as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.docs.shell import typed_in
from tests.integration.real import free_port, require_program
from tests.pages import ROOT, blocks

_SECONDS = 60


def _on_free_ports(script: str) -> str:
    """Puts free ports in the place of those that the page uses."""
    for port in ("8000", "8080", "8081"):
        script = script.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}")
    return script


def test_quickstart_leads_to_a_grant(tmp_path: Path) -> None:
    """Every `bash` block in turn, in one shell, as a reader would type them."""
    bash = require_program("bash", "apt-get install bash")
    require_program("curl", "apt-get install curl")
    page = ROOT / "docs" / "quickstart.md"
    typed = "\n".join(block.code for block in blocks(page) if block.language == "bash")
    # Where the page relies on defaults, they are said: other programs may use those ports here.
    script = _on_free_ports(
        "set -e\n"
        + typed.replace(
            "nexus-auth pylon --data", "nexus-auth pylon --listen 127.0.0.1:8000 --data"
        ).replace("nexus-auth run ", "nexus-auth run -admin-addr 127.0.0.1:8081 ")
        + "wait\n"
    )
    done = typed_in(bash, script, tmp_path, seconds=_SECONDS)
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    assert "granted: 5" in done.stdout, said
    statuses = re.findall(r"^HTTP/1.1 (\d+)", done.stdout, re.MULTILINE)
    assert statuses == ["200", "403"], said
    assert "\nx-hotkey: 5" in done.stdout.lower(), said
    assert "\nx-nexus-auth-reason: no-certificate" in done.stdout.lower(), said
    assert {path.name for path in tmp_path.glob("certs/*")} == {"client.key", "client.crt"}
