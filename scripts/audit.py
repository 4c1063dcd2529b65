"""Asks whether the installed packages have known vulnerabilities.

Ends with 1 where one has. Where the data cannot be had nothing is known: that is said loudly, and
is a failure only with AUDIT_REQUIRED=1, as it should be before a release.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Final

TIMEOUT_SECONDS: Final = 300


def audit() -> list[dict[str, Any]] | None:
    """What is said of each package; None where nobody could be asked."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError, KeyError):
        return None
    # A mirror without this data says of every package that it does not know it.
    return packages if any("vulns" in package for package in packages) else None


def main() -> int:
    """Prints what is known."""
    packages = audit()
    if packages is None:
        print(
            "\n!!! NOT AUDITED: the database of vulnerabilities could not be reached from here.\n"
            "!!! Nothing is known about the installed packages. Run this again where it can be.\n",
            file=sys.stderr,
        )
        return 1 if os.environ.get("AUDIT_REQUIRED") == "1" else 0
    found = 0
    for package in packages:
        label = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package:
            print(f"not audited: {label}: {package['skip_reason']}")
        for vulnerability in package.get("vulns", []):
            found += 1
            repaired = ", ".join(vulnerability["fix_versions"]) or "nowhere yet"
            print(f"vulnerable: {label}: {vulnerability['id']}, repaired in {repaired}")
    print(f"{len(packages)} packages, {found} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
