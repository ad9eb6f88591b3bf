"""The tables of ``hpc-fl bench collectives``: what was measured, a line for each scheme; then the bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hpc_fl.bench.collective_cases import PEERS
from hpc_fl.bench.collective_records import ANY
from hpc_fl.bench.record import Record, print_records, show

_TITLES: Final = ("scheme", "time", "MB sent", "on the wire", "of limit", "pays below")
_MISSING: Final = "not installed"


def print_table(first: dict[str, Any], records: Sequence[Record]) -> None:
    """Factors are those by which a scheme is faster than a peer. ``pays below``: break-even, in Gbit/s."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, title in enumerate((*_TITLES, *(f"x {peer}" for peer in PEERS))):
        table.add_column(title, justify="right" if column else "left", no_wrap=True)
    for title in dict.fromkeys(record.case for record in records if ": " not in record.case):
        table.add_row(*_line([record for record in records if record.case == title]))
    console.print(table)
    if any(record.yardstick.endswith(f"({_MISSING})") for record in records):
        console.print("Horovod is not installed (bash scripts/install_horovod.sh): its bars are not judged.")
    console.print()
    print_records(first, [record for record in records if record.bar is not None])


def _line(records: Sequence[Record]) -> list[str]:
    """The cells of one scheme at one n and P, of its records beside each yardstick."""
    one = records[0]
    beside = {record.yardstick: record for record in records}
    factors = [
        f"{1 / beside[peer].ratio:.2f}" if peer in beside and beside[peer].ratio else "" for peer in PEERS
    ]
    pays = "" if one.break_even is None else "any speed" if one.break_even >= ANY else f"{one.break_even:.3g}"
    return [
        one.case,
        show(one.seconds, one.unit),
        f"{one.bytes / 1e6:.3f}",
        "" if one.wire is None else f"{one.wire / 1e6:.3f}",
        "" if one.share is None else f"{one.share:.0%}",
        pays,
        *factors,
    ]
