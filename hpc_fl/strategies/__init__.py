"""Algorithms: one file each, its paper cited on top."""

from hpc_fl.strategies.adpsgd import ADPSGD
from hpc_fl.strategies.d2 import D2
from hpc_fl.strategies.decentralised import (
    MASS,
    MODEL,
    Decentralised,
    Gossip,
    Local,
    Own,
    buffers_of,
    schedule_of,
)
from hpc_fl.strategies.dpsgd import DPSGD
from hpc_fl.strategies.fedadagrad import FedAdagrad
from hpc_fl.strategies.fedadam import FedAdam
from hpc_fl.strategies.fedavg import FedAvg
from hpc_fl.strategies.fedavgm import FedAvgM
from hpc_fl.strategies.fedsgd import FedSGD
from hpc_fl.strategies.fedyogi import FedYogi
from hpc_fl.strategies.gradient_tracking import GradientTracking
from hpc_fl.strategies.quasi_global import QuasiGlobal
from hpc_fl.strategies.sgp import SGP
from hpc_fl.strategies.strategy import Averaging, PartyStates, State, Strategy

__all__ = [
    "ADPSGD",
    "D2",
    "DPSGD",
    "MASS",
    "MODEL",
    "SGP",
    "Averaging",
    "Decentralised",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedSGD",
    "FedYogi",
    "Gossip",
    "GradientTracking",
    "Local",
    "Own",
    "PartyStates",
    "QuasiGlobal",
    "State",
    "Strategy",
    "buffers_of",
    "schedule_of",
]
