"""`docs/library.md`: its snippets run."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nexus_auth import AccessPolicy, CertificateVerifier, SyncVerifier
from tests.pages import ROOT

PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


def snippet(heading: str) -> str:
    """The Python below a heading."""
    found = re.search(rf"^###? {heading}\n.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def run(heading: str) -> dict[str, Any]:
    """Runs a snippet and gives what it defined."""
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(snippet(heading), f"library.md, {heading}", "exec"), names)  # noqa: S102 - our own page
    return names


def test_public_modules_exist_and_the_old_path_keeps_working() -> None:
    """The page names every public module; the documented path of before gives the same objects."""
    section = PAGE.partition("## What is public\n")[2].partition("\n## ")[0]
    public = re.findall(r"^\| `([a-z_.]+)` \|", section, re.MULTILINE)
    assert public == [
        *("nexus_auth", "nexus_auth.asgi", "nexus_auth.wsgi"),
        *("nexus_auth.client", "nexus_auth.testing"),
    ]
    for name in public:
        assert importlib.import_module(name).__all__
    (old,) = re.findall(r"`(nexus_auth\.adapters\.[a-z_.]+)`", section)
    new, before = importlib.import_module("nexus_auth.asgi"), importlib.import_module(old)
    # What came later is public at the new path alone.
    for name in {*before.__all__} - {"TrustedPeers"}:
        assert getattr(new, name) is getattr(before, name)


def test_one_decision(capsys: pytest.CaptureFixture[str]) -> None:
    """The first snippet decides, and says why."""
    run("One decision")
    assert capsys.readouterr().out.startswith("refused, malformed-certificate: ")


def test_wsgi_application_refuses_a_stranger() -> None:
    """The WSGI snippet answers 403 to a request without a certificate."""
    names = run("Without an event loop")
    assert isinstance(names["verifier"], SyncVerifier)
    started: list[str] = []
    body = names["application"]({}, lambda status, _: started.append(status))
    names["verifier"].close()
    assert started == ["403 Forbidden"]
    assert body == [b"Access denied: No client certificate"]


@pytest.mark.parametrize(
    ("heading", "example"),
    [
        ("Behind a proxy that asks nexus-auth", "behind_proxy_fastapi.py"),
        ("Starlette", "starlette_app.py"),
        ("FastAPI", "fastapi_app.py"),
    ],
)
def test_applications_shown_are_the_examples(heading: str, example: str) -> None:
    """The page shows what the integration tests run."""
    assert snippet(heading) == (ROOT / "examples" / example).read_text(encoding="utf-8")


def test_policy_and_registry_snippets_build_what_they_say() -> None:
    """The two short snippets are complete."""
    policy = run("Who among the registered may enter")["validators"]
    assert isinstance(policy, AccessPolicy)
    assert policy.needs_neurons
    assert isinstance(run("Your own registry")["verifier"], CertificateVerifier)


def test_test_of_an_application_passes(tmp_path: Path) -> None:
    """A subnet author's first test works as it is shown."""
    # Where temporary folders lie inside a checkout, its own settings would be found.
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "test_app.py").write_text(snippet("Testing your application"), encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", str(tmp_path), "-p", "no:cacheprovider"),
            # Plugins of ours, not of the author's; loading them takes a second.
            *("-p", "no:hypothesispytest", "-p", "no:xdist"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
