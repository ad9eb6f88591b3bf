"""Optimisers and learning-rate schedules of a party, by torch's own names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from hpc_fl.errors import ModelError

ELEMENTWISE: Final = frozenset(
    ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop", "ASGD")
)
"""Optimisers of :mod:`torch.optim` that treat every element alike: they may run on one flat buffer, or on
many parties at once.
"""

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
            optimizer = self.make([nn.Parameter(torch.zeros(1, 1))])
            if self.schedule is not None:
                self._scheduler(optimizer)
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"torch.optim.{self.name}({dict(self.options)}): {error}") from error

    @property
    def elementwise(self) -> bool:
        """Whether it may run on a flat buffer instead of the parameters one by one."""
        return self.name in ELEMENTWISE

    @cached_property
    def plain_sgd(self) -> bool:
        """Whether a step is ``p -= lr * g`` and nothing else: no state, so the step can be one operation."""
        defaults = self.make([nn.Parameter(torch.zeros(1))]).defaults
        return self.name == "SGD" and not any(
            defaults[k] for k in ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
        )

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
        while len(self._rates) <= round_:
            optimizer, scheduler = self._replay
            self._rates.append(float(optimizer.param_groups[0]["lr"]))
            if scheduler is not None:
                optimizer.step()
                scheduler.step()
        return self._rates[round_]

    @cached_property
    def _rates(self) -> list[float]:
        return []

    @cached_property
    def _replay(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        optimizer = self.make([nn.Parameter(torch.zeros(1, 1))])
        return optimizer, None if self.schedule is None else self._scheduler(optimizer)

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        assert self.schedule is not None
        scheduler = getattr(torch.optim.lr_scheduler, self.schedule)(optimizer, **self.schedule_options)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        return scheduler
