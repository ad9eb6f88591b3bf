"""Who gossips with whom: graphs, fixed or changing from round to round, and the weights of their mixing."""

from hpc_fl.topology.matrix import MixingMatrix

__all__ = ["MixingMatrix"]
