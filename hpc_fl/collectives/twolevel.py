"""Allreduce in two levels: inside each machine through shared memory, between machines round rings.

Of two machines with two ranks each, the buffer in two slices; the rings of both slices run side by side, so
that every rank drives the network::

    machine A   rank 0   slice 0 of 0 + 1   <- ring ->   slice 0 of 2 + 3   rank 2   machine B
                rank 1   slice 1 of 0 + 1   <- ring ->   slice 1 of 2 + 3   rank 3

There are as many slices as every machine has ranks: with unequal machines the surplus ranks of the larger
ones only hand in and read back, and where one machine has a single rank, one rank of each is the leader.
Over the network travels what one rank a machine would send in a ring, not what all ranks would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch

from hpc_fl.collectives.algorithm import Algorithm, Floats, cut, length
from hpc_fl.collectives.collective import Collective
from hpc_fl.collectives.lane import Lane
from hpc_fl.collectives.node import Node, host_names, node_of, numbered
from hpc_fl.collectives.ring import Ring, ring_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.telemetry.ledger import Ledger


def twolevel_bytes(n: int, nodes: Sequence[int], rank: int, *, shared: bool) -> int:
    """Bytes that ``rank`` sends to allreduce ``n`` float32; ``nodes``: the number of each rank's machine.

    The ring's of its slice; without ``shared`` memory also 4 bytes for each element that it hands to an owner
    of its machine, and for each of its slice to each other rank there.
    """
    slices = cut(n, min(Counter(nodes).values()))
    places = [sum(other == node for other in nodes[:r]) for r, node in enumerate(nodes)]
    place, mates = places[rank], nodes.count(nodes[rank])
    ring = [r for r, other in enumerate(places) if other == place]
    lengths = [length(s) for s in slices]
    mine = lengths[place] if place < len(slices) else 0
    inside = 0 if shared else 4 * (sum(lengths) - mine + mine * (mates - 1))
    return inside + (ring_bytes(mine, len(ring), ring.index(rank)) if mine else 0)


class TwoLevel(Algorithm):
    """Per machine 2 (M-1)/M * 4n bytes between M machines, none inside; see :class:`Algorithm`.

    Making one is collective: every rank must. ``nodes``: a number >= 0 for each rank's machine, where it is
    not the real one. ``between``: makes the allreduce of a slice. Without shared memory the ranks of a
    machine exchange messages, at 4 bytes for each element and step.
    """

    name = "twolevel"

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        lane: Lane | None = None,
        *,
        nodes: Sequence[int] | None = None,
        between: Callable[[Transport, Ledger], Collective] = Ring,
        inside: Callable[[Transport], Node] = node_of,
    ) -> None:
        super().__init__(transport, ledger, lane)
        places = numbered(host_names(transport)) if nodes is None else nodes
        local = transport.split(places[transport.rank])
        self._place, self._owners = local.rank, min(Counter(places).values())
        self._across = transport.split(local.rank)
        self._between = between(self._across, ledger)
        self._node = inside(local)

    def _sum(self, array: Floats) -> None:
        slices = cut(len(array), self._owners)
        sent = self._node.gather(array, slices)
        if self._place < self._owners:
            self._between.allreduce(torch.from_numpy(array[slices[self._place]]))
        sent += self._node.spread(array, slices)
        self._ledger.add("allreduce", sent)

    def close(self) -> None:
        """Frees the shared memory and the groups (collective)."""
        self._node.close()
        self._across.close()
