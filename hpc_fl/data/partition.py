"""Which samples each party holds.

Pure functions (source, parties, *, rng, options) -> Partition. Every rank calls the same one with a generator
of the same seed and gets the same partition, without a message. The rows of a party ascend.
"""

from dataclasses import dataclass
from heapq import heapify, heapreplace
from math import prod

import numpy as np
import numpy.typing as npt

from hpc_fl.data.apportion import apportion
from hpc_fl.data.source import Int64Array, Source
from hpc_fl.errors import DataError


@dataclass(frozen=True)
class Partition:
    """rows: for each party the samples that it holds, int64, ascending.

    columns: None, or for each party the features that it owns: int64 indices, ascending, into one sample's
    flattened x; the others are zero for it.
    """

    rows: tuple[Int64Array, ...]
    columns: tuple[Int64Array, ...] | None = None

    @property
    def parties(self) -> int:
        """Number of parties."""
        return len(self.rows)

    @property
    def sizes(self) -> Int64Array:
        """Samples of each party, shape (parties,)."""
        return np.array([len(rows) for rows in self.rows], np.int64)


def shuffle(source: Source, parties: int, *, rng: np.random.Generator) -> Partition:
    """Every sample to one party, at random; sizes differ by one at most (IID).

    Raises DataError where there are more parties than samples.
    """
    _check(source, parties, 1)
    return _partition(np.array_split(rng.permutation(len(source)), parties))


def sample(source: Source, parties: int, *, rng: np.random.Generator, size: int) -> Partition:
    """`size` samples to each party, drawn at random with replacement: a party may hold a sample twice.

    Raises DataError where `size` is less than 1.
    """
    _check(source, 1, 1)
    _check_parties(parties)
    if size < 1:
        raise DataError(f"size={size}: a party draws at least 1 sample")
    return _partition([rng.integers(len(source), size=size) for _ in range(parties)])


def dirichlet(
    source: Source, parties: int, *, rng: np.random.Generator, alpha: float, min_samples: int = 1
) -> Partition:
    """Every sample to one party; each class is dealt over the parties in Dirichlet(alpha) proportions.

    Small alpha: few parties hold most of a class; large alpha: like `shuffle`. Afterwards parties with fewer
    than `min_samples` get random samples from whichever party is largest at the time, until none is below it.
    Raises DataError without labels, or where parties * min_samples exceeds n. Yurochkin et al., Bayesian
    nonparametric federated learning of neural networks, ICML 2019.
    """
    labels = _labels(source, "dirichlet")
    _check(source, parties, min_samples)
    _check_positive("alpha", alpha)
    dealt: list[list[Int64Array]] = [[] for _ in range(parties)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        counts = apportion(rng.dirichlet(np.full(parties, alpha)), len(rows))
        for party, part in zip(dealt, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
            party.append(part)
    return _partition(_level([rng.permutation(np.concatenate(party)) for party in dealt], min_samples))


def shards(source: Source, parties: int, *, rng: np.random.Generator, labels_per_party: int = 2) -> Partition:
    """Every sample to one party, each party holding at most `labels_per_party` labels.

    The samples are sorted by label and cut into parties * labels_per_party shards, of sizes as equal as they
    can be with one label a shard; each party gets `labels_per_party` of them at random (two may be of the
    same label). Raises DataError without labels, with fewer shards than labels, or with more shards than
    samples. After McMahan et al., Communication-efficient learning of deep networks from decentralized data,
    AISTATS 2017, whose shards may span labels where the classes are not equally large.
    """
    labels = _labels(source, "shards")
    _check(source, parties, labels_per_party)
    classes, sizes = np.unique(labels, return_counts=True)
    total = parties * labels_per_party
    if total < len(classes):
        raise DataError(
            f"{parties} parties of labels_per_party={labels_per_party} hold at most {total} labels, "
            f"the data {len(classes)}: use labels_per_party={-(-len(classes) // parties)} or more parties"
        )
    pieces: list[Int64Array] = []
    for label, count in zip(classes, _shards_per_label(sizes, total), strict=True):
        pieces.extend(np.array_split(rng.permutation(np.flatnonzero(labels == label)), count))
    dealt = rng.permutation(total).reshape(parties, labels_per_party)
    return _partition([np.concatenate([pieces[shard] for shard in mine]) for mine in dealt])


def quantity(
    source: Source,
    parties: int,
    *,
    rng: np.random.Generator,
    alpha: float | None = None,
    exponent: float | None = None,
    min_samples: int = 1,
) -> Partition:
    """Every sample to one party, at random, in unequal amounts.

    Each party gets `min_samples`; the rest is divided in Dirichlet(alpha) proportions, or by the power law
    (party_id + 1) ** -exponent, which makes party 0 the largest. Give one of alpha (> 0) and exponent (>= 0).
    Raises DataError where parties * min_samples exceeds n.
    Li et al., Federated learning on non-IID data silos, ICDE 2022 (quantity skew).
    """
    _check(source, parties, min_samples)
    weights = _quantity_weights(parties, rng, alpha, exponent)
    sizes = min_samples + apportion(weights, len(source) - parties * min_samples)
    return _partition(np.split(rng.permutation(len(source)), np.cumsum(sizes)[:-1]))


def natural(source: Source, parties: int, *, rng: np.random.Generator) -> Partition:
    """Every sample to one party, following the groups of the source (writers, hospitals, ...); groups stay
    whole.

    As many parties as groups: party i holds the group with the i-th smallest number. Fewer parties: groups
    are dealt, largest first (ties at random), to the party with the fewest samples, and parties are numbered
    by their smallest group. Raises DataError without groups, or with fewer groups than parties. Caldas et
    al., LEAF: a benchmark for federated settings, 2018.
    """
    _check_parties(parties)
    if source.groups is None:
        raise DataError(
            "natural needs a group for each sample, which this source has not: use shuffle or dirichlet"
        )
    _, member, sizes = np.unique(source.groups, return_inverse=True, return_counts=True)
    if len(sizes) < parties:
        raise DataError(
            f"{parties} parties, but the data have {len(sizes)} groups: use at most {len(sizes)} parties"
        )
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    owners = [(0, party) for party in range(parties)]
    owner = np.empty(len(sizes), np.int64)
    for group in order.tolist():
        load, party = owners[0]
        owner[group] = party
        heapreplace(owners, (load + int(sizes[group]), party))
    _, first, numbered = np.unique(owner, return_index=True, return_inverse=True)
    renamed = np.argsort(np.argsort(first))[numbered]
    return _partition(_grouped(renamed[member], parties))


def features(source: Source, parties: int, *, rng: np.random.Generator) -> Partition:
    """Every sample to every party, and each feature (number of x) to one party, at random: a vertical
    partition.

    A party's x is zero in the features that it does not own; all parties share the labels. Feature counts
    differ by one at most. Raises DataError with fewer features than parties. Tokens cannot be divided so:
    PartyStore refuses them.
    """
    _check(source, 1, 1)
    _check_parties(parties)
    width = prod(source.shape)
    if width < parties:
        raise DataError(f"{parties} parties, but a sample has {width} features: use at most {width} parties")
    columns = _partition(np.array_split(rng.permutation(width), parties)).rows
    return Partition((np.arange(len(source)),) * parties, columns)


def _partition(rows: list[Int64Array]) -> Partition:
    return Partition(tuple(np.sort(party).astype(np.int64, copy=False) for party in rows))


def _grouped(owner: Int64Array, parties: int) -> list[Int64Array]:
    sizes = np.bincount(owner, minlength=parties)
    return np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])


def _level(rows: list[Int64Array], least: int) -> list[Int64Array]:
    """Move samples from the end of the largest party's (shuffled) rows to parties that have fewer than
    `least`.
    """
    sizes = np.array([len(party) for party in rows])
    for poor in np.flatnonzero(sizes < least).tolist():
        gifts = []
        while sizes[poor] < least:
            rich = int(np.argmax(sizes))
            gifts.append(rows[rich][-1:])
            rows[rich] = rows[rich][:-1]
            sizes[rich] -= 1
            sizes[poor] += 1
        rows[poor] = np.concatenate([rows[poor], *gifts])
    return rows


def _shards_per_label(sizes: Int64Array, total: int) -> list[int]:
    """`total` shards over labels of these sizes, at least one each, the smallest shard as large as can be
    (d'Hondt).
    """
    shares = [1] * len(sizes)
    largest = [(-int(size) / 2, label) for label, size in enumerate(sizes)]
    heapify(largest)
    for _ in range(total - len(sizes)):
        label = largest[0][1]
        shares[label] += 1
        heapreplace(largest, (-int(sizes[label]) / (shares[label] + 1), label))
    return shares


def _quantity_weights(
    parties: int, rng: np.random.Generator, alpha: float | None, exponent: float | None
) -> npt.NDArray[np.float64]:
    if (alpha is None) == (exponent is None):
        raise DataError(f"alpha={alpha}, exponent={exponent}: quantity needs one of the two")
    if alpha is not None:
        _check_positive("alpha", alpha)
        return rng.dirichlet(np.full(parties, alpha))
    assert exponent is not None
    if not 0 <= exponent < np.inf:
        raise DataError(f"exponent={exponent}: it must be at least 0 (0: equal sizes)")
    ranks: npt.NDArray[np.float64] = np.arange(1, parties + 1, dtype=np.float64)
    return ranks**-exponent


def _labels(source: Source, name: str) -> Int64Array:
    if source.labels is None:
        raise DataError(
            f"{name} needs one label per sample, which this source has not: use shuffle, sample or quantity"
        )
    return source.labels


def _check(source: Source, parties: int, least: int) -> None:
    _check_parties(parties)
    if least < 1:
        raise DataError(
            f"{least} samples or shards per party: at least 1 is needed, since no party may be empty"
        )
    if parties * least > len(source):
        raise DataError(
            f"{parties} parties of {least} samples or more need {parties * least}, "
            f"the data have {len(source)}: use fewer parties"
        )


def _check_parties(parties: int) -> None:
    if parties < 1:
        raise DataError(f"{parties} parties: at least 1 is needed")


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise DataError(f"{name}={value}: it must be a positive number")
