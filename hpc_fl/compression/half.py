"""16 bits an element: IEEE half precision, or the upper half of a float32 (bfloat16).

IEEE 754-2008 (binary16); Kalamkar et al.: A Study of BFLOAT16 for Deep Learning Training, 2019.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hpc_fl.backends import Array
from hpc_fl.compression.arrays import as_array, as_tensor, chunks, module_of
from hpc_fl.compression.base import Base, inputs_of, keep_rest, require_finite
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading, parts_of, plain, require


class Half(Base):
    """2n bytes, rounded to nearest, ties to even; what is too large becomes the largest finite value.

    Payload: one part of dtype ``part``. ``exponent``: the bits that are all set in what is not finite.
    """

    part: ClassVar[str]
    exponent: ClassVar[int]
    largest: ClassVar[float]

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
            self.floats(narrow[piece]).copy_(as_tensor(g[piece]).clamp(-self.largest, self.largest))
        return Payload(self.id, g.size, (narrow,))

    @classmethod
    def _read(cls, payload: Payload, like: Array) -> Reading:
        require(not payload.meta, payload, "16-bit floats have no meta")
        (narrow,) = parts_of(payload, like, (cls.part, payload.n))
        bits, exponent = narrow.view("uint16"), np.uint16(cls.exponent)
        finite = not any((bits[piece] & exponent == exponent).any() for piece in chunks(payload.n))
        require(finite, payload, "a value is not finite")
        return plain(payload, narrow, lambda piece: as_array(cls.floats(piece).float()))

    @staticmethod
    @abstractmethod
    def floats(narrow: Array) -> Tensor:
        """A part as a tensor of 16-bit floats, of the same memory where it may be written."""


@dataclass(frozen=True)
class FP16(Half):
    """Half precision: 11 significant bits from 6e-5 to 65504, fewer down to 6e-8, below which it sends 0."""

    name: ClassVar[str] = "fp16"
    id: ClassVar[int] = 1
    part: ClassVar[str] = "float16"
    exponent: ClassVar[int] = 0x7C00
    largest: ClassVar[float] = torch.finfo(torch.float16).max

    def contraction(self, n: int) -> float | None:
        return None  # tiny values vanish, large ones are cut: no share of the input is sure to arrive

    @staticmethod
    def floats(narrow: Array) -> Tensor:
        return as_tensor(narrow)

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        return FP16._read(payload, like)


@dataclass(frozen=True)
class BF16(Half):
    """bfloat16: 8 significant bits over the range of float32, as uint16 on the wire."""

    name: ClassVar[str] = "bf16"
    id: ClassVar[int] = 2
    part: ClassVar[str] = "uint16"
    exponent: ClassVar[int] = 0x7F80
    largest: ClassVar[float] = torch.finfo(torch.bfloat16).max

    def contraction(self, n: int) -> float | None:
        # Each element is off by at most 2^-8 of itself: half an ulp, or a whole one where the largest finite
        # value stands in. Only float32 subnormals may be off by more.
        return 1.0 - 2.0**-16

    @staticmethod
    def floats(narrow: Array) -> Tensor:
        # NumPy has no bfloat16, and few torch functions take uint16.
        return as_tensor(narrow.view("int16")).view(torch.bfloat16)

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        return BF16._read(payload, like)
