"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn carries (UCI, Alpaydin and Kaynak 1998)."""

import numpy as np

from hpc_fl.data.embedded import table
from hpc_fl.data.source import ArraySource, Dataset
from hpc_fl.data.split import stratified_split


def digits(*, holdout: int = 360) -> Dataset:
    """x: (n, 1, 8, 8) float32 in [0, 1]; y: 10 classes; `holdout` samples, stratified and always the same, to
    test.

    Raises DataError without scikit-learn, or where `holdout` leaves a part empty.
    """
    rows = table("digits.csv.gz", "load_digits")
    x = (rows[:, :-1] / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    y = rows[:, -1].astype(np.int64)
    train, test = stratified_split(y, holdout)
    return Dataset("digits", ArraySource(x[train], y[train]), ArraySource(x[test], y[test]), classes=10)
