"""16 bits an element: IEEE half precision, or the upper half of a float32 (bfloat16).

Kalamkar et al.: A Study of BFLOAT16 for Deep Learning Training, 2019; IEEE 754-2008 for binary16.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from torch import Tensor

from hpc_fl.backends import Array
from hpc_fl.compression.arrays import as_array, chunks, module_of
from hpc_fl.compression.base import Base, inputs_of, keep_rest, require_finite
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading, parts_of, plain, require

_LARGEST: Final = 65504.0
"""Of half precision."""
_BF16_INF: Final = 0x7F80


class Half(Base):
    """2n bytes, rounded to nearest, ties to even; what is too large becomes the largest finite value."""

    part: ClassVar[str]
    exponent: ClassVar[int]

    def nbytes(self, n: int) -> int:
        return 2 * n

    def encode(self, x: Buffer) -> Payload:
        g = as_array(x, "update")
        require_finite(g)
        return self._payload(g)

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        inputs = inputs_of(x, kept, spare, "residual")
        return keep_rest(inputs, self, self._payload), {"residual": spare}

    def _payload(self, g: Array) -> Payload:
        narrow = module_of(g).empty(g.size, self.part)
        for piece in chunks(g.size):
            narrow[piece] = self.narrowed(g[piece])
        return Payload(self.id, g.size, (narrow,))

    @classmethod
    def _read(cls, payload: Payload, like: Array) -> Reading:
        require(not payload.meta, payload, "16-bit floats have no meta")
        (narrow,) = parts_of(payload, like, (cls.part, payload.n))
        bits, exponent = narrow.view("uint16"), np.uint16(cls.exponent)
        finite = not any((bits[piece] & exponent == exponent).any() for piece in chunks(payload.n))
        require(finite, payload, "a value is not finite")
        return plain(payload, narrow, cls.widened)

    @staticmethod
    @abstractmethod
    def narrowed(g: Array) -> Array:
        """Finite float32 as 16-bit floats."""

    @staticmethod
    @abstractmethod
    def widened(narrow: Array) -> Array:
        """The inverse, exact."""


@dataclass(frozen=True)
class FP16(Half):
    """Half precision: 11 significant bits for 6e-5 to 65504, fewer down to 6e-8, below which it sends 0."""

    name: ClassVar[str] = "fp16"
    id: ClassVar[int] = 1
    part: ClassVar[str] = "float16"
    exponent: ClassVar[int] = 0x7C00

    def contraction(self, n: int) -> float | None:
        return None  # tiny values vanish, large ones are cut: no share of the input is sure to arrive

    @staticmethod
    def narrowed(g: Array) -> Array:
        return g.clip(-_LARGEST, _LARGEST).astype("float16")

    @staticmethod
    def widened(narrow: Array) -> Array:
        return narrow.astype("float32")

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        return FP16._read(payload, like)


@dataclass(frozen=True)
class BF16(Half):
    """bfloat16: 8 significant bits over the range of float32, as uint16 on the wire."""

    name: ClassVar[str] = "bf16"
    id: ClassVar[int] = 2
    part: ClassVar[str] = "uint16"
    exponent: ClassVar[int] = _BF16_INF

    def contraction(self, n: int) -> float | None:
        # Each element is off by at most 2^-8 of itself: half an ulp, or the whole one where the largest
        # finite value stands in. Only float32 subnormals, which carry no weight here, may be off by more.
        return 1.0 - 2.0**-16

    @staticmethod
    def narrowed(g: Array) -> Array:
        bits = g.view("uint32")
        rounded = (bits + ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)) >> np.uint32(16)
        rounded -= rounded & np.uint32(0x7FFF) == _BF16_INF  # an infinity less 1 is the largest finite value
        return rounded.astype("uint16")

    @staticmethod
    def widened(narrow: Array) -> Array:
        return (narrow.astype("uint32") << np.uint32(16)).view("float32")

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        return BF16._read(payload, like)
