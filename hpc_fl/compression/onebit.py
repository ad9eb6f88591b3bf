"""One bit an element: its sign, times the mean magnitude.

Karimireddy, Rebjock, Stich, Jaggi: Error Feedback Fixes SignSGD, ICML 2019 (scaled sign); Zheng, Huang, Kwok:
Communication-Efficient Distributed Blockwise Momentum SGD with Error-Feedback, NeurIPS 2019 (by block); after
Seide et al.: 1-Bit Stochastic Gradient Descent, Interspeech 2014. The mean of the magnitudes contracts
whatever the data; their root mean square does not on heavy tails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hpc_fl.backends import Array
from hpc_fl.compression import signs
from hpc_fl.compression.arrays import as_array, as_tensor
from hpc_fl.compression.base import Base, inputs_of
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading
from hpc_fl.compression.sizes import check_segments, lengths_of
from hpc_fl.errors import CodecError


@dataclass(frozen=True)
class OneBit(Base):
    """A scale for the whole buffer, for each of ``segments`` (lengths that sum to n), or each ``block``.

    Kept: ``residual``, which is the corrected buffer c = x + what was kept back before, and its ``scales``:
    what is kept back is c - copysign(scale, c), formed in the pass of the next call. Raises
    :class:`CodecError` for segments and block together, and a block below 1.
    """

    segments: tuple[int, ...] | None = None
    block: int | None = None

    name: ClassVar[str] = "onebit"
    id: ClassVar[int] = 6

    def __post_init__(self) -> None:
        if self.segments is not None and self.block is not None:
            raise CodecError("onebit: give segments or block, not both")
        if self.block is not None and not 0 < self.block < 2**31:
            raise CodecError(f"onebit: block = {self.block} given; 1 to 2147483647 expected")
        if self.segments is not None:
            check_segments(self.name, self.segments)

    @property
    def needs_feedback(self) -> bool:
        return True

    def contraction(self, n: int) -> float | None:
        # ||x - s sign(x)||^2 = ||x||^2 - ||x||_1^2 / n, and ||x||_1 >= ||x||_2.
        return 1.0 / max(1, signs.longest(self._layout(n), n))

    def nbytes(self, n: int) -> int:
        return -(-n // 8) + 4 * signs.segments_in(self._layout(n), n)

    def encode(self, x: Buffer) -> Payload:
        g = as_array(x, "update")
        return self._payload(g.size, signs.pack(g, None, self._layout(g.size)))

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        inputs = inputs_of(x, kept, spare, "residual", "scales")
        packed = signs.pack(inputs.g, inputs, self._layout(inputs.g.size))
        kept = {"residual": spare, "scales": as_tensor(packed.scales)}
        return self._payload(inputs.g.size, packed), kept

    def encode_sum(self, x: Buffer, e: Buffer, spare: Tensor, hints: Kept) -> Payload:
        g = as_array(x, "update")
        return self._payload(g.size, signs.pack_sum(g, as_array(e, "second term"), self._layout(g.size)))

    def settle(self, kept: Kept) -> None:
        signs.settle(kept, self._layout(kept["residual"].numel()))

    def _payload(self, n: int, packed: signs.Signs) -> Payload:
        return Payload(self.id, n, (packed.scales, packed.bits), self._layout(n))

    def _layout(self, n: int) -> signs.Layout:
        if self.block is not None:
            return (self.block,)
        return (0, *lengths_of(self.segments, n))

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        return signs.read_signs(payload, like)
