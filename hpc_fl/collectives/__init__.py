"""Collectives: one file each."""

from hpc_fl.collectives.allgather import Allgather, Gathering, allgather_bytes_sent
from hpc_fl.collectives.auto import AutoDense
from hpc_fl.collectives.choco import ChocoMixer
from hpc_fl.collectives.collective import Collective, Handle, Reduced, ReducedHandle, Reduction
from hpc_fl.collectives.compressed import Compressed
from hpc_fl.collectives.dense import DenseAllreduce, dense_bytes
from hpc_fl.collectives.doubling import Doubling, doubling_bytes
from hpc_fl.collectives.front_door import allreduce, reduction
from hpc_fl.collectives.gossip_dense import DenseMixer
from hpc_fl.collectives.gossip_direct import DirectMixer
from hpc_fl.collectives.halves import Halves
from hpc_fl.collectives.hierarchical import HierarchicalMixer
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.lowrank import LowRankMean, lowrank_bytes
from hpc_fl.collectives.mixer import Mixer, MixingHandle, NodeStates, Placement
from hpc_fl.collectives.mixing import mixing
from hpc_fl.collectives.neighbor import NeighborAllreduce, neighbor_allgather, neighbor_allreduce
from hpc_fl.collectives.onesided import NeighborWindow, PushSumWindow
from hpc_fl.collectives.pairwise import Averaged, PairwiseAverager
from hpc_fl.collectives.pairwise_mixer import PairwiseMixer
from hpc_fl.collectives.ring import Ring, ring_bytes
from hpc_fl.collectives.routes import gossip_bytes
from hpc_fl.collectives.sharded import Sharded
from hpc_fl.collectives.shards import sharded_bytes
from hpc_fl.collectives.sparse import Sparse
from hpc_fl.collectives.squeeze import SqueezeMixer
from hpc_fl.collectives.summed import Linear, Summed
from hpc_fl.collectives.twolevel import TwoLevel, twolevel_bytes
from hpc_fl.collectives.vote import Vote
from hpc_fl.collectives.warmup import DenseFirst

__all__ = [
    "Allgather",
    "AutoDense",
    "Averaged",
    "ChocoMixer",
    "Collective",
    "Compressed",
    "DenseAllreduce",
    "DenseFirst",
    "DenseMixer",
    "DirectMixer",
    "Doubling",
    "Gathering",
    "Halves",
    "Handle",
    "HierarchicalMixer",
    "Linear",
    "Link",
    "LowRankMean",
    "Mixer",
    "MixingHandle",
    "NeighborAllreduce",
    "NeighborWindow",
    "NodeStates",
    "PairwiseAverager",
    "PairwiseMixer",
    "Placement",
    "PushSumWindow",
    "Reduced",
    "ReducedHandle",
    "Reduction",
    "Ring",
    "Sharded",
    "Sparse",
    "SqueezeMixer",
    "Summed",
    "TwoLevel",
    "Vote",
    "allgather_bytes_sent",
    "allreduce",
    "dense_bytes",
    "doubling_bytes",
    "gossip_bytes",
    "lowrank_bytes",
    "mixing",
    "neighbor_allgather",
    "neighbor_allreduce",
    "reduction",
    "ring_bytes",
    "sharded_bytes",
    "twolevel_bytes",
]
