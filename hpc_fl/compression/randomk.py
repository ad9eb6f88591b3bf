"""k random elements that all parties choose alike: no indices travel, and payloads may be summed.

Wangni, Wang, Liu, Zhang: Gradient Sparsification for Communication-Efficient Distributed Optimization,
NeurIPS 2018; with a shared seed: Konečný et al.: Federated Learning: Strategies for Improving Communication
Efficiency, 2016 (random mask).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl import counter
from hpc_fl.backends import Array
from hpc_fl.compression.arrays import as_array, brought
from hpc_fl.compression.base import Base, inputs_of, keep_rest, require_finite
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading, parts_of, require, require_values
from hpc_fl.compression.sizes import amount, check_amount
from hpc_fl.compression.sparse import reading_of
from hpc_fl.errors import CodecError

_STREAM: Final = 0x524E444B
_ROUNDS: Final = 4


@dataclass(frozen=True)
class RandomK(Base):
    """``ratio`` of the elements, or ``k`` of them, chosen by ``seed`` and the round (:meth:`at`) alone.

    ``unbiased``: :meth:`encode` scales them by n/k, which makes the expectation right and is no contraction;
    :meth:`encode_keeping` never does, as what it keeps back does that job. Raises :class:`CodecError` for
    both or neither of ratio and k, or where they are out of range.
    """

    ratio: float | None = None
    k: int | None = None
    seed: int = 0
    unbiased: bool = False
    round_: int = 0

    name: ClassVar[str] = "randomk"
    id: ClassVar[int] = 4
    linear: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_amount(self.name, self.ratio, self.k)
        if self.unbiased and self.k == 0:
            raise CodecError("randomk: k = 0 cannot be unbiased; give at least 1")

    @property
    def needs_feedback(self) -> bool:
        return not self.unbiased

    def at(self, round_: int, party_id: int) -> RandomK:
        return replace(self, round_=round_)

    def contraction(self, n: int) -> float | None:
        share = amount(self.ratio, self.k, n) / n if n else 1.0
        return None if self.unbiased and share < 1 else share

    def nbytes(self, n: int) -> int:
        return 4 * amount(self.ratio, self.k, n)

    def encode(self, x: Buffer) -> Payload:
        g = as_array(x, "update")
        require_finite(g)
        payload = self._payload(g)
        if self.unbiased and g.size:
            (values,) = payload.parts
            with np.errstate(over="ignore"):
                values *= np.float32(g.size / values.size)
            require_finite(values)
        return payload

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        inputs = inputs_of(x, kept, spare, "residual")
        return keep_rest(inputs, self, self._payload), {"residual": spare}

    def _payload(self, g: Array) -> Payload:
        k, key = amount(self.ratio, self.k, g.size), counter.key(self.seed, _STREAM, self.round_)
        return Payload(self.id, g.size, (g[brought(chosen(key, g.size, k), g)],), (k, key))

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        require(len(payload.meta) == 2, payload, "k and the key of the choice expected as meta")
        k, key = payload.meta
        require(k <= payload.n < 2**31, payload, f"{k} elements chosen")
        (values,) = parts_of(payload, like, ("float32", k))
        require_values(values, payload)
        return reading_of(brought(chosen(key, payload.n, k), like), values)


@lru_cache(maxsize=4)
def chosen(key: int, n: int, k: int) -> NDArray[np.int32]:
    """k of 0..n-1 without replacement, ascending, in O(k) memory; kept for the payloads of one round.

    The images of 0..k-1 under a pseudo-random permutation named by ``key``: a Feistel network (Luby,
    Rackoff, SIAM J. Comput. 1988) on the smallest even number of bits that holds n, applied again to what
    lands at n or above (cycle walking; Black, Rogaway, CT-RSA 2002), fewer than 4 times on average.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    keys = [np.uint64(counter.key(key, step)) for step in range(_ROUNDS)]
    places = _permuted(np.arange(k, dtype=np.uint64), half, keys)
    outside = np.flatnonzero(places >= n)
    while outside.size:
        places[outside] = _permuted(places[outside], half, keys)
        outside = outside[places[outside] >= n]
    indices = np.sort(places.astype(np.int32))
    indices.flags.writeable = False
    return indices


def _permuted(x: counter.Words, half: int, keys: list[np.uint64]) -> counter.Words:
    """A permutation of the integers of 2 * half bits."""
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = x >> shift, x & mask
    for key in keys:
        left, right = right, left ^ (counter.mix(right + key) & mask)
    return left << shift | right
