"""Algorithms: one file each, its paper cited on top."""

from hpc_fl.strategies.fedadagrad import FedAdagrad
from hpc_fl.strategies.fedadam import FedAdam
from hpc_fl.strategies.fedavg import FedAvg
from hpc_fl.strategies.fedavgm import FedAvgM
from hpc_fl.strategies.fedsgd import FedSGD
from hpc_fl.strategies.fedyogi import FedYogi
from hpc_fl.strategies.strategy import Averaging, PartyStates, State, Strategy

__all__ = [
    "Averaging",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedSGD",
    "FedYogi",
    "PartyStates",
    "State",
    "Strategy",
]
