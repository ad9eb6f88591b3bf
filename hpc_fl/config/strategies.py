"""The algorithm over rounds: a section for each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from hpc_fl.config.section import Fraction, Named, Positive, choice


class _Strategy(Named):
    weighting: Literal["samples", "equal"] = "samples"


class FedAvg(_Strategy):
    """Federated averaging."""

    name: Literal["fedavg"] = "fedavg"
    lr: Positive = 1.0


class FedAvgM(_Strategy):
    """Federated averaging with server momentum."""

    name: Literal["fedavgm"] = "fedavgm"
    lr: Positive = 1.0
    momentum: Fraction = 0.9


class FedSGD(_Strategy):
    """One gradient a round: synchronous SGD."""

    name: Literal["fedsgd"] = "fedsgd"
    lr: Positive = 0.1
    momentum: Fraction = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class FedAdagrad(_Strategy):
    """Adaptive server optimiser: sum of squares."""

    name: Literal["fedadagrad"] = "fedadagrad"
    lr: Positive = 0.01
    beta1: Fraction = 0.0
    tau: Positive = 1e-3


class _TwoMoments(_Strategy):
    lr: Positive = 0.01
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    tau: Positive = 1e-3


class FedAdam(_TwoMoments):
    """Adaptive server optimiser: exponential mean of squares."""

    name: Literal["fedadam"] = "fedadam"


class FedYogi(_TwoMoments):
    """Adaptive server optimiser: additive change of squares."""

    name: Literal["fedyogi"] = "fedyogi"


class DPSGD(Named):
    """Train, then mix with the neighbours; ``overlap``: mix while training."""

    name: Literal["dpsgd"] = "dpsgd"
    overlap: bool = False


class SGP(Named):
    """Stochastic gradient push: for directed graphs of any kind."""

    name: Literal["sgp"] = "sgp"


class D2(Named):
    """Exact diffusion: not biased by parties' different data."""

    name: Literal["d2"] = "d2"


class GradientTracking(Named):
    """Every party follows an estimate of the mean gradient; twice the bytes."""

    name: Literal["gradient_tracking"] = "gradient_tracking"


class ADPSGD(Named):
    """Average with one neighbour at a time, in no order; one party a rank."""

    name: Literal["adpsgd"] = "adpsgd"


class QuasiGlobal(Named):
    """Momentum along the way of the mixed models, in place of the local optimiser's."""

    name: Literal["quasi_global"] = "quasi_global"
    momentum: Fraction = 0.9
    decay: Fraction = 0.9


DECENTRALISED = ("dpsgd", "sgp", "d2", "gradient_tracking", "quasi_global", "adpsgd")
"""Strategies of parties that keep models of their own, over ``exchange.topology``. FedAvg without a server is
the first of them.
"""


Strategy = Annotated[
    Annotated[FedAvg, Tag("fedavg")]
    | Annotated[FedAvgM, Tag("fedavgm")]
    | Annotated[FedSGD, Tag("fedsgd")]
    | Annotated[FedAdagrad, Tag("fedadagrad")]
    | Annotated[FedAdam, Tag("fedadam")]
    | Annotated[FedYogi, Tag("fedyogi")]
    | Annotated[DPSGD, Tag("dpsgd")]
    | Annotated[SGP, Tag("sgp")]
    | Annotated[D2, Tag("d2")]
    | Annotated[GradientTracking, Tag("gradient_tracking")]
    | Annotated[QuasiGlobal, Tag("quasi_global")]
    | Annotated[ADPSGD, Tag("adpsgd")],
    *choice("fedavg"),
]
