"""The small tables that scikit-learn carries, read without importing it (its import costs seconds)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpc_fl.errors import DataError


def table(filename: str, loader: str, *, header_lines: int = 0) -> npt.NDArray[np.float64]:
    """The csv `filename` of sklearn/datasets/data as (samples, features + 1), the target in the last column.

    Where this version of scikit-learn keeps the file elsewhere, its public function `loader` is called
    instead. Raises DataError where scikit-learn is not installed.
    """
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"{filename} comes with scikit-learn, which is missing: run `pip install scikit-learn`"
        )
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / filename
    if path.is_file():
        return np.loadtxt(path, delimiter=",", skiprows=header_lines, ndmin=2)
    return _by_public_api(loader)


def _by_public_api(loader: str) -> npt.NDArray[np.float64]:
    import sklearn.datasets

    x, y = getattr(sklearn.datasets, loader)(return_X_y=True)
    result: npt.NDArray[Any] = np.column_stack([x, y]).astype(np.float64)
    return result
