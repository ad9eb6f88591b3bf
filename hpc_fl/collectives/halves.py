"""The ring with 16 bits an element on the wire, and sums in float32.

IEEE 754-2008 (binary16); Kalamkar et al.: A Study of BFLOAT16 for Deep Learning Training, 2019.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives.algorithm import Floats, length
from hpc_fl.collectives.lane import Lane
from hpc_fl.collectives.ring import AHEAD, SEGMENT, Course, Ring
from hpc_fl.comm.transport import Transport
from hpc_fl.telemetry.ledger import Ledger

_DTYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Halves(Ring):
    """2 (P-1)/P * 2n bytes, as ``kind``: "fp16" or "bf16"; see :class:`Ring`.

    A segment is rounded (to nearest, ties to even; what is too large becomes the largest finite value) each
    time that it leaves, P times in all, and added as float32. The rank that has a whole sum rounds its own
    copy too: all ranks end with the same bits, of values that 16 bits can hold.
    """

    itemsize: ClassVar[int] = 2

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        kind: Literal["fp16", "bf16"],
        lane: Lane | None = None,
        *,
        segment: int = 2 * SEGMENT,
        ahead: int = AHEAD,
    ) -> None:
        self.name = f"ring-{kind}"
        super().__init__(transport, ledger, lane, segment=segment, ahead=ahead)
        self._dtype = _DTYPES[kind]
        self._largest = torch.finfo(self._dtype).max
        self._halves: list[Tensor] = []
        self._wide = torch.empty(0)

    def _target(self, array: Floats, course: Course, item: int) -> NDArray[Any]:
        return _wire(self._half(item % self._ahead, course.received(item)))

    def _source(self, array: Floats, course: Course, item: int) -> NDArray[Any]:
        part = course.sent(item)
        mine, half = torch.from_numpy(array[part]), self._half(self._ahead + item % self._ahead, part)
        half.copy_(torch.clamp(mine, -self._largest, self._largest, out=self._wide[: len(mine)]))
        if course.added <= item < course.added + course.segments:
            mine.copy_(half)  # the whole sum: what the others will have
        # What was received in 16 bits leaves as it came: rounding it again changes nothing.
        return _wire(half)

    def _arrived(self, array: Floats, course: Course, item: int) -> None:
        part = course.received(item)
        mine, half = torch.from_numpy(array[part]), self._half(item % self._ahead, part)
        if item < course.added:
            mine.add_(self._wide[: len(mine)].copy_(half))
        else:
            mine.copy_(half)

    def _half(self, slot: int, part: slice) -> Tensor:
        """Scratch memory: ``ahead`` slots for items received, then as many for items sent."""
        if not self._halves:
            self._wide = torch.empty(self._segment)
            self._halves = list(torch.empty(2 * self._ahead, self._segment, dtype=self._dtype))
        return self._halves[slot][: length(part)]


def _wire(half: Tensor) -> NDArray[Any]:
    """The memory as numpy, which has no bfloat16, can show it."""
    bits: NDArray[Any] = half.view(torch.int16).numpy()
    return bits
