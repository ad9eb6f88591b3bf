"""The samples of the parties that a rank hosts, in memory as two tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpc_fl.data.partition import Partition
from hpc_fl.data.source import Array, Int64Array, Source
from hpc_fl.errors import DataError

if TYPE_CHECKING:
    import torch


class PartyStore:
    """Rows of the hosted parties, one party after another; a mapping from party id to views of its rows.

    x: (N, *shape), float32 or int64, and y: (N, ...), int64 or float32, contiguous, on one device; N is the
    number of hosted rows, 0 on a rank that hosts no party. party_ids, starts and counts (int64 arrays) are
    aligned: party_ids[i] holds the rows starts[i] .. starts[i] + counts[i] - 1.
    """

    def __init__(
        self, x: torch.Tensor, y: torch.Tensor, party_ids: Sequence[int], counts: Sequence[int]
    ) -> None:
        self.x, self.y = x, y
        self.party_ids = tuple(party_ids)
        self.counts: Int64Array = np.array(counts, np.int64)
        self.starts: Int64Array = np.cumsum(self.counts) - self.counts
        self._position = {party: i for i, party in enumerate(self.party_ids)}
        if len(self._position) != len(self.party_ids) or len(self.counts) != len(self.party_ids):
            raise DataError(f"party ids must be distinct, with one count each: {self.party_ids}")
        if not len(x) == len(y) == self.counts.sum():
            raise DataError(f"x has {len(x)} rows and y {len(y)}, the parties have {self.counts.sum()}")

    @classmethod
    def load(
        cls,
        source: Source,
        partition: Partition,
        party_ids: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> PartyStore:
        """Read the rows of `party_ids`, in that order, and no others from `source`.

        With a partition by features, the rows are read once and each party's x is zero outside its columns.
        Raises DataError where a party id is not in the partition, is given twice, or where tokens (int64 x)
        are partitioned by features.
        """
        import torch

        unknown = [party for party in party_ids if not 0 <= party < partition.parties]
        if unknown:
            raise DataError(
                f"party {unknown[0]} is not in the partition, which has parties 0..{partition.parties - 1}"
            )
        counts = [len(partition.rows[party]) for party in party_ids]
        read = _read_rows if partition.columns is None else _read_columns
        x, y = read(source, partition, party_ids)
        return cls(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device), party_ids, counts)

    def __len__(self) -> int:
        """Number of hosted parties."""
        return len(self.party_ids)

    def __contains__(self, party_id: object) -> bool:
        """Whether the party is hosted here."""
        return party_id in self._position

    def __getitem__(self, party_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, y) of one party: views, no copies. Raises DataError where it is not hosted here."""
        start, stop = self.bounds(party_id)
        return self.x[start:stop], self.y[start:stop]

    def bounds(self, party_id: int) -> tuple[int, int]:
        """(start, stop) of the party's rows in x and y. Raises DataError where it is not hosted here."""
        if party_id not in self._position:
            raise self._not_hosted(party_id)
        i = self._position[party_id]
        return int(self.starts[i]), int(self.starts[i] + self.counts[i])

    def extents(self, party_ids: Sequence[int]) -> tuple[Int64Array, Int64Array]:
        """The first row of each party, and how many it has, both (B,). Raises DataError as :meth:`bounds`."""
        try:
            places = [self._position[party] for party in party_ids]
        except KeyError as error:
            raise self._not_hosted(error.args[0]) from None
        return self.starts[places], self.counts[places]

    def samples(self, party_id: int) -> int:
        """Number of samples of the party. Raises DataError where it is not hosted here."""
        start, stop = self.bounds(party_id)
        return stop - start

    def _not_hosted(self, party_id: int) -> DataError:
        return DataError(f"party {party_id} is not hosted on this rank, which hosts {list(self.party_ids)}")


def _read_rows(source: Source, partition: Partition, party_ids: Sequence[int]) -> tuple[Array, Array]:
    nothing = np.empty(0, np.int64)
    return source.rows(np.concatenate([nothing, *(partition.rows[party] for party in party_ids)]))


def _read_columns(source: Source, partition: Partition, party_ids: Sequence[int]) -> tuple[Array, Array]:
    assert partition.columns is not None
    hosted = [partition.rows[party] for party in party_ids]
    needed = np.unique(np.concatenate([np.empty(0, np.int64), *hosted]))
    x, y = source.rows(needed)
    if x.dtype != np.float32:
        raise DataError(
            "tokens cannot be partitioned by features, since 0 is a token: use shuffle or natural"
        )
    flat = x.reshape(len(x), int(np.prod(source.shape)))
    own = np.zeros((sum(map(len, hosted)), flat.shape[1]), np.float32)
    start, picked = 0, []
    for party, rows in zip(party_ids, hosted, strict=True):
        at, columns = np.searchsorted(needed, rows), partition.columns[party]
        own[start : start + len(rows), columns] = flat[at[:, None], columns]
        picked.append(y[at])
        start += len(rows)
    return own.reshape(-1, *source.shape), np.concatenate([y[:0], *picked])
