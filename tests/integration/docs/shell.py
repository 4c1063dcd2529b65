"""The shell in which commands of a page are typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def typed_in(
    bash: Path, script: str, folder: Path, *, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Runs commands as a new user would, in a home of their own, with our programs on PATH."""
    return subprocess.run(
        [bash, "--norc", "-c", script],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
