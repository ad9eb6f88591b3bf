"""Graphs that change from round to round, with one message a node and round.

Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push, ICML 2019; Ying, Yuan, Chen, Hu, Pan, Yin:
Exponential Graph is Provably Efficient for Decentralized Deep Training, NeurIPS 2021. Matchings: Boyd, Ghosh,
Prabhakar, Shah: Randomized Gossip Algorithms, IEEE Transactions on Information Theory 2006.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from hpc_fl.counter import key, words
from hpc_fl.topology.graph import Graph
from hpc_fl.topology.static import across, circulant, power_of_two
from hpc_fl.topology.topology import Topology, endless, hops, periodic

_MATCHING: Final = 0x6D617463
"""The name of its random stream."""


def one_peer_exponential(size: int) -> Topology:
    """In round t node i sends to i + 2^(t mod ceil(log2 size)) (mod size): degree 1, weights 1/2.

    Where ``size`` is a power of two, a period of rounds gives the exact mean.
    """
    steps = [2**k for k in range(hops(size))] or [1]
    return periodic("one_peer_exponential", size, [circulant(size, [step]) for step in steps])


def one_peer_hypercube(size: int) -> Topology:
    """In round t nodes whose numbers differ in bit t mod log2 size alone send to each other: degree 1.

    A period of rounds gives the exact mean. Raises :class:`TopologyError` where ``size`` is no power of two.
    """
    power_of_two("one_peer_hypercube", size)
    bits = range(max(hops(size), 1))
    graphs = [Graph.undirected(size, across(size, range(bit, bit + 1)) if size > 1 else ()) for bit in bits]
    return periodic("one_peer_hypercube", size, graphs)


def random_matching(size: int, seed: int = 0) -> Topology:
    """In each round all nodes in random pairs, which send to each other; of an odd number one is left over.

    A function of ``seed`` and round: every rank draws alike. Degree 1, weights 1/2.
    """

    def pairs(round_: int) -> Graph:
        drawn = words(key(seed, _MATCHING, round_), np.zeros(1, np.int64), size)[0]
        order = np.argsort(drawn, kind="stable").tolist()
        return Graph.undirected(size, zip(order[0::2], order[1::2], strict=False))

    return endless("random_matching", size, pairs)
