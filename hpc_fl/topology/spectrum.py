"""How fast repeated mixing brings nodes together, from singular values and eigenvalues.

Xiao, Boyd: Fast Linear Iterations for Distributed Averaging, 2004; Boyd, Diaconis, Xiao: Fastest Mixing
Markov Chain on a Graph, SIAM Review 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ROUNDING: Final = 1e-12
"""Below this a factor is rounding: the mixing is exact."""


def product(matrices: Sequence[Array]) -> Array:
    """The steps one after the other, the first applied first."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = matrix @ result
    return result


def deviation(matrix: Array, target: Array) -> float:
    """How much of the consensus error is left, at most, after mixing with ``matrix`` (S, S).

    The largest singular value of ``D^(1/2) W D^(-1/2) - r r^T`` where ``D = diag(target)``, ``target`` (S,)
    sums to one and r is its root. For doubly stochastic W that is ``W - 1 1^T / S``; for symmetric W its
    second largest eigenvalue in modulus.
    """
    root = np.sqrt(target)
    scaled = matrix * root[:, None] / root[None, :] - np.outer(root, root)
    # As the root of an eigenvalue: several times faster than all singular values.
    return _rounded(float(np.sqrt(max(np.linalg.eigvalsh(scaled.T @ scaled)[-1], 0.0))))


def second_eigenvalue(matrix: Array) -> float:
    """The second largest modulus of the eigenvalues: the rate that push-sum comes to."""
    moduli = np.sort(np.abs(np.linalg.eigvals(matrix)))
    return _rounded(float(moduli[-2])) if len(moduli) > 1 else 0.0


def _rounded(factor: float) -> float:
    return 0.0 if factor < _ROUNDING else factor
