"""Collectives: one file each."""

from hpc_fl.collectives.allgather import Allgather, Gathering, allgather_bytes_sent
from hpc_fl.collectives.auto import AutoDense
from hpc_fl.collectives.collective import Collective, Handle
from hpc_fl.collectives.dense import DenseAllreduce, dense_bytes
from hpc_fl.collectives.doubling import Doubling, doubling_bytes
from hpc_fl.collectives.halves import Halves
from hpc_fl.collectives.ring import Ring, ring_bytes
from hpc_fl.collectives.twolevel import TwoLevel, twolevel_bytes

__all__ = [
    "Allgather",
    "AutoDense",
    "Collective",
    "DenseAllreduce",
    "Doubling",
    "Gathering",
    "Halves",
    "Handle",
    "Ring",
    "TwoLevel",
    "allgather_bytes_sent",
    "dense_bytes",
    "doubling_bytes",
    "ring_bytes",
    "twolevel_bytes",
]
