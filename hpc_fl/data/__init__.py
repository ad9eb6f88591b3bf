"""Data sets, their partition over parties, and the placement of parties on ranks.

Cheap to import: no torch, scikit-learn or matplotlib until they are used.
"""

from hpc_fl.data import partition
from hpc_fl.data.arrays import from_arrays
from hpc_fl.data.breast_cancer import breast_cancer
from hpc_fl.data.cifar10 import cifar10
from hpc_fl.data.digits import digits
from hpc_fl.data.function import function
from hpc_fl.data.mnist import mnist
from hpc_fl.data.npz import npz
from hpc_fl.data.parties import PartyStore
from hpc_fl.data.partition import Partition
from hpc_fl.data.picture import draw, label_matrix, table
from hpc_fl.data.placement import place
from hpc_fl.data.source import ArraySource, ConcatSource, Dataset, Source
from hpc_fl.data.synthetic import SyntheticSource, synthetic

__all__ = [
    "ArraySource",
    "ConcatSource",
    "Dataset",
    "Partition",
    "PartyStore",
    "Source",
    "SyntheticSource",
    "breast_cancer",
    "cifar10",
    "digits",
    "draw",
    "from_arrays",
    "function",
    "label_matrix",
    "mnist",
    "npz",
    "partition",
    "place",
    "synthetic",
    "table",
]
