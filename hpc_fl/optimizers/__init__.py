"""Optimisers whose step is a collective, for data-parallel training step by step: one file each."""

from hpc_fl.optimizers.asynchronous import AsynchronousOptimizer
from hpc_fl.optimizers.decentralised import DecentralisedOptimizer
from hpc_fl.optimizers.moments import Moments
from hpc_fl.optimizers.onebit_adam import OneBitAdam
from hpc_fl.optimizers.onebit_lamb import OneBitLamb
from hpc_fl.optimizers.synchronous import SynchronousOptimizer
from hpc_fl.optimizers.zero_one_adam import ZeroOneAdam

__all__ = [
    "AsynchronousOptimizer",
    "DecentralisedOptimizer",
    "Moments",
    "OneBitAdam",
    "OneBitLamb",
    "SynchronousOptimizer",
    "ZeroOneAdam",
]
