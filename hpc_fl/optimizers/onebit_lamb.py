"""1-bit LAMB: LAMB, then momentum exchanged with 1 bit an element, and layers scaled by what is left of v.

You et al.: Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR 2020; Li, Awan,
Tang, Rajbhandari, He: 1-bit LAMB: Communication Efficient Large-Scale Large-Batch Training with LAMB's
Convergence Speed, HiPC 2022. With u = m / ((1 - beta1^t) d), by layer:

    warm-up   c = |x| / |u + decay x|, held in 0.01..10        a <- beta3 a + (1 - beta3) c
              x <- x - lr * c * (u + decay x)
    then      m as in 1-bit Adam; the gradient it stands for, (m - beta1 m_before) / (1 - beta1), goes into v
              r = max over the layer of (d at the end of the warm-up / d of v now)
              with decay, s = min(1, |u| / |u + decay x|) and r <- s r + 1 - s
              r held in 0.5..4, and within a tenth of the r before
              x <- x - lr * r * a * (u + decay x)
"""

from __future__ import annotations

from typing import Final, Unpack

import torch
from torch import Tensor

from hpc_fl.collectives.collective import Reduced, Reduction
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers.moments import Moments, Options
from hpc_fl.optimizers.norms import norm

RATIOS: Final = (0.01, 10.0)
FACTORS: Final = (0.5, 4.0)
CHANGE: Final = 0.1
"""The bounds of c and of r, and how much r may change in a step; all as in the paper."""


class OneBitLamb(Moments):
    """``warmup``: how many dense steps of LAMB come first, 1 or more. Layers are the model's parameters.

    ``beta3``: how slowly the average a of the ratios follows them. Momentum that is not ``preconditioned``
    travels divided by the root mean square that it had in its layer when the warm-up ended, as in the paper.

    State by layer, (layers,) float64: ``ratios`` (a), ``factors`` (r), ``magnitudes`` (root mean squares).
    """

    def __init__(
        self,
        model: FlatModel,
        dense: Reduction,
        compressed: Reduction,
        *,
        warmup: int,
        beta3: float = 0.9,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, dense, compressed, **options)
        self._expect("warmup", warmup, warmup >= 1, "1 or more (steps that measure variance and ratios)")
        self._expect("beta3", beta3, 0 <= beta3 < 1, "0 or more and below 1")
        self._warmup, self._beta3 = warmup, beta3
        self._layers = [slice(s.start, s.stop) for s in model.segments if s.stop > s.start]
        self.ratios, self.factors, self.magnitudes = (
            torch.full((len(self._layers),), first, dtype=torch.float64, device=model.device)
            for first in (0.0, 1.0, 1.0)
        )

    def _advance(self, weight: float) -> Reduced:
        warm = self.steps < self._warmup
        reduced = self._refresh(weight) if warm else self._compressed_step(weight)
        if reduced.weight > 0:
            growth = None if warm else self._growth()
            direction = torch.div(self.momentum, self.denominator, out=self.model.grads)
            direction.div_(1 - self.betas[0] ** (self.steps + 1))
            before = after = self._norms(direction)
            if self._decay:
                after = self._norms(direction.add_(self.model.params, alpha=self._decay))
            scales = self._ratio(after) if growth is None else self._scale(growth, before, after)
            for layer, scale in zip(self._layers, scales.float(), strict=True):
                direction[layer].mul_(scale)
            self.model.params.add_(direction, alpha=-self.lr)
        return reduced

    def _compressed_step(self, weight: float) -> Reduced:
        """Momentum, and the variance by the gradient that its change stands for."""
        if self.steps == self._warmup:
            sizes = torch.tensor([layer.stop - layer.start for layer in self._layers])
            magnitudes = self._norms(self.momentum) / sizes.sqrt().to(self.magnitudes)
            self.magnitudes.copy_(torch.where(magnitudes > 0, magnitudes, 1.0))
        momentum, beta1 = self._mixed(), self.betas[0]
        reduced = self._exchange(momentum, weight)
        if reduced.weight > 0:
            self._take_in(self.momentum.mul_(-beta1).add_(momentum).div_(1 - beta1))
            self.momentum.copy_(momentum)
        return reduced

    def _ratio(self, norms: Tensor) -> Tensor:
        """c by layer; 1, and not in the average, where a norm is 0."""
        sizes = self._norms(self.model.params)
        known = (sizes > 0) & (norms > 0)
        ratio = torch.where(known, (sizes / norms).clamp(*RATIOS), 1.0)
        average = torch.where(self.ratios > 0, self.ratios.lerp(ratio, 1 - self._beta3), ratio)
        self.ratios.copy_(torch.where(known, average, self.ratios))
        return ratio

    def _growth(self) -> Tensor:
        """By layer, by how much d was larger at the end of the warm-up than it is by v now, at most."""
        growth = torch.div(self.denominator, self._spread(self.model.grads), out=self.model.grads)
        growth.index_fill_(0, self.idle, 0.0)
        return torch.stack([growth[layer].amax() for layer in self._layers]).double()

    def _scale(self, growth: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """r * a by layer, given the norms of the direction before and after weight decay is added."""
        share = torch.where(after > 0, before / after, 1.0).clamp(max=1.0)
        factor = (share * growth + (1 - share)).clamp(*FACTORS)
        self.factors.copy_(factor.clamp(self.factors * (1 - CHANGE), self.factors * (1 + CHANGE)))
        return self.factors * self.ratios

    def _norms(self, x: Tensor) -> Tensor:
        return torch.stack([norm(x[layer]) for layer in self._layers])

    def _enter(self, momentum: Tensor) -> None:
        if self._preconditioned:
            super()._enter(momentum)
        else:
            for layer, magnitude in zip(self._layers, self.magnitudes.float(), strict=True):
                momentum[layer].div_(magnitude)

    def _leave(self, momentum: Tensor) -> None:
        if self._preconditioned:
            super()._leave(momentum)
        else:
            for layer, magnitude in zip(self._layers, self.magnitudes.float(), strict=True):
                momentum[layer].mul_(magnitude)

    def _state(self) -> dict[str, Tensor]:
        by_layer = {"ratios": self.ratios, "factors": self.factors, "magnitudes": self.magnitudes}
        return super()._state() | by_layer
