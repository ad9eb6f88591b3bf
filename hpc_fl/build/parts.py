"""Data, model and algorithm: configuration -> objects."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from hpc_fl import data, models, strategies
from hpc_fl.comm.transport import Transport
from hpc_fl.config import Config
from hpc_fl.config.section import Named
from hpc_fl.counter import key
from hpc_fl.errors import ConfigError, ModelError
from hpc_fl.flat import FlatModel
from hpc_fl.training import auto
from hpc_fl.training.batches import LocalSteps
from hpc_fl.training.cohort import Cohort, Drawn, Everybody, Listed
from hpc_fl.training.executor import Executor, LocalWork
from hpc_fl.training.losses import LOSSES, CustomLoss, Loss
from hpc_fl.training.optim import OptimizerSpec
from hpc_fl.training.parties import LocalBuffers
from hpc_fl.training.seeding import Stream

DATASETS: Final[dict[str, Callable[..., data.Dataset]]] = {
    "digits": data.digits,
    "breast_cancer": data.breast_cancer,
    "mnist": data.mnist,
    "cifar10": data.cifar10,
    "synthetic": data.synthetic,
    "npz": data.npz,
}
SEEDED: Final = frozenset(("synthetic",))
"""Data sets that are drawn, and take the run's seed."""

PARTITIONS: Final[dict[str, Callable[..., data.Partition]]] = {
    "shuffle": data.partition.shuffle,
    "sample": data.partition.sample,
    "dirichlet": data.partition.dirichlet,
    "shards": data.partition.shards,
    "quantity": data.partition.quantity,
    "natural": data.partition.natural,
    "features": data.partition.features,
}
MODELS: Final[dict[str, Callable[..., nn.Module]]] = {
    "logistic": models.logistic,
    "mlp": models.mlp,
    "cnn": models.cnn,
    "resnet18": models.resnet18,
    "transformer": models.transformer,
}
STRATEGIES: Final[dict[str, Callable[..., strategies.Strategy]]] = {
    "fedavg": strategies.FedAvg,
    "fedavgm": strategies.FedAvgM,
    "fedsgd": strategies.FedSGD,
    "fedadagrad": strategies.FedAdagrad,
    "fedadam": strategies.FedAdam,
    "fedyogi": strategies.FedYogi,
}
COHORTS: Final[dict[str, Callable[[Any, Config, Any], Cohort]]] = {
    "all": lambda _, config, __: Everybody(config.parties),
    "uniform": lambda section, config, _: Drawn(config.parties, section.size, config.seed),
    "weighted": lambda section, config, sizes: Drawn(config.parties, section.size, config.seed, sizes),
    "fixed": lambda section, config, _: Listed(section.rounds, config.parties),
}
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Parties:
    """The data set and its division: ``placement`` lists each rank's party ids, ``store`` holds this rank's
    rows.
    """

    dataset: data.Dataset
    partition: data.Partition
    placement: tuple[tuple[int, ...], ...]
    store: data.PartyStore


def find(name: str, key_path: str) -> Callable[..., Any]:
    """The user's ``package.module:function``, looked up from the working directory too. Raises
    :class:`ConfigError`.
    """
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key_path}: {name!r} cannot be loaded: {error}") from error
    if not callable(found):
        raise ConfigError(f"{key_path}: {name!r} is a {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


def is_custom(section: Named) -> bool:
    """Whether the section names the user's own code."""
    return ":" in section.name


def make_dataset(config: Config) -> data.Dataset:
    """The data set, as seen by every rank; rows are read when a rank asks for them."""
    section = config.data
    if is_custom(section):
        return data.function(find(section.name, "data.name"), section.options()["args"])
    seed = {"seed": config.seed} if section.name in SEEDED else {}
    return DATASETS[section.name](**section.options(), **seed)


def make_partition(config: Config, dataset: data.Dataset) -> data.Partition:
    """Which samples belong to which party; the same on every rank."""
    rng = np.random.Generator(np.random.Philox(key=key(config.seed, Stream.PARTITION)))
    section = config.partition
    return PARTITIONS[section.name](dataset.train, config.parties, rng=rng, **section.options())


def make_parties(
    config: Config, dataset: data.Dataset, transport: Transport, device: torch.device
) -> Parties:
    """Divides the data over parties and the parties over ranks; loads this rank's rows only."""
    partition = make_partition(config, dataset)
    placement = data.place(partition.sizes, transport.size)
    store = data.PartyStore.load(dataset.train, partition, placement[transport.rank], device)
    return Parties(dataset, partition, placement, store)


def make_model(
    config: Config,
    dataset: data.Dataset,
    transport: Transport,
    device: torch.device,
    user: Callable[[], nn.Module] | None,
) -> FlatModel:
    """The flat model with rank 0's initial values; every rank must call it."""
    torch.manual_seed(key(config.seed, Stream.MODEL))
    if user is not None:
        module = user()
    elif is_custom(config.model):
        module = find(config.model.name, "model.name")(**config.model.options()["args"])
    else:
        outputs = dataset.classes or 1
        module = MODELS[config.model.name](dataset.train.shape, outputs, **config.model.options())
    if not isinstance(module, nn.Module):
        raise ModelError(f"the model function returned a {type(module).__name__}, expected a torch.nn.Module")
    flat = FlatModel(module.to(device=device, dtype=DTYPES[config.training.dtype]), config.training.buffers)
    transport.broadcast(flat.values)
    for frozen in flat.frozen().values():
        transport.broadcast(frozen.contiguous())
    flat.publish()
    return flat


def make_loss(config: Config, dataset: data.Dataset) -> Loss:
    """The configured loss; "auto" is cross-entropy for classes, mean squared error for regression."""
    name = config.training.loss
    if ":" in name:
        return CustomLoss(find(name, "training.loss"), classifies=dataset.classes is not None)
    if name == "cross_entropy" and dataset.classes is None:
        raise ConfigError(
            f"training.loss: got 'cross_entropy', but {dataset.name} is regression; expected mse or auto"
        )
    return LOSSES["mse" if dataset.classes is None or name == "mse" else "cross_entropy"]


def make_work(config: Config, loss: Loss) -> LocalWork:
    """What a party does in a round."""
    section = config.training
    schedule = section.schedule
    optimizer = OptimizerSpec(
        section.optimizer.name,
        section.optimizer.options(),
        None if schedule is None else schedule.name,
        {} if schedule is None else schedule.options(),
    )
    # Over a topology there is no server that could step.
    gradient_only = config.exchange.topology is None and make_strategy(config).gradient_only
    steps = LocalSteps(section.batch_size, section.epochs, section.steps)
    return LocalWork(steps, optimizer, loss, config.seed, section.clip_norm, gradient_only)


def make_executor(
    config: Config,
    model: FlatModel,
    store: data.PartyStore,
    work: LocalWork,
    buffers: LocalBuffers,
    transport: Transport,
    cohort: Cohort,
) -> tuple[Executor, auto.Choice]:
    """The configured executor, and why it is the one; every rank must call it."""
    name = config.training.executor
    if name == "auto":
        share = max(1, -(-cohort.expected() // transport.size))
        chosen = auto.choose(model, store, work, transport, cohort=share, rounds=config.rounds)
    else:
        chosen = auto.Choice(name, "as configured")
    return auto.make(chosen.name, model, store, work, buffers), chosen


def make_strategy(config: Config) -> strategies.Strategy:
    """The configured algorithm."""
    return STRATEGIES[config.strategy.name](**config.strategy.options())


def make_cohort(config: Config, partition: data.Partition) -> Cohort:
    """The configured rule for the parties of a round."""
    return COHORTS[config.cohort.name](config.cohort, config, partition.sizes)


def pick_device(name: str, local_rank: int) -> torch.device:
    """The device of this rank: "auto" takes GPU local_rank modulo the number of GPUs, or the CPU. Raises
    :class:`ConfigError`.
    """
    gpus = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    if not gpus:
        raise ConfigError(
            f"device: got {name!r}, but torch finds no GPU; expected cpu or auto (see hpc-fl doctor)"
        )
    device = torch.device(name if ":" in name else f"cuda:{local_rank % gpus}")
    if device.index >= gpus:
        raise ConfigError(f"device: got {name!r}, but there are {gpus} GPUs, numbered from 0")
    torch.cuda.set_device(device)
    return device
