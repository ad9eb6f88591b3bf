"""The 569 tumours of 30 features each that scikit-learn carries (Wisconsin, Street et al. 1993)."""

import numpy as np

from hpc_fl.data.embedded import table
from hpc_fl.data.source import ArraySource, Dataset
from hpc_fl.data.split import stratified_split


def breast_cancer(*, holdout: int = 114) -> Dataset:
    """x: (n, 30) float32, of mean 0 and deviation 1 over the training part; y: 0 malignant, 1 benign.

    `holdout` samples, stratified and always the same, are for testing. Raises DataError without scikit-learn,
    or where `holdout` leaves a part empty.
    """
    rows = table("breast_cancer.csv", "load_breast_cancer", header_lines=1)
    x, y = rows[:, :-1], rows[:, -1].astype(np.int64)
    train, test = stratified_split(y, holdout)
    deviation = x[train].std(axis=0)
    deviation[deviation == 0] = 1.0
    x = ((x - x[train].mean(axis=0)) / deviation).astype(np.float32)
    return Dataset("breast_cancer", ArraySource(x[train], y[train]), ArraySource(x[test], y[test]), classes=2)
