"""The elements that changed by more than eps: the model filter.

Strom: Scalable Distributed DNN Training Using Commodity GPU Cloud Computing, Interspeech 2015; Hsieh et al.:
Gaia, NSDI 2017 (significance filter).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from hpc_fl.backends import Array, backend_of
from hpc_fl.compression.base import Inputs
from hpc_fl.compression.sparse import Selected, Sparse
from hpc_fl.errors import CodecError


@dataclass(frozen=True)
class Threshold(Sparse):
    """Sends the elements of magnitude above ``eps``: any number of them, none or all.

    Raises :class:`CodecError` for an ``eps`` that is negative or not finite.
    """

    eps: float

    name: ClassVar[str] = "threshold"
    id: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if not 0 <= self.eps < math.inf:
            raise CodecError(f"threshold: eps = {self.eps} given; finite and 0 or more expected")

    def contraction(self, n: int) -> float | None:
        return None  # what stays back is bounded by eps an element, not by a share of the input

    def most(self, n: int) -> int:
        return n

    def select(self, g: Array, before: Inputs | None) -> Selected:
        # Room for all, of which the memory is taken as it is written.
        backend, n = backend_of(g), g.size
        indices, values = backend.empty(n, "int32"), backend.empty(n, "float32")
        e, c = (None, None) if before is None else (before.e, before.c)
        k = backend.add_threshold(g, e, c, self.eps, indices, values)
        return Selected(indices[:k].copy(), values[:k].copy(), {})
