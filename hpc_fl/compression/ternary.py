"""Three values: the elements of largest magnitude, as their mean magnitude with their sign; 0 for the rest.

Sattler, Wiedemann, Müller, Samek: Robust and Communication-Efficient Federated Learning from Non-IID Data,
IEEE TNNLS 2019 (sparse ternary compression).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hpc_fl.backends import Array
from hpc_fl.compression.base import Base
from hpc_fl.compression.chain import Chained, read_chained
from hpc_fl.compression.onebit import OneBit
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading
from hpc_fl.compression.sparse import Sparse
from hpc_fl.compression.topk import Schedule, TopK


@dataclass(frozen=True)
class Ternary(Chained):
    """Top-k, then one bit a value: the parameters, what is kept and the errors are those of :class:`TopK`."""

    ratio: float | None = None
    k: int | None = None
    schedule: Schedule | None = None

    name: ClassVar[str] = "ternary"
    id: ClassVar[int] = 9

    def __post_init__(self) -> None:
        self.pair()

    def pair(self) -> tuple[Sparse, Base]:
        return TopK(self.ratio, self.k, schedule=self.schedule), OneBit()

    def at(self, round_: int, party_id: int) -> Ternary:
        first = TopK(self.ratio, self.k, schedule=self.schedule).at(round_, party_id)
        return Ternary(first.ratio, first.k)

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        return read_chained(payload, like, {OneBit.id: OneBit.read})
