"""Every topology by name, as the tests of topologies need them: a function of the number of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl import topology
from hpc_fl.topology import Schedule, Topology

Make = Callable[[int], Topology]

LARGEST: Final = 33


def is_prime(size: int) -> bool:
    return size > 1 and all(size % k for k in range(2, size))


def _pairs(size: int) -> Topology:
    """Groups of two nodes, the last maybe of one."""
    groups = [range(first, min(first + 2, size)) for first in range(0, size, 2)]
    return topology.hierarchical(groups, topology.ring)


ANY_SIZE: Final[dict[str, Make]] = {
    "ring": topology.ring,
    "directed_ring": topology.directed_ring,
    "star": topology.star,
    "complete": topology.complete,
    "exponential": topology.exponential,
    "erdos_renyi": topology.erdos_renyi,
    "one_peer_exponential": topology.one_peer_exponential,
    "random_matching": topology.random_matching,
    "hierarchical": _pairs,
}
RECTANGLES: Final[dict[str, Make]] = {"grid": topology.grid, "torus": topology.torus}
POWERS: Final[dict[str, Make]] = {
    "hypercube": topology.hypercube,
    "one_peer_hypercube": topology.one_peer_hypercube,
}
DEGREE_FOUR: Final[dict[str, Make]] = {
    "random_regular": topology.random_regular,
    "small_world": topology.small_world,
    "expander": topology.expander,
}
CASES: Final = [
    *((name, make, size) for name, make in ANY_SIZE.items() for size in range(1, LARGEST + 1)),
    *((name, make, size) for name, make in RECTANGLES.items() for size in (1, 2, 3, 4, 6, 9, 12, 33)),
    *((name, make, size) for name, make in POWERS.items() for size in (1, 2, 4, 8, 16, 32)),
    *((name, make, size) for name, make in DEGREE_FOUR.items() for size in (5, 6, 7, 8, 16, LARGEST)),
]
"""(name, function, size)"""


def consensus_error(x: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """The distance of ``x`` (S,) from its mean, in the norm weighted by ``target`` (S,)."""
    return float(np.sqrt(np.sum(target * (x - target @ x) ** 2)))


def mixed(schedule: Schedule, x: NDArray[np.float64], rounds: int) -> NDArray[np.float64]:
    """``x`` (S,) after so many rounds."""
    for t in range(rounds):
        x = schedule.matrix(t).dense() @ x
    return x
