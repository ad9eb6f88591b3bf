"""How long allreduces take, on all ranks at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch

from hpc_fl.collectives.collective import Collective
from hpc_fl.comm.transport import Transport

_SECONDS: Final = 0.05
"""A candidate is measured for about so long, but at least three times."""

_FEWEST: Final = 3
_MOST: Final = 20


def measure(transport: Transport, candidates: Mapping[str, Collective], n: int) -> dict[str, float]:
    """Seconds that each candidate takes for ``n`` float32: medians of what the slowest rank saw.

    Every rank must call it, with candidates of the same names in the same order; all get the same numbers.
    Sums zeros. Candidates take turns, so that what disturbs the machines disturbs all of them.
    """
    buffer = torch.zeros(n)
    for candidate in candidates.values():  # memory is touched, and connections made, for the first time
        _seconds(transport, candidate, buffer)
    times = {name: [_seconds(transport, candidate, buffer)] for name, candidate in candidates.items()}
    # How often is decided from numbers on which all ranks agree.
    often = {name: max(_FEWEST, min(_MOST, int(_SECONDS / taken[0]))) for name, taken in times.items()}
    for turn in range(1, max(often.values())):
        for name, candidate in candidates.items():
            if turn < often[name]:
                times[name].append(_seconds(transport, candidate, buffer))
    return {name: float(np.median(taken)) for name, taken in times.items()}


def _seconds(transport: Transport, candidate: Collective, buffer: torch.Tensor) -> float:
    transport.barrier()
    start = time.perf_counter()
    candidate.allreduce(buffer)
    slowest = np.array([time.perf_counter() - start])
    transport.allreduce(slowest, "max")
    return float(slowest[0])
