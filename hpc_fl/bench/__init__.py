"""Benchmarks: each number beside a yardstick measured in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from hpc_fl.errors import ConfigError

BENCHMARKS: Final = (
    "kernels",
    "collectives",
    "gossip",
    "round",
    "accuracy",
    "convergence",
    "startup",
    "memory",
)
"""Modules of this folder with a function ``run(options) -> list[Record]``; where there is ``show(header,
records)``, it takes the place of the usual table.
"""


def run_benchmark(name: str, options: Sequence[str], json_file: Path | None) -> bool:
    """Runs the benchmark, prints its table, writes its records; whether every bar holds."""
    from hpc_fl.bench.record import header, print_records, write_records

    if name not in BENCHMARKS:
        raise ConfigError(f"bench: got {name!r}, expected one of {', '.join(BENCHMARKS)}")
    pairs = [option.partition("=") for option in options]
    if bad := [key for key, sign, _ in pairs if not sign]:
        raise ConfigError(f"bench {name}: {bad[0]!r}: options are written key=value")
    first = header(name)
    module = import_module(f"hpc_fl.bench.{name}")
    records = module.run({key: value for key, _, value in pairs})
    getattr(module, "show", print_records)(first, records)
    if json_file is not None:
        write_records(json_file, first, records)
    return all(record.holds is not False for record in records)
