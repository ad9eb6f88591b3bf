"""Collectives: one file each."""

from hpc_fl.collectives.allgather import Allgather, Gathering, allgather_bytes_sent
from hpc_fl.collectives.collective import Collective, Handle
from hpc_fl.collectives.dense import DenseAllreduce, dense_bytes

__all__ = [
    "Allgather",
    "Collective",
    "DenseAllreduce",
    "Gathering",
    "Handle",
    "allgather_bytes_sent",
    "dense_bytes",
]
