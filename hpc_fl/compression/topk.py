"""The k elements of largest magnitude.

Aji, Heafield: Sparse Communication for Distributed Gradient Descent, EMNLP 2017; Stich, Cordonnier, Jaggi:
Sparsified SGD with Memory, NeurIPS 2018. Warm-up: Lin, Han, Mao, Wang, Dally: Deep Gradient Compression,
ICLR 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from torch import Tensor

from hpc_fl.backends import Array, backend_of
from hpc_fl.compression.arrays import as_array, as_tensor
from hpc_fl.compression.base import Inputs
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.sizes import amount, check_amount, check_segments, lengths_of
from hpc_fl.compression.sparse import Selected, Sparse
from hpc_fl.errors import CodecError


class Schedule(Protocol):
    """A ratio for each round, on the way to a final one."""

    def ratio(self, round_: int, final: float) -> float: ...


@dataclass(frozen=True)
class WarmUp:
    """DGC's: the ratio falls exponentially from ``start`` in round 0 to the final one in round ``rounds``."""

    rounds: int = 4
    start: float = 0.25

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.start <= 1:
            raise CodecError(f"warm-up: rounds >= 1 and 0 < start <= 1 expected; given: {self}")

    def ratio(self, round_: int, final: float) -> float:
        done = min(max(round_, 0) / self.rounds, 1.0)
        return max(final, self.start * math.pow(final / self.start, done))


@dataclass(frozen=True)
class TopK(Sparse):
    """``ratio`` of the elements, or ``k`` of them; ties go to the lower index.

    ``segments``: lengths that sum to n, so that the ratio holds for each of them alone; the whole buffer
    where None. ``schedule``: the ratio by round, with ``ratio`` as its last. Kept: the residual, and as
    ``hint`` the smallest magnitude taken in each segment, which saves the next call a pass.

    Raises :class:`CodecError` for both or neither of ratio and k, and for k with segments or a schedule.
    """

    ratio: float | None = None
    k: int | None = None
    segments: tuple[int, ...] | None = None
    schedule: Schedule | None = None

    name: ClassVar[str] = "topk"
    id: ClassVar[int] = 3
    keeps: ClassVar[tuple[str, ...]] = ("residual", "hint")

    def __post_init__(self) -> None:
        check_amount(self.name, self.ratio, self.k)
        if self.k is not None and (self.segments is not None or self.schedule is not None):
            raise CodecError("topk: segments and schedules take a ratio, not k")
        if self.segments is not None:
            check_segments(self.name, self.segments)

    def at(self, round_: int, party_id: int) -> TopK:
        if self.schedule is None or self.ratio is None:
            return self
        return replace(self, ratio=self.schedule.ratio(round_, self.ratio), schedule=None)

    def contraction(self, n: int) -> float | None:
        lengths = lengths_of(self.segments, n)
        return min((self._taken(length) / length for length in lengths if length), default=1.0)

    def most(self, n: int) -> int:
        return sum(map(self._taken, lengths_of(self.segments, n)))

    def encode_sum(self, x: Buffer, e: Buffer, spare: Tensor, hints: Kept) -> Payload:
        g, hint = as_array(x, "update"), hints.get("hint")
        found = None if hint is None else as_array(hint, "hint")
        chosen = self._choose(g, as_array(e, "second term"), None, found)
        hints |= chosen.extra
        return self._payload(g.size, chosen)

    def select(self, g: Array, before: Inputs | None) -> Selected:
        if before is None:
            return self._choose(g, None, None, None)
        return self._choose(g, before.e, before.c, before.kept.get("hint"))

    def _choose(self, g: Array, e: Array | None, c: Array | None, hints: Array | None) -> Selected:
        """The largest of g + e; the rest is written to c, where there is one."""
        backend, lengths = backend_of(g), lengths_of(self.segments, g.size)
        taken = list(map(self._taken, lengths))
        indices, values = backend.empty(sum(taken), "int32"), backend.empty(sum(taken), "float32")
        found = backend.empty(len(taken), "float32")
        if hints is not None and hints.size != found.size:
            raise CodecError(f"hint: {hints.size} segments kept, this codec has {found.size}")
        start = place = 0
        for s, (length, k) in enumerate(zip(lengths, taken, strict=True)):
            part, slot = slice(start, start + length), slice(place, place + k)
            second, rest = (None if whole is None else whole[part] for whole in (e, c))
            hint = 0.0 if hints is None else hints[s]
            found[s] = backend.add_topk(g[part], second, rest, indices[slot], values[slot], hint)
            indices[slot] += start
            start, place = start + length, place + k
        backend.check()
        return Selected(indices, values, {"hint": as_tensor(found)})

    def _taken(self, n: int) -> int:
        return amount(self.ratio, self.k, n)
