"""Where the samples come from, and which party has which."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from hpc_fl.config.section import Count, Custom, Fraction, Named, Positive, choice


class Digits(Named):
    """scikit-learn's embedded 8x8 digits: 1,797 images, 10 classes."""

    name: Literal["digits"] = "digits"
    holdout: Count = 360


class BreastCancer(Named):
    """scikit-learn's embedded Wisconsin breast cancer data: 569 rows, 30 features, 2 classes."""

    name: Literal["breast_cancer"] = "breast_cancer"
    holdout: Count = 114


class Mnist(Named):
    """MNIST from the user's own IDX files in ``root``."""

    name: Literal["mnist"] = "mnist"
    root: Path
    verify: bool = True


class Cifar10(Named):
    """CIFAR-10 from the user's own binary files in ``root``."""

    name: Literal["cifar10"] = "cifar10"
    root: Path
    verify: bool = True


class Synthetic(Named):
    """Made data of any shape, for benchmarks; learnable, the same rows on any number of ranks."""

    name: Literal["synthetic"] = "synthetic"
    samples: Count = 10_000
    shape: tuple[Count, ...] = (784,)
    classes: Annotated[int, Field(ge=2)] | None = None
    test_samples: Count = 1_000
    task: Literal["classification", "tokens", "regression"] = "classification"
    noise: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _ten_classes(cls, given: Any) -> Any:
        regression = isinstance(given, dict) and given.get("task") == "regression"
        return {"classes": 10, **given} if isinstance(given, dict) and not regression else given


class Npz(Named):
    """Arrays x, y, x_test, y_test (and groups) of a NumPy .npz file."""

    name: Literal["npz"] = "npz"
    path: Path
    classes: Annotated[int, Field(ge=2)] | None = None


Data = Annotated[
    Annotated[Digits, Tag("digits")]
    | Annotated[BreastCancer, Tag("breast_cancer")]
    | Annotated[Mnist, Tag("mnist")]
    | Annotated[Cifar10, Tag("cifar10")]
    | Annotated[Synthetic, Tag("synthetic")]
    | Annotated[Npz, Tag("npz")]
    | Annotated[Custom, Tag("custom")],
    *choice("digits"),
]


class Shuffle(Named):
    """A global shuffle cut into equal parts: every sample once (iid)."""

    name: Literal["shuffle"] = "shuffle"


class Sample(Named):
    """Each party draws ``size`` samples at random, with replacement."""

    name: Literal["sample"] = "sample"
    size: Count


class Dirichlet(Named):
    """Label skew: each class is shared out by a Dirichlet(alpha) draw; small alpha, strong skew."""

    name: Literal["dirichlet"] = "dirichlet"
    alpha: Positive = 0.5
    min_samples: Count = 1


class Shards(Named):
    """Each party gets samples of about ``labels_per_party`` labels."""

    name: Literal["shards"] = "shards"
    labels_per_party: Count = 2


class Quantity(Named):
    """Size skew, labels mixed: sizes by a Dirichlet(alpha) draw, or falling as a power ``exponent`` of the
    party's number.
    """

    name: Literal["quantity"] = "quantity"
    alpha: Positive | None = None
    exponent: Annotated[float, Field(ge=0)] | None = None
    min_samples: Count = 1

    @model_validator(mode="after")
    def _one_rule(self) -> Quantity:
        if (self.alpha is None) == (self.exponent is None):
            raise ValueError("give either alpha or exponent")
        return self


class Natural(Named):
    """Parties are the groups of the data set's group column."""

    name: Literal["natural"] = "natural"


class Features(Named):
    """Every party sees every sample, but only its own columns."""

    name: Literal["features"] = "features"


Partition = Annotated[
    Annotated[Shuffle, Tag("shuffle")]
    | Annotated[Sample, Tag("sample")]
    | Annotated[Dirichlet, Tag("dirichlet")]
    | Annotated[Shards, Tag("shards")]
    | Annotated[Quantity, Tag("quantity")]
    | Annotated[Natural, Tag("natural")]
    | Annotated[Features, Tag("features")],
    *choice("dirichlet"),
]

__all__ = ["Data", "Fraction", "Partition"]
