"""The whole run as frozen, validated data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from hpc_fl.config.data import Data, Digits, Dirichlet, Partition
from hpc_fl.config.exchange import Exchange, exchange_problem
from hpc_fl.config.pairing import pairing_problem
from hpc_fl.config.section import Count, Named, Positive, Section, choice
from hpc_fl.config.strategies import FedAvg, Strategy
from hpc_fl.config.training import Cnn, Model, Training, batching_problem


class All(Named):
    """Every party, every round."""

    name: Literal["all"] = "all"


class Uniform(Named):
    """``size`` parties a round, each as likely."""

    name: Literal["uniform"] = "uniform"
    size: Count


class Weighted(Named):
    """``size`` parties a round, the likelier the more samples they have."""

    name: Literal["weighted"] = "weighted"
    size: Count


class FixedRounds(Named):
    """The listed parties, a list a round, starting over after the last."""

    name: Literal["fixed"] = "fixed"
    rounds: Annotated[tuple[tuple[int, ...], ...], Field(min_length=1)]


Cohort = Annotated[
    Annotated[All, Tag("all")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[Weighted, Tag("weighted")]
    | Annotated[FixedRounds, Tag("fixed")],
    *choice("all"),
]


class Evaluate(Section):
    """``every`` so many rounds, and after the last; ``parties``: also the spread of accuracy over the
    parties' own samples.
    """

    every: Count = 1
    parties: bool = True


class Checkpoint(Section):
    """``every`` so many rounds and at the end; keeps the last ``keep``, and the one with the best accuracy
    (or loss, for regression).
    """

    every: Count | None = 10
    keep: Count = 3
    best: bool = True


class Telemetry(Section):
    """What a run leaves behind. ``tensorboard`` and ``report`` null: where TensorBoard, and matplotlib, are
    installed.
    """

    progress: bool = True
    tensorboard: bool | None = None
    report: bool | None = None


class Comm(Section):
    """``threads`` null: the cores of this rank.

    ``timeout``: seconds that one wait may last; null: for ever (a dead rank ends the job anyway).
    ``transport``: what carries the collectives; horovod needs ``scripts/install_horovod.sh``.
    """

    transport: Literal["mpi", "horovod"] = "mpi"
    threads: Count | None = None
    timeout: Positive | None = None


class Config(Section):
    """A run, with the defaults of each key; the tuned digits example is ``digits.yaml`` beside this file."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")] = "digits"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    rounds: Count = 30
    parties: Count = 10
    data: Data = Digits()
    partition: Partition = Dirichlet()
    model: Model = Cnn()
    training: Training = Training()
    cohort: Cohort = All()
    strategy: Strategy = FedAvg()
    exchange: Exchange = Exchange()
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpoint = Checkpoint()
    telemetry: Telemetry = Telemetry()
    comm: Comm = Comm()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    trace: bool = False
    runs: Path = Path("runs")

    @property
    def dense_algorithm(self) -> str:
        """What adds up float32: Horovod itself where it is the transport, unless an algorithm is named."""
        named = self.exchange.dense.algorithm
        return "mpi" if named == "auto" and self.comm.transport == "horovod" else named

    @model_validator(mode="after")
    def _pairings(self) -> Config:
        size = getattr(self.cohort, "size", 0)
        if size > self.parties:
            raise ValueError(f"cohort.size: got {size}, expected at most {self.parties} (parties)")
        for number, ids in enumerate(self.cohort.rounds if isinstance(self.cohort, FixedRounds) else ()):
            if not ids or len(set(ids)) < len(ids) or min(ids) < 0 or max(ids) >= self.parties:
                raise ValueError(
                    f"cohort.rounds.{number}: got {list(ids)}, expected ids below {self.parties}, once each"
                )
        problem = batching_problem(self.training, self.model)
        if self.training.executor == "vmap" and problem:
            raise ValueError(
                f"training.executor: got 'vmap', which cannot be used: {problem}; expected loop or auto"
            )
        if problem := exchange_problem(self.exchange) or pairing_problem(
            self.strategy, self.exchange, self.cohort, self.training.optimizer
        ):
            raise ValueError(problem)
        return self
