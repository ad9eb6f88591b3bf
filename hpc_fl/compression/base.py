"""What the codecs share: decoding by the payload alone, and what is done with what was kept back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from hpc_fl.backends import Array
from hpc_fl.compression.arrays import all_finite, as_array, as_output, module_of, together
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading, accumulate_with, decode_with, require_id
from hpc_fl.errors import CodecError, NotFiniteError


class Base(ABC):
    """A codec, less its encoding; see :class:`hpc_fl.compression.codec.Codec`."""

    name: ClassVar[str]
    id: ClassVar[int]
    linear: ClassVar[bool] = False
    selects: ClassVar[bool] = False

    @property
    def unbiased(self) -> bool:
        return False

    @property
    def needs_feedback(self) -> bool:
        """Whether its loss, left alone, would stop a training short."""
        return False

    def at(self, round_: int, party_id: int) -> Self:
        return self

    @abstractmethod
    def contraction(self, n: int) -> float | None: ...

    @abstractmethod
    def nbytes(self, n: int) -> int: ...

    @abstractmethod
    def encode(self, x: Buffer) -> Payload: ...

    @abstractmethod
    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]: ...

    def encode_sum(self, x: Buffer, e: Buffer, spare: Tensor, hints: Kept) -> Payload:
        """The payload of ``x + e`` (n,), of which nothing is kept. ``spare`` (n,): memory to work in, which
        the payload may share. ``hints``: what the last call like this found, at first nothing; makes this one
        quicker and never changes the payload.
        """
        g = as_array(x, "update")
        inputs = Inputs(g, as_array(e, "second term"), as_output(spare, g.size, "spare"), {})
        return self.encode(corrected(inputs))

    def settle(self, kept: Kept) -> None:  # noqa: B027 - most codecs keep it formed
        """Forms what ``kept`` holds back, so that its ``residual`` is it: decoded + residual = input + old
        residual. In place; the next call gives the same bits as without.
        """

    @staticmethod
    @abstractmethod
    def read(payload: Payload, like: Array) -> Reading:
        """Checks every field of a payload with this codec's id; a :data:`Reader`."""

    def decode(self, payload: Payload, out: Buffer) -> None:
        require_id(payload, self.id, self.name)
        decode_with(self.read, payload, out)

    def accumulate(self, payload: Payload, weight: float, out: Buffer) -> None:
        require_id(payload, self.id, self.name)
        accumulate_with(self.read, payload, weight, out)


@dataclass(frozen=True)
class Inputs:
    """The arrays of an :meth:`encode_keeping`: the update ``g``, what was kept back, the next residual ``c``.

    ``e`` is the ``residual`` of ``kept``; both are empty at first.
    """

    g: Array
    e: Array | None
    c: Array
    kept: dict[str, Array]


def inputs_of(x: Buffer, kept: Kept | None, spare: Tensor, *names: str) -> Inputs:
    """The arguments as arrays, on one device; what was kept back must have exactly these ``names``."""
    if not isinstance(spare, Tensor):
        raise CodecError(f"spare: {type(spare).__name__} given, a torch tensor expected")
    g = as_array(x, "update")
    c = as_output(spare, g.size, "spare")
    together(g, c, "spare")
    if kept and set(kept) != set(names):
        raise CodecError(
            f"what was kept back by another codec: it holds {sorted(kept)}, this one keeps {sorted(names)}"
        )
    arrays = {name: as_array(tensor, name) for name, tensor in (kept or {}).items()}
    for name, array in arrays.items():
        together(g, array, name)
    e = arrays.get("residual")
    if e is not None and e.size != g.size:
        raise CodecError(f"residual: {e.size} elements, the update has {g.size}")
    if kept and g.size and spare.data_ptr() == kept["residual"].data_ptr():
        raise CodecError("spare: the memory of the residual, which must stay as it is; give another buffer")
    return Inputs(g, e, c, arrays)


def corrected(inputs: Inputs) -> Array:
    """g + e, written to c: for codecs without a kernel that does it in passing."""
    g, e, c = inputs.g, inputs.e, inputs.c
    if e is None:
        c[:] = g
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            module_of(g).add(g, e, out=c)
    require_finite(c)
    return c


def keep_rest(inputs: Inputs, codec: Base, encode: Callable[[Array], Payload]) -> Payload:
    """The payload of c = g + e, and in its place c less what the payload decodes to, in the same memory."""
    c = corrected(inputs)
    payload = encode(c)
    codec.read(payload, c).add(-1.0, c)
    return payload


def require_finite(array: Array) -> None:
    """Raises :class:`NotFiniteError` for a NaN or an infinity."""
    if not all_finite(array):
        raise NotFiniteError("the update, or what was kept back of earlier ones, is not finite")
