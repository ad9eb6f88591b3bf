"""1-bit Adam: Adam, then momentum exchanged with 1 bit an element, divided by a variance that stays as it is.

Tang, Gan, Awan, Rajbhandari, Li, Lian, Liu, Zhang, He: 1-bit Adam: Communication Efficient Large-Scale
Training with Adam's Convergence Speed, ICML 2021. After the warm-up, on rank i:

    m_i = beta1 m + (1 - beta1) g_i       m <- the mean of all m_i, encoded with error feedback
    x <- (1 - lr * decay) x - lr / (1 - beta1^t) * m / d,     d as the warm-up left it

What error feedback delays adds up in a step that is linear in m; it would not in v.
"""

from __future__ import annotations

from typing import Unpack

from hpc_fl.collectives.collective import Reduced, Reduction
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers.moments import Moments, Options


class OneBitAdam(Moments):
    """``warmup``: how many dense steps of Adam come first, 1 or more; a fifth of all is usual."""

    def __init__(
        self,
        model: FlatModel,
        dense: Reduction,
        compressed: Reduction,
        *,
        warmup: int,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, dense, compressed, **options)
        self._expect("warmup", warmup, warmup >= 1, "1 or more (steps that measure the variance)")
        self._warmup = warmup

    def _advance(self, weight: float) -> Reduced:
        reduced = self._refresh(weight) if self.steps < self._warmup else self._compressed_step(weight)
        if reduced.weight > 0:
            self._walk()
        return reduced

    def _compressed_step(self, weight: float) -> Reduced:
        momentum = self._mixed()
        reduced = self._exchange(momentum, weight)
        if reduced.weight > 0:
            self.momentum.copy_(momentum)
        return reduced
