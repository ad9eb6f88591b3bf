"""Collectives on flat buffers: one file each."""

from hpc_fl.collectives.collective import Collective, Handle
from hpc_fl.collectives.dense import DenseAllreduce, dense_bytes

__all__ = ["Collective", "DenseAllreduce", "Handle", "dense_bytes"]
