"""First choose elements, then make their values small: top-k with 4 bits a value, and the like.

Basu, Data, Karakus, Diggavi: Qsparse-local-SGD: Distributed SGD with Quantization, Sparsification, and Local
Computations, NeurIPS 2019.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor

from hpc_fl.backends import Array, backend_of
from hpc_fl.compression.arrays import as_array, brought
from hpc_fl.compression.base import Base, Inputs, inputs_of
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.half import BF16, FP16
from hpc_fl.compression.indices import most_bytes, read_indices, write_indices
from hpc_fl.compression.onebit import OneBit
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.qsgd import QSGD
from hpc_fl.compression.reading import Reader, Reading, require, require_values
from hpc_fl.compression.signsgd import SignSGD
from hpc_fl.compression.sparse import Sparse, reading_of
from hpc_fl.errors import CodecError, WireError

_VALUES: Final[dict[int, Reader]] = {codec.id: codec.read for codec in (FP16, BF16, OneBit, SignSGD, QSGD)}
"""What may encode the values of the chosen elements. Not a chain: a payload is never nested twice."""


class Chained(Base):
    """Two codecs as one: :meth:`pair` is what chooses elements, and what encodes their values (k,).

    Payload: the parts of the values' payload, then the index part; meta (k, coding of the indices, codec of
    the values, its meta).
    """

    selects: ClassVar[bool] = True

    @property
    def needs_feedback(self) -> bool:
        return True

    @abstractmethod
    def pair(self) -> tuple[Sparse, Base]: ...

    def contraction(self, n: int) -> float | None:
        # The error of the values adds to that of the choice, orthogonal to it: 1 - d1 + d1 (1 - d2).
        first, second = self.pair()
        d1, d2 = first.contraction(n), second.contraction(first.most(n))
        return None if d1 is None or d2 is None else d1 * d2

    def nbytes(self, n: int) -> int:
        first, second = self.pair()
        k = first.most(n)
        return second.nbytes(k) + most_bytes(k, n)

    def encode(self, x: Buffer) -> Payload:
        return self._encoded(as_array(x, "update"), None)[0]

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        inputs = inputs_of(x, kept, spare, *self.pair()[0].keeps)
        payload, extra = self._encoded(inputs.g, inputs)
        return payload, {"residual": spare, **extra}

    def _encoded(self, g: Array, before: Inputs | None) -> tuple[Payload, Kept]:
        first, second = self.pair()
        chosen = first.select(g, before)
        values = second.encode(chosen.values)
        if before is not None:
            # c is 0 where elements were chosen: there it receives what their encoding lost.
            second.read(values, chosen.values).add(-1.0, chosen.values)
            backend_of(g).scatter_add(chosen.indices, chosen.values, 1.0, before.c)
        coding, part = write_indices(chosen.indices, g.size)
        meta = (values.n, coding, values.codec, *values.meta)
        return Payload(self.id, g.size, (*values.parts, part), meta), chosen.extra


def read_chained(payload: Payload, like: Array, readers: Mapping[int, Reader]) -> Reading:
    """The reading of a chained payload whose values are of a codec in ``readers``."""
    require(len(payload.meta) >= 3 and len(payload.parts) >= 1, payload, "3 meta and an index part expected")
    k, coding, codec, *meta = payload.meta
    read = readers.get(codec)
    if read is None:
        raise WireError(f"chained payload with values of codec {codec}; possible are {sorted(readers)}")
    *parts, part = payload.parts
    indices = read_indices(coding, brought(part, like), k, payload)
    values = backend_of(like).empty(k, "float32")
    read(Payload(codec, k, tuple(parts), tuple(meta)), values).into(values)
    require_values(values, payload)
    return reading_of(indices, values)


@dataclass(frozen=True)
class Chain(Chained):
    """``sparsifier`` (topk, threshold), then ``values`` (fp16, bf16, onebit, signsgd, qsgd) of what it chose.

    Raises :class:`CodecError` for any other two.
    """

    sparsifier: Sparse
    values: Base

    name: ClassVar[str] = "chain"
    id: ClassVar[int] = 11

    def __post_init__(self) -> None:
        if not isinstance(self.sparsifier, Sparse):
            raise CodecError(f"chain: {self.sparsifier.name} cannot come first; topk or threshold can")
        if self.values.id not in _VALUES:
            raise CodecError(
                f"chain: {self.values.name} cannot come second; fp16, bf16, onebit, signsgd and qsgd can"
            )

    def pair(self) -> tuple[Sparse, Base]:
        return self.sparsifier, self.values

    def at(self, round_: int, party_id: int) -> Chain:
        return Chain(self.sparsifier.at(round_, party_id), self.values.at(round_, party_id))

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        return read_chained(payload, like, _VALUES)
