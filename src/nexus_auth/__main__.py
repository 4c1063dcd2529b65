"""Makes `python -m nexus_auth` the same as the `nexus-auth` script."""

from __future__ import annotations

import sys

from nexus_auth.entrypoints.cli import main

if __name__ == "__main__":
    sys.exit(main())
