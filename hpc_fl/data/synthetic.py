"""Data made on the fly, of any size, which a model can learn: for benchmarks, tests and first tries.

Every sample is a function of (seed, part, row): a rank makes only the rows that it hosts, and the data do not
depend on how many ranks there are. Tasks:

- classification: x = mean of its class + noise; two class means are about 4.2 apart, so noise 1 leaves some
  overlap.
- tokens: each token has four successors, taken with chances 1/2, 1/4, 1/8 and 1/8 (1.21 nats a token); with
  probability `noise` the next token is any. y is x moved by one token.
- regression: y = <w, x> + noise, with x of variance 1 in each feature and w of length about 1.
"""

from collections.abc import Sequence
from math import prod
from typing import ClassVar, Final, Literal, Protocol

import numpy as np

from hpc_fl import counter
from hpc_fl.data.source import Array, Dataset, Int64Array, check_indices
from hpc_fl.errors import DataError

_SEPARATION: Final = 3.0
_BRANCHES: Final = np.array([0, 0, 0, 0, 1, 1, 2, 3], np.int64)
_CHUNK: Final = 1 << 15
"""Numbers made at a time: their 64-bit words stay in the cache."""
_MODEL, _LABELS, _FEATURES, _NOISE = range(4)
_TRAIN, _TEST = 1, 2


class _Task(Protocol):
    default_noise: ClassVar[float]
    most_noise: ClassVar[float]

    def __init__(
        self, shape: tuple[int, ...], classes: int | None, seed: int, part: int, noise: float
    ) -> None: ...

    def labels(self, rows: Int64Array) -> Int64Array | None: ...

    def make(self, rows: Int64Array) -> tuple[Array, Array]: ...


class SyntheticSource:
    """`samples` rows of a task, made when asked for; see Source."""

    def __init__(self, samples: int, shape: tuple[int, ...], task: _Task) -> None:
        self._samples, self._shape, self._task = samples, shape, task
        self._labels = task.labels(np.arange(samples))

    def __len__(self) -> int:
        """Number of samples."""
        return self._samples

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's x."""
        return self._shape

    @property
    def labels(self) -> Int64Array | None:
        """Labels, shape (n,), of a classification."""
        return self._labels

    @property
    def groups(self) -> Int64Array | None:
        """None: synthetic samples have no natural owner."""
        return None

    def rows(self, indices: Int64Array) -> tuple[Array, Array]:
        """The rows asked for; see Source.rows."""
        indices = check_indices(indices, self._samples)
        x, y = self._task.make(indices[:0])
        x = np.empty((len(indices), *x.shape[1:]), x.dtype)
        y = np.empty((len(indices), *y.shape[1:]), y.dtype)
        step = max(1, _CHUNK // prod(self._shape))
        for start in range(0, len(indices), step):
            part = slice(start, start + step)
            x[part], y[part] = self._task.make(indices[part])
        return x, y


class _Classification:
    default_noise: ClassVar[float] = 1.0
    most_noise: ClassVar[float] = float("inf")

    def __init__(
        self, shape: tuple[int, ...], classes: int | None, seed: int, part: int, noise: float
    ) -> None:
        if classes is None or classes < 2:
            raise DataError(f"classes={classes}: a synthetic classification needs at least 2 classes")
        self._shape, self._classes, self._noise = shape, classes, np.float32(noise)
        means = counter.normal(counter.key(seed, 0, _MODEL), np.arange(classes), prod(shape))
        self._means = means * np.float32(_SEPARATION * prod(shape) ** -0.5)
        self._label_key = counter.key(seed, part, _LABELS)
        self._noise_key = counter.key(seed, part, _NOISE)

    def labels(self, rows: Int64Array) -> Int64Array:
        return counter.below(self._classes, self._label_key, rows, 1)[:, 0]

    def make(self, rows: Int64Array) -> tuple[Array, Array]:
        y = self.labels(rows)
        x = counter.normal(self._noise_key, rows, prod(self._shape))
        x *= self._noise
        x += self._means[y]
        return x.reshape(-1, *self._shape), y


class _Tokens:
    default_noise: ClassVar[float] = 0.0
    most_noise: ClassVar[float] = 1.0

    def __init__(
        self, shape: tuple[int, ...], classes: int | None, seed: int, part: int, noise: float
    ) -> None:
        if classes is None or classes < 2 or len(shape) != 1:
            raise DataError(
                f"shape={list(shape)}, classes={classes}: synthetic tokens need shape [length] "
                "and a vocabulary of at least 2 classes"
            )
        self._length, self._classes = shape[0], classes
        self._threshold = np.uint64(round(noise * 2**29))
        self._successors = counter.below(classes, counter.key(seed, 0, _MODEL), np.arange(classes), 4)
        self._key = counter.key(seed, part, _FEATURES)

    def labels(self, rows: Int64Array) -> None:
        return None

    def make(self, rows: Int64Array) -> tuple[Array, Array]:
        words = counter.words(self._key, rows, self._length + 1)
        branch = _BRANCHES[(words & np.uint64(7)).astype(np.int64)]
        free = ((words >> np.uint64(3)) & np.uint64(2**29 - 1)) < self._threshold
        drawn = (((words >> np.uint64(32)) * np.uint64(self._classes)) >> np.uint64(32)).astype(np.int64)
        tokens = drawn.copy()
        for t in range(1, self._length + 1):
            follows = self._successors[tokens[:, t - 1], branch[:, t]]
            tokens[:, t] = np.where(free[:, t], drawn[:, t], follows)
        return tokens[:, :-1], tokens[:, 1:]


class _Regression:
    default_noise: ClassVar[float] = 0.1
    most_noise: ClassVar[float] = float("inf")

    def __init__(
        self, shape: tuple[int, ...], classes: int | None, seed: int, part: int, noise: float
    ) -> None:
        if classes is not None:
            raise DataError(f"classes={classes}: a synthetic regression has none; leave classes out")
        self._shape, self._noise = shape, noise
        weights = counter.normal(counter.key(seed, 0, _MODEL), np.arange(1), prod(shape))
        self._weights = weights.astype(np.float64) * prod(shape) ** -0.5
        self._feature_key = counter.key(seed, part, _FEATURES)
        self._noise_key = counter.key(seed, part, _NOISE)

    def labels(self, rows: Int64Array) -> None:
        return None

    def make(self, rows: Int64Array) -> tuple[Array, Array]:
        x = counter.normal(self._feature_key, rows, prod(self._shape))
        # A row's sum, not a matrix product: BLAS rounds differently for different numbers of rows.
        y = (x * self._weights).sum(axis=1, keepdims=True)
        y += self._noise * counter.normal(self._noise_key, rows, 1)
        return x.reshape(-1, *self._shape), y.astype(np.float32)


TaskName = Literal["classification", "tokens", "regression"]
TASKS: Final[dict[str, type[_Task]]] = {
    "classification": _Classification,
    "tokens": _Tokens,
    "regression": _Regression,
}


def synthetic(
    *,
    samples: int,
    shape: Sequence[int],
    classes: int | None = None,
    test_samples: int,
    seed: int = 0,
    task: TaskName = "classification",
    noise: float | None = None,
) -> Dataset:
    """`samples` rows to train on and `test_samples` to test on, of the same distribution.

    x: (n, *shape), float32, or int64 tokens; y: int64 labels (n,), int64 tokens (n, length), or float32 (n,
    1). classes: number of classes or of tokens; None for a regression. seed: of the data, apart from the
    run's seed. noise: see the module; None: 1 for classification, 0 for tokens, 0.1 for regression. Raises
    DataError naming the argument that cannot be used.
    """
    shape = tuple(shape)
    if task not in TASKS:
        raise DataError(f"task={task!r}: use one of {', '.join(TASKS)}")
    kind = TASKS[task]
    noise = kind.default_noise if noise is None else noise
    if samples < 1 or test_samples < 1:
        raise DataError(f"samples={samples}, test_samples={test_samples}: both must be at least 1")
    if not shape or min(shape) < 1:
        raise DataError(f"shape={list(shape)}: give the sizes of one sample, each at least 1")
    if not 0 <= noise <= kind.most_noise:
        raise DataError(f"noise={noise}: {task} takes 0..{kind.most_noise}")
    train, test = (kind(shape, classes, seed, part, noise) for part in (_TRAIN, _TEST))
    return Dataset(
        "synthetic",
        SyntheticSource(samples, shape, train),
        SyntheticSource(test_samples, shape, test),
        classes,
    )
