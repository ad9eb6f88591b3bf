"""A data set from a function of the user's."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from hpc_fl.data.arrays import from_arrays
from hpc_fl.data.source import Array, Dataset
from hpc_fl.errors import DataError

_PARTS: Final = ("x", "y", "x_test", "y_test")


def function(fn: Callable[..., Any], args: Mapping[str, Any]) -> Dataset:
    """`fn(**args)`: a Dataset, or a tuple (x, y, x_test, y_test) of numpy arrays or CPU tensors (see
    from_arrays).

    Every rank calls `fn`: it must return the same data on each. Raises DataError for anything else; an error
    inside `fn` comes through as it is.
    """
    made = fn(**args)
    if isinstance(made, Dataset):
        return made
    name = getattr(fn, "__name__", type(fn).__name__)
    if not isinstance(made, tuple) or len(made) != len(_PARTS):
        raise DataError(
            f"{name} returned {type(made).__name__}: return a Dataset or the tuple (x, y, x_test, y_test)"
        )
    return from_arrays(name, *(_array(name, part, value) for part, value in zip(_PARTS, made, strict=True)))


def _array(name: str, part: str, value: Any) -> Array:
    if not hasattr(value, "__array__"):
        raise DataError(f"{name} returned {part} as {type(value).__name__}: return a numpy array or a tensor")
    try:
        return np.asarray(value)
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"{name} returned {part} as no array on the CPU: use {part}.detach().cpu() ({error})"
        ) from error
