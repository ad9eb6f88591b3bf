"""``python -m hpc_fl.bench NAME``: ``hpc-fl bench`` on a machine that has only what the benchmark needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hpc_fl.bench import run_benchmark
from hpc_fl.errors import EXIT_CONFIG, EXIT_FAILURE, ConfigError, HpcFlError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hpc_fl.bench", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("options", nargs="*", metavar="option=value")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--strict", action="store_true")
    given = parser.parse_args()
    options = [*given.options, *([] if given.device is None else [f"device={given.device}"])]
    try:
        held = run_benchmark(given.name, options, given.json)
    except HpcFlError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILURE
    return EXIT_FAILURE if given.strict and not held else 0


if __name__ == "__main__":
    sys.exit(main())
