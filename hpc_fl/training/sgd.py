"""SGD without :mod:`torch.optim`, whose first step imports the compiler: 2.7 s of CPU time on every rank, for
an update of one line. The whole list of parameters is one call, which also makes a step of a small model
cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Sgd:
    """``torch.optim.SGD``: the same settings, the same operations in the same order, hence the same bits.

    Steps along each parameter's ``.grad``; a parameter without one stays as it is. Raises ValueError for
    settings that torch refuses.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name}: got {value}, expected 0 or more")
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("nesterov needs a momentum above 0 and dampening 0")
        self._parameters = list(parameters)
        self._lr, self._momentum, self._dampening = lr, momentum, dampening
        self._weight_decay, self._nesterov, self._maximize = weight_decay, nesterov, maximize
        self._velocities: dict[int, Tensor] = {}
        """By position of the parameter."""

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        places = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        parameters = [self._parameters[i] for i in places]
        if not parameters:
            return
        directions = [p.grad for p in parameters if p.grad is not None]
        if self._maximize:
            directions = list(torch._foreach_neg(directions))
        if self._weight_decay:
            directions = list(torch._foreach_add(directions, parameters, alpha=self._weight_decay))
        if self._momentum:
            directions = self._accelerate(places, directions)
        torch._foreach_add_(parameters, directions, alpha=-self._lr)

    def _accelerate(self, places: list[int], gradients: list[Tensor]) -> list[Tensor]:
        known = [
            (self._velocities[i], g) for i, g in zip(places, gradients, strict=True) if i in self._velocities
        ]
        if known:
            velocities, current = (list(column) for column in zip(*known, strict=True))
            torch._foreach_mul_(velocities, self._momentum)
            torch._foreach_add_(velocities, current, alpha=1 - self._dampening)
        for i, gradient in zip(places, gradients, strict=True):
            if i not in self._velocities:
                self._velocities[i] = gradient.clone()
        velocities = [self._velocities[i] for i in places]
        if self._nesterov:
            return list(torch._foreach_add(gradients, velocities, alpha=self._momentum))
        return velocities
