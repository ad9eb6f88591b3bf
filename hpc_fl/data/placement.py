"""Which rank hosts which parties."""

from collections.abc import Sequence
from heapq import heapreplace

from hpc_fl.data.source import Int64Array
from hpc_fl.errors import DataError


def place(sizes: Sequence[int] | Int64Array, ranks: int) -> tuple[tuple[int, ...], ...]:
    """For each rank the parties that it hosts, ascending; sizes[i] is the work (samples) of party i.

    Longest processing time first: parties in descending size go to the rank with the least work, then the
    fewest parties, then the lowest number. The largest rank has at most 4/3 of the best possible; equal sizes
    give counts that differ by one at most; with more ranks than parties some ranks host none. A pure
    function: every rank finds the same answer. Raises DataError for ranks < 1 or a negative size. Graham,
    Bounds on multiprocessing timing anomalies, 1969.
    """
    work = [int(size) for size in sizes]
    if ranks < 1:
        raise DataError(f"{ranks} ranks: at least 1 is needed")
    if min(work, default=0) < 0:
        raise DataError(f"party {work.index(min(work))} has the size {min(work)}: sizes cannot be negative")
    hosted: list[list[int]] = [[] for _ in range(ranks)]
    free = [(0, 0, rank) for rank in range(ranks)]
    for party in sorted(range(len(work)), key=lambda party: -work[party]):
        load, count, rank = free[0]
        hosted[rank].append(party)
        heapreplace(free, (load + work[party], count + 1, rank))
    return tuple(tuple(sorted(parties)) for parties in hosted)
