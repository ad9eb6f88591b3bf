"""What the optimisers share: momentum and variance of the ranks' mean gradient, and how momentum travels.

Kingma, Ba: Adam, ICLR 2015; Loshchilov, Hutter: Decoupled Weight Decay Regularization, ICLR 2019. With g the
mean gradient and t the number of the step, from 1:

    m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g^2
    d = sqrt(v / (1 - beta2^t)) + eps     x <- (1 - lr * decay) x - lr / (1 - beta1^t) * m / d
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import inf, sqrt
from typing import Final, TypedDict, Unpack

import torch
from torch import Tensor

from hpc_fl.collectives.collective import Reduced, Reduction
from hpc_fl.errors import CheckpointError, ConfigError
from hpc_fl.flat import FlatModel

_STEPS: Final = "steps"
_DENSE: Final = "dense."
_COMPRESSED: Final = "compressed."


class Options(TypedDict, total=False):
    """What every optimiser takes. ``preconditioned``: momentum travels as m / d, see :class:`Moments`."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    preconditioned: bool


class Moments(ABC):
    """An optimiser of the parameters of ``model``, which begin with the same bits on every rank.

    ``dense`` and ``compressed`` are means over the ranks (:func:`hpc_fl.collectives.reduction`), of
    this optimiser alone; whoever made them closes them. In place of 1 bit any codec will do that contracts,
    with its error feedback. ``lr`` may be set between steps, alike on every rank. ``weight_decay`` is
    decoupled. Averaged buffers (BatchNorm) stay each rank's own.

    ``preconditioned``: momentum travels as m / d, so that the error of an element is in proportion to the
    steps that it makes. As m, which is how the papers write it, an element with a small variance gets the
    error of the large ones, enlarged by 1 / d.

    State: ``momentum``, ``variance`` and ``denominator`` (d above), (trainable,) float32 each. Making one is
    local. Raises :class:`ConfigError` for options out of range.
    """

    def __init__(
        self, model: FlatModel, dense: Reduction, compressed: Reduction, **options: Unpack[Options]
    ) -> None:
        self.model, self._dense, self._compressed = model, dense, compressed
        self.lr = options.get("lr", 1e-3)
        self.betas = options.get("betas", (0.9, 0.999))
        self._eps, self._decay = options.get("eps", 1e-8), options.get("weight_decay", 0.0)
        self._preconditioned = options.get("preconditioned", True)
        self._expect("lr", self.lr, 0 < self.lr < inf, "a finite number above 0")
        in_range = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        self._expect("betas", self.betas, in_range, "two numbers, 0 or more and below 1,")
        self._expect("eps", self._eps, 0 < self._eps < inf, "a finite number above 0")
        self._expect("weight_decay", self._decay, 0 <= self._decay < inf, "a finite number, 0 or more,")
        self.steps = 0
        self.refreshes = 0
        """How often the variance took in a gradient."""
        self.momentum, self.variance, self.denominator = (torch.zeros_like(model.params) for _ in range(3))
        self._idle: Tensor | None = None

    def _expect(self, option: str, value: object, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{type(self).__name__}: {option} = {value} given; {expected} expected")

    @torch.no_grad()
    def step(self, weight: float = 1.0) -> Reduced:
        """Moves the parameters by the gradients of the last backward passes of all ranks.

        Every rank must call it. ``weight``: of this rank in the mean, as its number of samples where batches
        differ. A rank whose gradient is not finite is left out, and named in the result; where nobody's is
        finite, nothing moves and the step is not counted. Raises what :class:`Compressed` raises.
        """
        self.model.collect_grads()
        reduced = self._advance(weight)
        if reduced.weight > 0:
            self.steps += 1
            self.model.publish()
        return reduced

    @abstractmethod
    def _advance(self, weight: float) -> Reduced:
        """One step with this rank's gradient in ``model.grads``, which may be overwritten; leaves everything
        as it is where the reduction has no weight.
        """

    def zero_grad(self) -> None:
        """Forgets the module's gradients; :meth:`step` does so too."""
        self.model.clear_grads()

    def _refresh(self, weight: float) -> Reduced:
        """Both moments, from the dense mean gradient."""
        gradient = self.model.grads
        reduced = self._dense.allreduce(gradient, weight, self.steps)
        if reduced.weight > 0:
            self.momentum.lerp_(gradient, 1 - self.betas[0])
            self._take_in(gradient)
            self._idle = None
            self._spread(self.denominator)
        return reduced

    def _take_in(self, gradient: Tensor) -> None:
        """One gradient more in the variance."""
        self.variance.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        self.refreshes += 1

    def _spread(self, out: Tensor) -> Tensor:
        """d of the variance as it is, in ``out``."""
        correction = sqrt(1 - self.betas[1] ** self.refreshes)
        return torch.sqrt(self.variance, out=out).div_(correction).add_(self._eps)

    @property
    def _rate(self) -> float:
        """What m / d is multiplied by in this step."""
        return self.lr / (1 - self.betas[0] ** (self.steps + 1))

    @property
    def _kept(self) -> float:
        """What weight decay leaves of the parameters in this step."""
        return 1 - self.lr * self._decay

    def _walk(self) -> None:
        """The step along m / d."""
        self.model.params.mul_(self._kept).addcdiv_(self.momentum, self.denominator, value=-self._rate)

    @property
    def idle(self) -> Tensor:
        """The indices of the elements that no gradient has reached (int64): they stay where they are.

        Without a variance there is no step for them, and an encoding without a zero (1 bit) would give them
        one. Their ``denominator`` is infinite.
        """
        if self._idle is None:
            self._idle = (self.variance == 0).nonzero().squeeze(1)
            self.denominator.index_fill_(0, self._idle, inf)
        return self._idle

    def _mixed(self) -> Tensor:
        """This rank's momentum with its gradient in it, in place of the gradient (trainable,)."""
        return self.model.grads.mul_(1 - self.betas[0]).add_(self.momentum, alpha=self.betas[0])

    def _exchange(self, momentum: Tensor, weight: float) -> Reduced:
        """Overwrites a rank's ``momentum`` (trainable,) by the mean, encoded on the way; 0 where idle."""
        idle = self.idle
        self._enter(momentum)
        reduced = self._compressed.allreduce(momentum, weight, self.steps)
        self._leave(momentum)
        momentum.index_fill_(0, idle, 0.0)
        return reduced

    def _enter(self, momentum: Tensor) -> None:
        """Into the units in which momentum travels."""
        if self._preconditioned:
            momentum.div_(self.denominator)

    def _leave(self, momentum: Tensor) -> None:
        """Out of them."""
        if self._preconditioned:
            momentum.mul_(self.denominator)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that is kept between steps, with what the reductions keep of this rank; not of the
        parameters.
        """
        kept = {_STEPS: torch.tensor([self.steps, self.refreshes])} | self._state()
        kept |= {_DENSE + name: tensor for name, tensor in self._dense.state().items()}
        kept |= {_COMPRESSED + name: tensor for name, tensor in self._compressed.state().items()}
        return {name: tensor.detach().clone() for name, tensor in kept.items()}

    def load_state_dict(self, first: Mapping[str, Tensor], *others: Mapping[str, Tensor]) -> None:
        """Takes over :meth:`state_dict` of this rank, or, in a smaller world, of several ranks: what is the
        same on all comes from the first, what the reductions kept is added up.

        In a larger world, new ranks load one without the entries ``compressed.*`` and ``dense.*``. Raises
        :class:`CheckpointError` for entries that are missing or of another shape; nothing is changed then.
        """
        own = self._state()
        for name, tensor in {_STEPS: torch.zeros(2), **own}.items():
            if name not in first or first[name].shape != tensor.shape:
                found = f"shape {tuple(first[name].shape)}" if name in first else "nothing"
                raise CheckpointError(
                    f"{type(self).__name__}: {name}: {found} found, shape {tuple(tensor.shape)} expected: "
                    "load the state of the same optimiser and model"
                )
        self.steps, self.refreshes = map(int, first[_STEPS].tolist())
        for name, tensor in own.items():
            tensor.copy_(first[name])
        endless = self.denominator.isinf()
        self._idle = endless.nonzero().squeeze(1) if bool(endless.any()) else None
        self._dense.restore(*(_part(state, _DENSE) for state in (first, *others)))
        self._compressed.restore(*(_part(state, _COMPRESSED) for state in (first, *others)))

    def _state(self) -> dict[str, Tensor]:
        """What is kept beside the reductions: the tensors themselves."""
        return {"momentum": self.momentum, "variance": self.variance, "denominator": self.denominator}


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
