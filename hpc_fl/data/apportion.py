"""Division of a whole number of samples in given proportions."""

import numpy as np
import numpy.typing as npt

from hpc_fl.data.source import Int64Array


def apportion(weights: npt.NDArray[np.float64], total: int) -> Int64Array:
    """Whole numbers that sum to `total`, each within one of `total * weights / sum(weights)`.

    Largest remainders (Hamilton's method); ties go to the lower index. weights: non-negative, not all zero.
    """
    exact = weights / weights.sum() * total
    shares: Int64Array = np.floor(exact).astype(np.int64)
    left = total - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:left]] += 1
    return shares
