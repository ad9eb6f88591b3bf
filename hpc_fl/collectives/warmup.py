"""A dense reduction for the first calls, a compressed one from then on.

Updates change fastest at the beginning, when an encoding with few bits is furthest behind. Tang et al.: 1-bit
Adam, ICML 2021, begin with dense rounds; Lin, Han, Mao, Wang, Dally: Deep Gradient Compression, ICLR 2018,
with a larger ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from hpc_fl.collectives.collective import Reduced
from hpc_fl.collectives.compressed import Compressed
from hpc_fl.collectives.lane import Running
from hpc_fl.errors import CodecError

_DENSE: Final = "dense."


class DenseFirst:
    """``dense`` for the calls with a number below ``rounds``, then ``compressed``; see :class:`Reduction`.

    The number of the call decides, which must be the same on every rank: on both sides of the switch they
    would wait for each other until :class:`TransportTimeout`. Calls without a number are counted from 0, in a
    resumed run again: give the number there. Both reductions are this object's from now on. Raises
    :class:`CodecError` for ``rounds`` below 0.
    """

    def __init__(self, dense: Compressed, compressed: Compressed, rounds: int) -> None:
        if rounds < 0:
            raise CodecError(f"warm-up: rounds = {rounds} given; 0 or more expected")
        self._dense, self._compressed, self._rounds = dense, compressed, rounds
        self._calls = 0

    @property
    def name(self) -> str:
        return self._compressed.name

    def at(self, number: int) -> Compressed:
        """What carries call ``number`` (0, 1, ...)."""
        return self._dense if number < self._rounds else self._compressed

    def allreduce(self, buffer: Tensor, weight: float = 1.0, round_: int | None = None) -> Reduced:
        """See :class:`Reduction`. Every rank must call it."""
        number = self._number(round_)
        return self.at(number).allreduce(buffer, weight, number)

    def start(self, buffer: Tensor, weight: float = 1.0, round_: int | None = None) -> Running[Reduced]:
        """See :class:`Reduction`. Every rank must call it."""
        number = self._number(round_)
        return self.at(number).start(buffer, weight, number)

    def _number(self, round_: int | None) -> int:
        number = self._calls if round_ is None else round_
        self._calls = number + 1
        return number

    def state(self) -> dict[str, Tensor]:
        """What both keep: the compressed one by its own names, the dense one's after ``dense.``."""
        return {_DENSE + name: kept for name, kept in self._dense.state().items()} | self._compressed.state()

    def restore(self, *states: Mapping[str, Tensor]) -> None:
        """Takes over :meth:`state`, or the state of the compressed reduction alone."""
        self._dense.restore(
            *({k.removeprefix(_DENSE): v for k, v in s.items() if k.startswith(_DENSE)} for s in states)
        )
        self._compressed.restore(*({k: v for k, v in s.items() if not k.startswith(_DENSE)} for s in states))

    def close(self) -> None:
        """Closes both (collective)."""
        self._dense.close()
        self._compressed.close()
