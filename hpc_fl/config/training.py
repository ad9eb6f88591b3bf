"""The model, and a party's local work."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, Tag, model_validator

from hpc_fl.config.section import (
    Count,
    Custom,
    Fraction,
    FunctionName,
    Named,
    Positive,
    Rule,
    Section,
    choice,
    expand,
)
from hpc_fl.config.torch_names import MATRIX_WISE, check_options


class Logistic(Named):
    """One linear layer."""

    name: Literal["logistic"] = "logistic"


class Mlp(Named):
    """Linear layers of the given widths with ReLU between."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = (64,)


class Cnn(Named):
    """Convolutions with ReLU, one 2x2 max-pool, two linear layers."""

    name: Literal["cnn"] = "cnn"
    channels: tuple[Count, ...] = (16, 32)
    kernel: Count = 3
    padding: Annotated[int, Field(ge=0)] = 0
    hidden: Count = 128
    dropout: Fraction = 0.0


class ResNet18(Named):
    """ResNet-18 with the stem for small images."""

    name: Literal["resnet18"] = "resnet18"
    norm: Literal["batch", "group"] = "batch"
    width: Count = 64


class Transformer(Named):
    """A causal decoder over tokens."""

    name: Literal["transformer"] = "transformer"
    width: Count = 128
    depth: Count = 2
    heads: Count = 4
    tied: bool = True


Model = Annotated[
    Annotated[Logistic, Tag("logistic")]
    | Annotated[Mlp, Tag("mlp")]
    | Annotated[Cnn, Tag("cnn")]
    | Annotated[ResNet18, Tag("resnet18")]
    | Annotated[Transformer, Tag("transformer")]
    | Annotated[Custom, Tag("custom")],
    *choice("cnn"),
]


class Optimizer(Named):
    """``torch.optim.<name>``; every further key is one of its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str = "SGD"
    lr: Positive = 0.1

    @model_validator(mode="after")
    def _known_to_torch(self) -> Optimizer:
        check_options("torch.optim", self.name, self.options())
        return self


class Schedule(Named):
    """``torch.optim.lr_scheduler.<name>``, one step a round; every further key is one of its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str

    @model_validator(mode="after")
    def _known_to_torch(self) -> Schedule:
        check_options("torch.optim.lr_scheduler", self.name, self.options())
        return self


class Training(Section):
    """A party's local work in one round: ``epochs`` over its data, or ``steps`` batches if that is given.

    ``batch_size`` null: all of a party's data at once. ``executor``: loop (one party after another), vmap
    (the parties of a rank at once), auto (the faster of the two, measured once).
    """

    epochs: Count = 5
    steps: Count | None = None
    batch_size: Count | None = 32
    optimizer: Annotated[Optimizer, BeforeValidator(expand)] = Optimizer()
    schedule: Annotated[Schedule, BeforeValidator(expand)] | None = None
    clip_norm: Positive | None = None
    loss: Literal["auto", "cross_entropy", "mse"] | FunctionName = "auto"
    executor: Literal["auto", "loop", "vmap"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    buffers: dict[str, Rule] = Field(default_factory=dict)


def batching_problem(training: Training, model: Any) -> str | None:
    """Why ``executor: vmap`` cannot serve this model and optimiser, as far as the configuration tells."""
    if isinstance(model, ResNet18) and model.norm == "batch":
        return "model.norm: batch changes its statistics in training; use model.norm: group"
    if isinstance(model, Cnn) and model.dropout > 0:
        return "model.dropout is above 0, and dropout masks are drawn per party"
    if training.optimizer.name in MATRIX_WISE:
        return f"training.optimizer.name: {training.optimizer.name} needs each matrix by itself"
    if training.dtype != "float32":
        return f"training.dtype is {training.dtype}"
    return None
