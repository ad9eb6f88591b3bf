"""Payloads of chosen elements: their values, and where they lie."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hpc_fl.backends import Array, backend_of
from hpc_fl.compression.arrays import as_array
from hpc_fl.compression.base import Base, Inputs, inputs_of
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.indices import most_bytes, read_indices, write_indices
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading, parts_of, require, require_values


@dataclass(frozen=True)
class Selected:
    """``indices`` (k,) int32, ascending, ``values`` (k,) float32, and what to keep besides the residual."""

    indices: Array
    values: Array
    extra: Kept


class Sparse(Base):
    """A codec that sends some elements as they are: decoded + residual = input + old residual, exactly.

    Payload: values, index part; meta (k, coding of the indices).
    """

    selects: ClassVar[bool] = True
    keeps: ClassVar[tuple[str, ...]] = ("residual",)

    @property
    def needs_feedback(self) -> bool:
        return True

    @abstractmethod
    def most(self, n: int) -> int:
        """How many of n elements it takes at most."""

    @abstractmethod
    def select(self, g: Array, before: Inputs | None) -> Selected:
        """Chooses among g, or among g + e with the rest written to c: ``before``'s, where given."""

    def nbytes(self, n: int) -> int:
        k = self.most(n)
        return 4 * k + most_bytes(k, n)

    def encode(self, x: Buffer) -> Payload:
        g = as_array(x, "update")
        return self._payload(g.size, self.select(g, None))

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        inputs = inputs_of(x, kept, spare, *self.keeps)
        chosen = self.select(inputs.g, inputs)
        return self._payload(inputs.g.size, chosen), {"residual": spare, **chosen.extra}

    def _payload(self, n: int, chosen: Selected) -> Payload:
        return sparse_payload(self.id, n, chosen.indices, chosen.values)

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        return reading_of(*sparse_parts(payload, like))


def sparse_payload(codec: int, n: int, indices: Array, values: Array) -> Payload:
    """The payload, with the id of a sparse codec, of ``values`` (k,) at ``indices`` (k,) of n elements."""
    coding, part = write_indices(indices, n)
    return Payload(codec, n, (values, part), (values.size, coding))


def sparse_parts(payload: Payload, like: Array) -> tuple[Array, Array]:
    """The inverse: indices (k,) int32, ascending, and values (k,) float32, where ``like`` lies.

    Raises :class:`WireError` for what :func:`sparse_payload` cannot have made.
    """
    require(
        len(payload.meta) == 2 and len(payload.parts) == 2, payload, "a sparse payload has 2 meta, 2 parts"
    )
    k, coding = payload.meta
    values, part = parts_of(payload, like, ("float32", k), (str(payload.parts[1].dtype), None))
    indices = read_indices(coding, part, k, payload)
    require_values(values, payload)
    return indices, values


def reading_of(indices: Array, values: Array) -> Reading:
    """The reading of elements found sound."""

    def add(weight: float, out: Array) -> None:
        backend_of(out).scatter_add(indices, values, weight, out)

    return Reading(add, indices=indices)
