"""Fuzzes one target in this process: `python -m fuzz.one TARGET CORPUS [LIBFUZZER OPTION ...]`.

`python -m fuzz` calls this. libFuzzer ends the process itself.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris
import structlog

# What is measured is our code; the libraries would cost more than they show. So nothing of ours
# may be imported before this.
with atheris.instrument_imports(include=["nexus_auth"]):
    from fuzz.targets import load_target

    TARGET = load_target(sys.argv[1])


def main() -> None:
    """Writes the seeds into the corpus, and begins."""
    # Malformed input is logged, which here means for nearly every input.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    program, _, corpus, *options = sys.argv
    for seed, content in TARGET.seeds.items():
        (Path(corpus) / f"seed-{seed}").write_bytes(content)
    with tempfile.NamedTemporaryFile("w", encoding="ascii") as words:
        for word in TARGET.words:
            escaped = "".join(f"\\x{byte:02x}" for byte in word)
            print(f'"{escaped}"', file=words)
        words.flush()
        options += [f"-dict={words.name}", f"-max_len={TARGET.max_bytes}"]
        atheris.Setup([program, corpus, *options], TARGET.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
