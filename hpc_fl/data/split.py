"""A fixed split of a data set into a part to train on and a part to test on."""

import numpy as np

from hpc_fl.data.apportion import apportion
from hpc_fl.data.source import Int64Array
from hpc_fl.errors import DataError


def stratified_split(labels: Int64Array, holdout: int) -> tuple[Int64Array, Int64Array]:
    """Indices (train, test), ascending, with `holdout` test samples spread over the classes as `labels` is.

    The same for every run and seed: results of different seeds are then comparable. Raises DataError where
    either part would be empty.
    """
    if not 0 < holdout < len(labels):
        raise DataError(f"holdout={holdout} of {len(labels)} samples: use 1..{len(labels) - 1}")
    rng = np.random.default_rng(0)
    counts = np.bincount(labels)
    wanted = apportion(counts.astype(np.float64), holdout)
    test = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in enumerate(wanted.tolist())]
    )
    held = np.zeros(len(labels), bool)
    held[test] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
