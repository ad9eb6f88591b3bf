"""Weights over the nodes that remain when others are absent.

Meyer: Stochastic Complementation, Uncoupling Markov Chains, and the Theory of Nearly Reducible Systems, SIAM
Review 1989.
"""

from __future__ import annotations

import numpy as np

from hpc_fl.topology.graph import Graph
from hpc_fl.topology.matrix import MixingMatrix


def joined(matrix: MixingMatrix, present: frozenset[int]) -> MixingMatrix:
    """The stochastic complement ``W_pp + W_pa (I - W_aa)^-1 W_ap``: what would have gone through absent nodes
    goes on to the nodes behind them at once. An absent node keeps its own.

    Rows and columns that summed to one do so again, a symmetric matrix stays symmetric, and nodes that were
    connected stay connected; it may have edges that ``matrix`` has not.
    """
    # Absent nodes from which nobody present is reached would make the system singular, and take no part.
    components = Graph.of(matrix).components()
    passed = {node for component in components if not present.isdisjoint(component) for node in component}
    stay, gone = sorted(present), sorted(passed - present)
    dense = matrix.dense()
    result = np.eye(matrix.size)
    through = np.linalg.solve(np.eye(len(gone)) - dense[np.ix_(gone, gone)], dense[np.ix_(gone, stay)])
    result[np.ix_(stay, stay)] = dense[np.ix_(stay, stay)] + dense[np.ix_(stay, gone)] @ through
    return MixingMatrix.from_dense(result)
