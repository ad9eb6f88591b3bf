"""What a benchmark says: records, a header with the machine, a table for people."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from hpc_fl.errors import HpcFlError
from hpc_fl.versions import versions


@dataclass(frozen=True)
class Record:
    """One measurement beside its yardstick: medians, seconds; ``ratio`` = seconds / yardstick_seconds.

    ``bar``: the ratio that is good enough, None where none is set; ``better``: whether it may be no higher or
    no lower than that. ``bytes``: sent by the rank that sent most, in one round. Measurements that are not
    times (accuracy, memory) say so in ``unit``, and keep the same fields. Kernels also say how many bytes a
    second they moved (``bytes`` are theirs), and which share that is of the yardstick's. Collectives say
    which ``share`` of a link's rate the bytes are, how many the interface counted (``wire``), and below which
    speed of network, in Gbit/s, they pay (``break_even``).
    """

    case: str
    n: int
    ranks: int
    threads: int
    seconds: float
    yardstick: str
    yardstick_seconds: float
    ratio: float
    bytes: int
    bar: float | None
    holds: bool | None
    unit: str = "s"
    better: Literal["lower", "higher"] = "lower"
    bandwidth: float | None = None
    share: float | None = None
    wire: int | None = None
    break_even: float | None = None

    @classmethod
    def of(
        cls,
        case: str,
        seconds: float,
        yardstick: str,
        yardstick_seconds: float,
        bar: float | None,
        **more: Any,
    ) -> Record:
        """A record with its ratio and verdict worked out; ``n``, ``ranks``, ``threads``, ``bytes`` as given
        or 0 (ranks, threads: 1).
        """
        ratio = seconds / yardstick_seconds
        fields = {"n": 0, "ranks": 1, "threads": 1, "bytes": 0} | more
        return cls(
            case=case,
            seconds=seconds,
            yardstick=yardstick,
            yardstick_seconds=yardstick_seconds,
            ratio=ratio,
            bar=bar,
            holds=None if bar is None else ratio <= bar,
            **fields,
        )

    @classmethod
    def at_least(cls, case: str, value: float, wanted: float, unit: str, **more: Any) -> Record:
        """A value that is to reach ``wanted``; both in ``unit``."""
        record = cls.of(case, value, "wanted", wanted, 1.0, unit=unit, better="higher", **more)
        return replace(record, holds=value >= wanted)

    @classmethod
    def at_most(cls, case: str, value: float, allowed: float, unit: str, **more: Any) -> Record:
        """A value that is to stay within ``allowed``; both in ``unit``."""
        return cls.of(case, value, "allowed", allowed, 1.0, unit=unit, **more)


def interleave(
    subject: Callable[[], float],
    yardstick: Callable[[], float],
    times: int,
    warmup: int = 1,
    block: int = 1,
) -> tuple[float, float]:
    """Median seconds of both, ``times`` of each, measured in turn so that a change of the machine's speed
    meets both: A B A B ..., or ``block`` of each in a row.

    Each callable does the work once and returns its own seconds.
    """
    for _ in range(warmup):
        subject()
        yardstick()
    ours: list[float] = []
    theirs: list[float] = []
    while len(ours) < times:
        count = min(block, times - len(ours))
        ours += [subject() for _ in range(count)]
        theirs += [yardstick() for _ in range(count)]
    return statistics.median(ours), statistics.median(theirs)


def header(name: str) -> dict[str, Any]:
    """Machine, versions, commit and load: what the numbers depend on."""
    return {
        "benchmark": name,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "machine": platform.machine(),
        "gpu": _gpu(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **versions(),
    }


def write_records(path: Path, first: dict[str, Any], records: Sequence[Record]) -> None:
    """Writes the header and the records as one JSON list. Raises :class:`HpcFlError` where the file cannot be
    written.
    """
    try:
        path.write_text(json.dumps([first, *map(asdict, records)], indent=2) + "\n")
    except OSError as error:
        raise HpcFlError(f"{path}: cannot be written ({error.strerror})") from error


def print_records(first: dict[str, Any], records: Sequence[Record]) -> None:
    """The table for people, at most 120 columns wide where the names of the cases are short; plain lines
    where rich is missing, as on a machine that only has what kernels need.
    """
    moving = any(r.bandwidth is not None for r in records)
    titles = ("case", "ranks", "thr.", "measured", *(("GB/s", "share") if moving else ()))
    titles += ("", "yardstick", "ratio", "bar", "")
    rows = [_cells(r, moving) for r in records]
    left = {0, len(titles) - 4, len(titles) - 1}
    try:
        _print_rich(_caption(first), titles, rows, left)
    except ImportError:
        _print_plain(_caption(first), titles, rows, left)


def _cells(r: Record, moving: bool) -> tuple[str, ...]:
    return (
        r.case,
        str(r.ranks),
        str(r.threads),
        show(r.seconds, r.unit),
        *((_optional(r.bandwidth, 1e-9), _optional(r.share, 1)) if moving else ()),
        show(r.yardstick_seconds, r.unit),
        r.yardstick,
        f"{r.ratio:.3f}",
        "" if r.bar is None else f"{_SIGN[r.better]} {r.bar:.3g}",
        _VERDICT[r.holds],
    )


def _print_rich(caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(caption, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column, title in enumerate(titles):
        table.add_column(title, justify="left" if column in left else "right", no_wrap=column > 0)
    for row in rows:
        style = "bold red" if row[-1] == _VERDICT[False] else None
        table.add_row(*row[:-1], f"[{style}]{row[-1]}[/{style}]" if style else row[-1])
    console.print(table)


def _print_plain(caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> None:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    print(caption)
    for row in (titles, *rows):
        cells = enumerate(zip(row, widths, strict=True))
        print("  ".join(c.ljust(w) if column in left else c.rjust(w) for column, (c, w) in cells).rstrip())


def _optional(value: float | None, scale: float) -> str:
    return "" if value is None else f"{value * scale:.2f}"


_WIDTH: Final = 120
_SIGN: Final = {"lower": "<=", "higher": ">="}
_VERDICT: Final = {None: "", True: "holds", False: "FAILS"}


def _caption(first: dict[str, Any]) -> str:
    return (
        f"bench {first['benchmark']}: {first['processor']}, {first['cores']} cores, "
        f"load {first['load_average']:.1f}, torch {first['packages']['torch']}, "
        f"commit {(first['commit'] or 'unknown')[:9]}"
    )


def show(value: float, unit: str) -> str:
    """A value for people; seconds as s, ms or us."""
    if unit != "s":
        return f"{value:.4g} {unit}"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-4 else f"{value * 1e6:.2f} us"


def _gpu() -> str | None:
    """The GPU that torch uses and torch's CUDA; None without one, or where torch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
