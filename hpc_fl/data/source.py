"""Where samples come from: the Source protocol, sources over arrays, and a data set as a pair of sources.

A rank knows the labels and groups of every sample, which is what a partition needs, and asks for the rows of
just the parties that it hosts. Nothing in this package keeps more than that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hpc_fl.errors import DataError

Array = npt.NDArray[Any]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


class Source(Protocol):
    """n samples that can be read row by row.

    `rows(indices)` returns copies of just those rows, in the order asked for: x of shape (len(indices),
    *shape), float32 or int64; y int64 (labels, tokens) or float32 (targets); both C-contiguous. An index
    outside 0..n-1 raises DataError.
    """

    def __len__(self) -> int:
        """Number of samples, n."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's x."""
        ...

    @property
    def labels(self) -> Int64Array | None:
        """The class of each of the n samples, shape (n,); None where y is not one label per sample."""
        ...

    @property
    def groups(self) -> Int64Array | None:
        """The natural owner (writer, hospital, ...) of each sample, shape (n,); None where there is none."""
        ...

    def rows(self, indices: Int64Array) -> tuple[Array, Array]:
        """Copies of the rows asked for, (x, y)."""
        ...


class ArraySource:
    """A source over two arrays, memory maps included: only the rows asked for are read.

    x: shape (n, ...), floating (served as float32) or integer of at least 16 bits (tokens, served as int64);
    any dtype where `transform` is given, which turns the picked rows, in their stored dtype, into float32 or
    int64. y: shape (n, ...), integer or bool (served as int64) or floating (served as float32). Floating y of
    shape (n,) is served as (n, 1), the shape of the output of a model with one output. groups: integers of
    shape (n,). Raises DataError where the arrays do not fit together or a label is negative.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        groups: Array | None = None,
        *,
        transform: Callable[[Array], Array] | None = None,
    ) -> None:
        if x.ndim < 2:
            raise DataError(f"x must have the shape (samples, ...), not {x.shape}: use x.reshape(-1, 1)")
        if y.ndim < 1 or len(y) != len(x):
            raise DataError(
                f"x has {len(x)} rows and y has the shape {y.shape}: they need one row per sample each"
            )
        self._x = x
        self._y = y if y.dtype.kind != "f" or y.ndim > 1 else y[:, None]
        self._x_dtype = np.dtype(np.float32) if transform else _served_x(x.dtype)
        self._y_dtype = _served_y(y.dtype)
        self._transform = transform
        self._labels = _labels(self._y) if self._y_dtype == np.int64 and y.ndim == 1 else None
        self._groups = None if groups is None else _groups(groups, len(x))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's x."""
        return self._x.shape[1:]

    @property
    def labels(self) -> Int64Array | None:
        """Labels, shape (n,), where y is one integer per sample."""
        return self._labels

    @property
    def groups(self) -> Int64Array | None:
        """Groups, shape (n,), where they were given."""
        return self._groups

    def rows(self, indices: Int64Array) -> tuple[Array, Array]:
        """Copies of the rows asked for; see Source.rows."""
        indices = check_indices(indices, len(self))
        x = self._x[indices]
        if self._transform is not None:
            x = self._transform(x)
        return np.ascontiguousarray(x, self._x_dtype), np.ascontiguousarray(self._y[indices], self._y_dtype)


class ConcatSource:
    """Several sources of one sample shape seen as one, in order (a data set published as several files)."""

    def __init__(self, parts: Sequence[Source]) -> None:
        shapes = {part.shape for part in parts}
        if len(shapes) != 1:
            raise DataError(f"sources of one data set must have one sample shape, not {sorted(shapes)}")
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        labels, groups = [part.labels for part in parts], [part.groups for part in parts]
        self._labels = _joined(labels)
        self._groups = _joined(groups)

    def __len__(self) -> int:
        """Number of samples in all parts."""
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's x."""
        return self._parts[0].shape

    @property
    def labels(self) -> Int64Array | None:
        """Labels of all parts, shape (n,), where every part has labels."""
        return self._labels

    @property
    def groups(self) -> Int64Array | None:
        """Groups of all parts, shape (n,), where every part has groups."""
        return self._groups

    def rows(self, indices: Int64Array) -> tuple[Array, Array]:
        """Copies of the rows asked for; see Source.rows."""
        indices = check_indices(indices, len(self))
        owner = np.searchsorted(self._ends, indices, side="right")
        x, y = self._parts[0].rows(indices[:0])
        x = np.empty((len(indices), *x.shape[1:]), x.dtype)
        y = np.empty((len(indices), *y.shape[1:]), y.dtype)
        for number, part in enumerate(self._parts):
            here = np.flatnonzero(owner == number)
            if len(here):
                x[here], y[here] = part.rows(indices[here] - (self._ends[number] - len(part)))
        return x, y


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training samples, held-out samples and the number of classes (None: regression).

    Where y holds tokens, `classes` is the size of the vocabulary. Raises DataError where train and test do
    not have the same sample shape, where either is empty, or where a label is not below `classes`.
    """

    name: str
    train: Source
    test: Source
    classes: int | None

    def __post_init__(self) -> None:
        """Check that the two parts and the number of classes fit together."""
        if self.train.shape != self.test.shape:
            raise DataError(f"{self.name}: x is {self.train.shape} in train and {self.test.shape} in test")
        for part, source in (("train", self.train), ("test", self.test)):
            if len(source) == 0:
                raise DataError(f"{self.name}: the {part} part has no samples; give it at least one")
            if self.classes is not None and source.labels is not None and source.labels.max() >= self.classes:
                top = source.labels.max()
                raise DataError(
                    f"{self.name}: label {top} in {part}, but classes is {self.classes}: use 0..classes-1"
                )


def check_indices(indices: Int64Array, n: int) -> Int64Array:
    """`indices` as a 1-d int64 array; DataError where one is outside 0..n-1 (numpy wraps negative ones)."""
    indices = np.asarray(indices, np.int64)
    if indices.ndim != 1:
        raise DataError(f"row indices must be a 1-d array, not of shape {indices.shape}")
    if len(indices) and (indices.min() < 0 or indices.max() >= n):
        raise DataError(
            f"rows {indices.min()}..{indices.max()} were asked of a source that has rows 0..{n - 1}"
        )
    return indices


def _served_x(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind in "iu" and dtype.itemsize > 1:
        return np.dtype(np.int64)
    raise DataError(f"x is {dtype}: store features or images as float32 (images / 255), tokens as int64")


def _served_y(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind in "iub":
        return np.dtype(np.int64)
    raise DataError(f"y is {dtype}: store labels or tokens as int64, targets as float32")


def _labels(y: Array) -> Int64Array:
    labels = np.array(y, np.int64)
    if len(labels) and labels.min() < 0:
        raise DataError(f"label {labels.min()} is negative: number the classes 0, 1, 2, ...")
    return labels


def _groups(groups: Array, n: int) -> Int64Array:
    if groups.shape != (n,) or groups.dtype.kind not in "iu":
        raise DataError(
            f"groups must be {n} integers, one per sample, not {groups.dtype} of shape {groups.shape}"
        )
    return np.array(groups, np.int64)


def _joined(arrays: Sequence[Int64Array | None]) -> Int64Array | None:
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if len(known) == len(arrays) else None
