"""What a rank's encoding leaves out of one buffer, piece by piece, until the next call adds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hpc_fl.compression import Kept, Payload
from hpc_fl.compression.base import Base
from hpc_fl.errors import CodecError

RESIDUAL: Final = "residual"


@dataclass(frozen=True)
class Piece:
    """Elements ``start`` to ``stop`` of a buffer."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def of(self, x: Tensor) -> Tensor:
        """The view of them."""
        return x[self.start : self.stop]


class Memory:
    """Error feedback over a buffer of n elements that is encoded in pieces.

    New residuals take effect with :meth:`commit`: until every rank has encoded its whole buffer, a NaN on one
    of them must cost nobody anything. Two buffers of n float32, which change places.
    """

    def __init__(self) -> None:
        self._now: Tensor | None = None
        self._next: Tensor | None = None
        self._kept: dict[Piece, Kept] = {}
        self._new: dict[Piece, Kept] = {}
        self._owed: Tensor | None = None

    def begin(self, x: Tensor) -> None:
        """Takes up the buffer ``x`` (n,), to which what was restored is added in place. Raises
        :class:`CodecError` for another n than before.
        """
        if self._owed is not None:
            _same_length(x, self._owed)
            x.add_(self._owed.to(x.device))
        if self._now is None or self._next is None:
            # Pieces that are never encoded keep nothing back.
            self._now, self._next = torch.zeros_like(x), torch.zeros_like(x)
        _same_length(x, self._now)
        self._new = {}

    def encode(self, codec: Base, x: Tensor, piece: Piece) -> Payload:
        """The payload of that piece of ``x`` and what was kept back of it; every call has the same pieces."""
        assert self._now is not None
        assert self._next is not None
        kept = self._kept.get(piece)
        before = None if kept is None else {RESIDUAL: piece.of(self._now), **kept}
        payload, after = codec.encode_keeping(piece.of(x), before, piece.of(self._next))
        self._new[piece] = {name: tensor for name, tensor in after.items() if name != RESIDUAL}
        return payload

    def encode_whole(self, codec: Base, x: Tensor) -> Payload:
        """:meth:`encode` of the buffer as one piece."""
        return self.encode(codec, x, Piece(0, x.numel()))

    def both(self) -> tuple[Tensor, Tensor]:
        """What is kept back now, and where what the next commit keeps is to be written: for who encodes by
        other means than a codec.
        """
        assert self._now is not None
        assert self._next is not None
        return self._now, self._next

    def add_back(self, indices: Tensor, values: Tensor) -> None:
        """Returns ``values`` to the elements ``indices`` of what the next commit keeps."""
        assert self._next is not None
        self._next.index_add_(0, indices, values)

    def commit(self) -> None:
        """What was encoded since :meth:`begin` is now what was kept back; what was restored is paid."""
        self._now, self._next = self._next, self._now
        self._kept, self._owed = self._new, None

    def settle(self, codec: Base) -> Tensor | None:
        """What is kept back, formed (n,): the tensor itself, good until the next call. None: nothing yet."""
        if self._now is None:
            return self._owed
        for piece, kept in self._kept.items():
            codec.settle({RESIDUAL: piece.of(self._now), **kept})
        # What was restored and is not yet paid: every call that could have paid it was rolled back.
        return self._now if self._owed is None else self._now + self._owed

    def restore(self, residuals: Sequence[Tensor]) -> None:
        """Takes over what was kept back, by one rank or by several whose sums it was part of."""
        self._now = self._next = None
        self._kept, self._new = {}, {}
        self._owed = None
        for residual in residuals:
            self._owed = residual.clone() if self._owed is None else self._owed.add_(residual)


def _same_length(x: Tensor, kept: Tensor) -> None:
    if x.numel() != kept.numel():
        raise CodecError(
            f"buffer of {x.numel()} elements, what was kept back has {kept.numel()}: "
            "use one collective object for each buffer"
        )
