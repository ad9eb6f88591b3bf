"""The codec that changes nothing: float32 as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hpc_fl.backends import Array
from hpc_fl.compression.arrays import as_array
from hpc_fl.compression.base import Base, inputs_of, require_finite
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading, parts_of, plain, require, require_values


@dataclass(frozen=True)
class Identity(Base):
    """Payload = the buffer, 4n bytes, sharing its memory. Keeps nothing back."""

    name: ClassVar[str] = "identity"
    id: ClassVar[int] = 0
    linear: ClassVar[bool] = True

    @property
    def unbiased(self) -> bool:
        return True

    def contraction(self, n: int) -> float | None:
        return 1.0

    def nbytes(self, n: int) -> int:
        return 4 * n

    def encode(self, x: Buffer) -> Payload:
        g = as_array(x, "update")
        require_finite(g)
        return Payload(self.id, g.size, (g,))

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        return self.encode(inputs_of(x, kept, spare).g), {}

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        require(not payload.meta, payload, "float32 as it is has no meta")
        (values,) = parts_of(payload, like, ("float32", payload.n))
        require_values(values, payload)
        return plain(payload, values, lambda piece: piece)
