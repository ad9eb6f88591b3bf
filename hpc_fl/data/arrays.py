"""A data set from four arrays, with the number of classes read off them."""

from hpc_fl.data.source import Array, ArraySource, Dataset
from hpc_fl.errors import DataError


def from_arrays(
    name: str,
    x: Array,
    y: Array,
    x_test: Array,
    y_test: Array,
    *,
    groups: Array | None = None,
    classes: int | None = None,
) -> Dataset:
    """A data set over the arrays (see ArraySource for the dtypes); `groups` belongs to the training part.

    classes: None reads it off: the largest label + 1; for tokens (integer y of the shape of x) the largest
    token + 1; floating y is a regression and has none. Raises DataError where the arrays do not fit together.
    """
    train, test = ArraySource(x, y, groups), ArraySource(x_test, y_test)
    if y.dtype.kind != y_test.dtype.kind and "f" in y.dtype.kind + y_test.dtype.kind:
        raise DataError(f"{name}: y is {y.dtype} and y_test is {y_test.dtype}: give both the same dtype")
    if y.dtype.kind == "f":
        if classes is not None:
            raise DataError(
                f"{name}: classes={classes} but y is {y.dtype}: store labels as int64, or leave classes out"
            )
        return Dataset(name, train, test, None)
    if y.ndim > 1 and y.shape != x.shape:
        raise DataError(
            f"{name}: integer y of shape {y.shape}: labels are (n,), token targets have x's shape {x.shape}"
        )
    if classes is None:
        tokens = [x, x_test] if y.ndim > 1 else []
        classes = 1 + max(int(part.max(initial=0)) for part in (y, y_test, *tokens))
    return Dataset(name, train, test, classes)
