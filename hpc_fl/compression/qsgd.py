"""2 to 8 bits an element, rounded so that the expectation is right.

Alistarh, Grubic, Li, Tomioka, Vojnovic: QSGD: Communication-Efficient SGD via Gradient Quantization and
Encoding, NeurIPS 2017, with the largest magnitude of a block as its scale and codes of a fixed width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
from torch import Tensor

from hpc_fl import counter
from hpc_fl.backends import Array, backend_of
from hpc_fl.compression.arrays import all_finite, as_array
from hpc_fl.compression.base import Base, inputs_of
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading, parts_of, require, require_scales
from hpc_fl.errors import CodecError, NotFiniteError

_STREAM: Final = 0x51534744
_WIDTHS: Final = range(2, 9)


@dataclass(frozen=True)
class QSGD(Base):
    """``width`` bits an element and a scale for each ``block`` elements (a multiple of 8).

    The rounding is random: a function of ``seed``, the party and the round (:meth:`at`) and the position.
    Raises :class:`CodecError` for another width or block.
    """

    width: int = 4
    block: int = 512
    seed: int = 0
    round_: int = 0
    party_id: int = 0

    name: ClassVar[str] = "qsgd"
    id: ClassVar[int] = 8

    def __post_init__(self) -> None:
        if self.width not in _WIDTHS:
            raise CodecError(f"qsgd: width = {self.width} given; 2 to 8 bits expected")
        if not 0 < self.block < 2**31 or self.block % 8:
            raise CodecError(f"qsgd: block = {self.block} given; a multiple of 8 below 2^31 expected")

    @property
    def unbiased(self) -> bool:
        return True

    def at(self, round_: int, party_id: int) -> QSGD:
        return replace(self, round_=round_, party_id=party_id)

    def contraction(self, n: int) -> float | None:
        # With unit u = max|x| / L the variance of one element is at most u |x_i|, and at most u^2 / 4; the
        # largest element has none. Summed over a block of b: (b - 1) / 4L^2, and sqrt(b) / L.
        levels, b = 2 ** (self.width - 1) - 1, min(self.block, n)
        variance = min(max(b - 1, 0) / (4 * levels**2), math.sqrt(b) / levels)
        return 1.0 - variance if variance < 1 else None

    def nbytes(self, n: int) -> int:
        return -(-n // 8) * self.width + 4 * -(-n // self.block)

    def encode(self, x: Buffer) -> Payload:
        return self._quantized(as_array(x, "update"), None, None)

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        inputs = inputs_of(x, kept, spare, "residual")
        return self._quantized(inputs.g, inputs.e, inputs.c), {"residual": spare}

    def _quantized(self, g: Array, e: Array | None, c: Array | None) -> Payload:
        backend, n = backend_of(g), g.size
        codes = backend.empty(-(-n // 8) * self.width, "uint8")
        scales = backend.empty(-(-n // self.block), "float32")
        key = counter.key(self.seed, _STREAM, self.party_id, self.round_)
        backend.add_quantize(g, e, c, self.width, self.block, key, codes, scales)
        backend.check()
        if not _representable(scales, self.width):
            raise NotFiniteError("the update is too close to the limit of float32 to be quantised")
        return Payload(self.id, n, (scales, codes), (self.width, self.block))

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        require(len(payload.meta) == 2, payload, "width and block expected as meta")
        width, block = payload.meta
        require(width in _WIDTHS, payload, f"a width of {width} bits")
        require(0 < block < 2**31 and block % 8 == 0, payload, f"a block of {block} elements")
        n = payload.n
        scales, codes = parts_of(payload, like, ("float32", -(-n // block)), ("uint8", -(-n // 8) * width))
        require_scales(scales, payload)
        require(_representable(scales, width), payload, "a scale is too large")

        def add(weight: float, out: Array) -> None:
            backend_of(out).add_dequantized(codes, scales, width, block, weight, out)

        return Reading(add)


def _representable(scales: Array, width: int) -> bool:
    """Whether the largest code of each block decodes to something finite: scale / L * L may be rounded up."""
    levels = np.float32(2 ** (width - 1) - 1)
    with np.errstate(over="ignore"):
        return all_finite(scales / levels * levels)
