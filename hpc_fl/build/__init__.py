"""Configuration -> objects. The only place that knows components by their names."""

from hpc_fl.build.exchange import CODECS, EXCHANGES, make_codec, make_exchange
from hpc_fl.build.parts import (
    COHORTS,
    DATASETS,
    MODELS,
    PARTITIONS,
    STRATEGIES,
    Parties,
    make_cohort,
    make_dataset,
    make_executor,
    make_loss,
    make_model,
    make_parties,
    make_partition,
    make_strategy,
    make_work,
    pick_device,
)

__all__ = [
    "CODECS",
    "COHORTS",
    "DATASETS",
    "EXCHANGES",
    "MODELS",
    "PARTITIONS",
    "STRATEGIES",
    "Parties",
    "make_codec",
    "make_cohort",
    "make_dataset",
    "make_exchange",
    "make_executor",
    "make_loss",
    "make_model",
    "make_parties",
    "make_partition",
    "make_strategy",
    "make_work",
    "pick_device",
]
