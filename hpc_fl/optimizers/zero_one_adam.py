"""0/1 Adam: the variance is measured more and more rarely, then ranks step by themselves between exchanges.

Lu, Li, Zhang, De Sa, He: Maximizing Communication Efficiency for Large-scale Training via 0/1 Adam, ICLR
2023. With rho = lr / (1 - beta1^t), on rank i:

    refresh   g dense, a step of Adam: m and v
    else      m_i <- beta1 m_i + (1 - beta1) g_i       u_i <- u_i + rho m_i
      local     x_i <- (1 - lr * decay) x_i - rho m_i / d
      exchange  u <- the mean of all u_i, encoded with error feedback;   m <- u / (sum of rho)
                x <- (product of 1 - lr * decay) x_then - u / d,   sums and product since the last exchange

Refreshes are at steps k_0 = 0, k_(j+1) = k_j + 2^floor(j / kappa), until ``freeze``. From there on ranks
exchange every 1, 2, 4, ... steps up to ``longest``, which doubles every ``doubling`` steps. As in the
authors' own code, a refresh has no second exchange for m, whose mean follows from that of g.
"""

from __future__ import annotations

from typing import Final, Unpack

import torch
from torch import Tensor

from hpc_fl.collectives.collective import Reduced, Reduction
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers.moments import Moments, Options

_JUST_NOW: Final = (0.0, 0.0, 1.0, 0.0)
"""Since the last exchange: how many local steps, sum of rho, product of 1 - lr * decay, sum of weights."""


def refreshes(step: int, kappa: int) -> bool:
    """Whether the variance takes in the gradient of ``step`` (from 0)."""
    level = (step // kappa + 1).bit_length() - 1
    # kappa refreshes a level, 2^level steps apart; a level begins where those before it end.
    return (step - kappa * ((1 << level) - 1)) % (1 << level) == 0


def exchanges(since: int, doubling: int, longest: int) -> bool:
    """Whether ranks exchange in step ``since`` (from 0) of those that may be local."""
    level = min(since // doubling, longest.bit_length())
    return (since + 1) % min(1 << level, longest) == 0


class ZeroOneAdam(Moments):
    """``kappa``: after so many refreshes they become half as frequent. ``freeze``: how many steps come before
    the variance stays and steps may be local, 1 or more; None: variance goes on, no step is local.
    ``doubling``, ``longest``: as above; with ``longest`` 1 no step is local.

    Ranks have the same parameters where ``local_steps`` is 0. Between exchanges those of a rank are its own,
    as are its ``momentum`` and its checkpoint: save where ranks agree. State, (trainable,) float32: also
    ``anchor``, the parameters that they last agreed on, and ``gathered`` (u).

    :meth:`step` raises :class:`ConfigError` for an lr that is not above 0 in steps that are not refreshes: m
    is found by a division by it.
    """

    def __init__(
        self,
        model: FlatModel,
        dense: Reduction,
        compressed: Reduction,
        *,
        kappa: int = 16,
        freeze: int | None = None,
        doubling: int = 32768,
        longest: int = 16,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, dense, compressed, **options)
        self._expect("kappa", kappa, kappa >= 1, "1 or more")
        self._expect("freeze", freeze, freeze is None or freeze >= 1, "1 or more, or None,")
        self._expect("doubling", doubling, doubling >= 1, "1 or more")
        self._expect("longest", longest, longest >= 1, "1 or more")
        self._kappa, self._freeze, self._doubling, self._longest = kappa, freeze, doubling, longest
        roomy = 0 if freeze is None or longest == 1 else self.momentum.numel()
        self.anchor, self.gathered = (torch.zeros(roomy, device=model.device) for _ in range(2))
        self._since = torch.tensor(_JUST_NOW, dtype=torch.float64)

    @property
    def local_steps(self) -> int:
        """How many steps this rank has made by itself since the last exchange; the same on all ranks."""
        return int(self._since[0])

    def _advance(self, weight: float) -> Reduced:
        frozen = self._freeze is not None and self.steps >= self._freeze
        if not frozen and refreshes(self.steps, self._kappa):
            return self._adam_step(weight)
        self._expect("lr", self.lr, self.lr > 0, "above 0 (m is found by a division by it)")
        if not frozen or exchanges(self.steps - (self._freeze or 0), self._doubling, self._longest):
            return self._exchange_step(weight)
        return self._local_step(weight)

    def _adam_step(self, weight: float) -> Reduced:
        reduced = self._refresh(weight)
        if reduced.weight > 0:
            self._walk()
        return reduced

    def _exchange_step(self, weight: float) -> Reduced:
        params, rate = self.model.params, self._rate
        local_steps, rates, product, weights = self._since.tolist()
        gathered = self._mixed().mul_(rate)
        if local_steps:
            gathered.add_(self.gathered)
        reduced = self._exchange(gathered, weight + weights)
        if reduced.weight > 0:
            if local_steps:
                params.copy_(self.anchor)
            params.mul_(product * self._kept).addcdiv_(gathered, self.denominator, value=-1)
            torch.div(gathered, rates + rate, out=self.momentum)
            self._since.copy_(torch.tensor(_JUST_NOW))
        return reduced

    def _local_step(self, weight: float) -> Reduced:
        """A step of this rank alone, which counts whatever its weight: all ranks count alike."""
        rate = self._rate
        if not self.local_steps:
            self.anchor.copy_(self.model.params)
            self.gathered.zero_()
        self.momentum.copy_(self._mixed())
        self.momentum.index_fill_(0, self.idle, 0.0)
        self.gathered.add_(self.momentum, alpha=rate)
        self._walk()
        _, rates, product, weights = self._since.tolist()
        now = (self.local_steps + 1, rates + rate, product * self._kept, weights + weight)
        self._since.copy_(torch.tensor(now, dtype=torch.float64))
        return Reduced(1.0, ())

    def _state(self) -> dict[str, Tensor]:
        return super()._state() | {"anchor": self.anchor, "gathered": self.gathered, "since": self._since}
