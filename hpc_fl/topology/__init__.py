"""Who gossips with whom: graphs, fixed or changing from round to round, and the weights of their mixing."""

from hpc_fl.topology.dynamic import one_peer_exponential, one_peer_hypercube, random_matching
from hpc_fl.topology.files import from_edges, from_file, from_matrix, from_networkx
from hpc_fl.topology.graph import Edge, Graph
from hpc_fl.topology.hierarchy import hierarchical
from hpc_fl.topology.matrix import MixingMatrix
from hpc_fl.topology.sampled import erdos_renyi, expander, random_regular, small_world
from hpc_fl.topology.schedule import Schedule
from hpc_fl.topology.static import complete, directed_ring, exponential, grid, hypercube, ring, star, torus
from hpc_fl.topology.topology import Groups, Topology, endless, fixed, periodic, varying
from hpc_fl.topology.weights import Rule, auto, lazy, metropolis, push_sum, uniform

__all__ = [
    "Edge",
    "Graph",
    "Groups",
    "MixingMatrix",
    "Rule",
    "Schedule",
    "Topology",
    "auto",
    "complete",
    "directed_ring",
    "endless",
    "erdos_renyi",
    "expander",
    "exponential",
    "fixed",
    "from_edges",
    "from_file",
    "from_matrix",
    "from_networkx",
    "grid",
    "hierarchical",
    "hypercube",
    "lazy",
    "metropolis",
    "one_peer_exponential",
    "one_peer_hypercube",
    "periodic",
    "push_sum",
    "random_matching",
    "random_regular",
    "ring",
    "small_world",
    "star",
    "torus",
    "uniform",
    "varying",
]
