"""Optimisers and learning-rate schedules of a party, by torch's own names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from hpc_fl.errors import ModelError
from hpc_fl.training.sgd import Sgd

ELEMENTWISE: Final = frozenset(
    ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop", "ASGD")
)
"""Optimisers of :mod:`torch.optim` that treat every element alike: they may run on one flat buffer, or on
many parties at once.
"""

_OWN_SGD: Final = frozenset(inspect.signature(Sgd).parameters) - {"parameters"}
"""Options with which SGD is :class:`Sgd`; with others (fused, differentiable) it is torch's."""

_NEEDS_METRIC: Final = frozenset(("ReduceLROnPlateau",))
_NEEDS_CLOSURE: Final = frozenset(("LBFGS",))


def optimizer_names() -> list[str]:
    """Names usable as ``training.optimizer.name``."""
    skip = _NEEDS_CLOSURE | {"Optimizer", "SparseAdam"}
    return sorted(k for k, v in vars(torch.optim).items() if inspect.isclass(v) and k not in skip)


def schedule_names() -> list[str]:
    """Names usable as ``training.schedule.name``."""
    module = vars(torch.optim.lr_scheduler)
    base = torch.optim.lr_scheduler.LRScheduler
    skip = _NEEDS_METRIC | {"LRScheduler", "ChainedScheduler", "SequentialLR"}
    return sorted(
        k for k, v in module.items() if inspect.isclass(v) and issubclass(v, base) and k not in skip
    )


class Stepper(Protocol):
    """What moves parameters along their ``.grad``: :class:`Sgd`, or an optimiser of :mod:`torch.optim`."""

    def step(self) -> Any: ...


@dataclass(frozen=True)
class OptimizerSpec:
    """``torch.optim.<name>(parameters, **options)``; ``schedule`` changes its ``lr`` from round to round.

    Raises :class:`ModelError` at construction for a name or an option that torch does not have.
    """

    name: str = "SGD"
    options: Mapping[str, Any] = field(default_factory=lambda: {"lr": 0.1})
    schedule: str | None = None
    schedule_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.stepper([nn.Parameter(torch.zeros(1, 1))], self.learning_rate(0))
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"torch.optim.{self.name}({dict(self.options)}): {error}") from error

    @property
    def elementwise(self) -> bool:
        """Whether it may run on a flat buffer instead of the parameters one by one."""
        return self.name in ELEMENTWISE

    @cached_property
    def plain_sgd(self) -> bool:
        """Whether a step is ``p -= lr * g`` and nothing else: no state, so the step can be one operation."""
        return self.name == "SGD" and not any(
            self.options.get(k) for k in ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
        )

    def stepper(self, parameters: Sequence[Tensor], lr: float) -> Stepper:
        """The same as :meth:`make`, without torch's optimiser where it can do without: quick to start."""
        if self.name == "SGD" and self.options.keys() <= _OWN_SGD:
            return Sgd(parameters, **{**self.options, "lr": lr})
        return self.make(parameters, lr)

    def make(self, parameters: Sequence[Tensor], lr: float | None = None) -> torch.optim.Optimizer:
        """A new optimiser over ``parameters``, with its learning rate replaced by ``lr`` if given."""
        options = dict(self.options) if lr is None else {**self.options, "lr": lr}
        optimizer = getattr(torch.optim, self.name)(parameters, **options)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def learning_rate(self, round_: int) -> float:
        """The learning rate in force in round ``round_`` (the first is 0): the schedule takes one step a
        round.
        """
        if self.schedule is None:
            return self._base_rate
        while len(self._rates) <= round_:
            optimizer, scheduler = self._replay
            self._rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
        return self._rates[round_]

    @cached_property
    def _base_rate(self) -> float:
        default = inspect.signature(getattr(torch.optim, self.name)).parameters["lr"].default
        return float(self.options.get("lr", default))

    @cached_property
    def _rates(self) -> list[float]:
        return []

    @cached_property
    def _replay(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = self.make([nn.Parameter(torch.zeros(1, 1))])
        return optimizer, self._scheduler(optimizer)

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        assert self.schedule is not None
        scheduler = getattr(torch.optim.lr_scheduler, self.schedule)(optimizer, **self.schedule_options)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        return scheduler
