"""What every nginx of these tests is configured with, whatever it serves."""

from __future__ import annotations

import os
from pathlib import Path


def save_main_configuration(folder: Path, http: str) -> Path:
    """Writes an `nginx.conf` around what belongs into its `http` block; all files stay in there."""
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off;
        worker_processes 1;
        pid {folder}/nginx.pid;
        events {{}}
        http {{ {temporary} {http} }}
        """,
        encoding="utf-8",
    )
    return main
