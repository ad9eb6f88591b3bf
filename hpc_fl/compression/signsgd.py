"""One bit an element, with a scale that is the same for all: votes that can be counted.

Bernstein, Wang, Azizzadenesheli, Anandkumar: signSGD: Compressed Optimisation for Non-Convex Problems, ICML
2018; with majority vote: Bernstein, Zhao, Azizzadenesheli, Anandkumar, ICLR 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from hpc_fl.backends import Array
from hpc_fl.compression import signs
from hpc_fl.compression.arrays import as_array, as_tensor
from hpc_fl.compression.base import Base, Inputs, inputs_of
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading
from hpc_fl.errors import CodecError


@dataclass(frozen=True)
class SignSGD(Base):
    """An element decodes to ``scale`` with its sign (the sign bit: -0.0 to -scale).

    ``scale`` is a constant that all parties share, the step of the method: every vote weighs the same, and
    the payloads' bits can be counted by a majority. Kept: as for :class:`hpc_fl.compression.OneBit`. Raises
    :class:`CodecError` for a scale that is not positive and finite in float32.
    """

    scale: float = 1.0

    name: ClassVar[str] = "signsgd"
    id: ClassVar[int] = 7

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):
            scale = float(np.float32(self.scale))
        if not 0 < scale < math.inf:
            raise CodecError(f"signsgd: scale = {self.scale} given; above 0 and finite in float32 expected")

    def contraction(self, n: int) -> float | None:
        return None  # the scale knows nothing of the input

    def nbytes(self, n: int) -> int:
        return -(-n // 8) + 4

    def encode(self, x: Buffer) -> Payload:
        g = as_array(x, "update")
        return self._payload(g.size, self._pack(g, None))

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        inputs = inputs_of(x, kept, spare, "residual", "scales")
        packed = self._pack(inputs.g, inputs)
        kept = {"residual": spare, "scales": as_tensor(packed.scales)}
        return self._payload(inputs.g.size, packed), kept

    def settle(self, kept: Kept) -> None:
        signs.settle(kept, (0, kept["residual"].numel()))

    def _pack(self, g: Array, before: Inputs | None) -> signs.Signs:
        packed = signs.pack(g, before, (0, g.size))
        packed.scales.fill(self.scale)
        return packed

    def _payload(self, n: int, packed: signs.Signs) -> Payload:
        return Payload(self.id, n, (packed.scales, packed.bits), (0, n))

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        return signs.read_signs(payload, like)
