"""Fuzz targets: what holds for any bytes from outside, written down as functions.

Each module holds one target: `check` takes any bytes and raises `PropertyBroken` where a promise
does not hold (or lets through what the code under test should never have raised), and `seeds` are
the inputs that we begin with. `targets.py` lists them, `__main__.py` runs them under coverage
guidance, and `tests/unit/fuzz` replays the seeds and every earlier finding with plain pytest.
"""

from __future__ import annotations

from typing import Final

NAMES: Final = ("certificates", "headers", "xfcc", "heads", "pylon", "chain", "records", "policies")
"""The targets, each a module here. (`targets.py` imports them, and all of the code under test.)"""
