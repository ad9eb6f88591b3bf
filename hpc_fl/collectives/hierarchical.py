"""Two levels of gossip: an allreduce inside each group of nodes, a mixer between the groups.

Of two groups over three ranks, the second on one rank alone::

    rank 0   node 0 \\                                          / node 0
                     sum -> mean of group 0                    /
    rank 1   node 1 /            |   <- inner mixer ->  mixed  \\ node 1
    rank 2   nodes 2, 3 -> mean of group 1                     -> nodes 2, 3

With G the weights between groups that is w_ij = G[g(i), g(j)] / size(g(j)); see
:mod:`hpc_fl.topology.hierarchy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from hpc_fl.collectives.collective import Collective
from hpc_fl.collectives.dense import DenseAllreduce
from hpc_fl.collectives.gossip import Gossip
from hpc_fl.collectives.mixer import Mixer, NodeStates, Placement
from hpc_fl.collectives.routes import Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression.arrays import all_finite
from hpc_fl.errors import TransportError
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import MixingMatrix
from hpc_fl.topology.hierarchy import contracted, expanded

Groups = tuple[tuple[int, ...], ...]
MakeMixer = Callable[[Transport, Ledger, Placement], Mixer]

_CLOSE: Final = 1e-9
_REMEMBERED: Final = 64


@dataclass(frozen=True)
class _Levels:
    """A matrix of nodes as one of groups, ``between``, and the nodes ``present`` of each."""

    matrix: MixingMatrix
    between: MixingMatrix
    present: Groups


@dataclass(frozen=True)
class _Span:
    """The group, number ``group``, of this rank that lies on several ranks: the sum over them, and which of
    them, by its rank in ``ranks``, leads.
    """

    group: int
    ranks: Transport
    collective: Collective
    leader: int


class HierarchicalMixer(Gossip):
    """See above. Making one is collective. Takes the matrix of the nodes, which must be that of groups.

    ``groups``: every node in one; a group may be nodes of one rank, or lie on several. A rank may host any
    number of the former, and nodes of one of the latter: a :class:`TransportError` names it otherwise.
    ``inner``: makes the mixer of the groups' means, each hosted where the group's first node is. ``inside``:
    makes the allreduce of a group over its ranks.

    A row that is not finite is left out of its group's mean. The ledger counts the sums as "allreduce", what
    a leader hands back as "broadcast", and the inner mixer's.
    """

    name: ClassVar[str] = "hierarchical"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        placement: Placement,
        groups: Sequence[Sequence[int]],
        inner: MakeMixer,
        *,
        inside: Callable[[Transport, Ledger], Collective] = DenseAllreduce,
    ) -> None:
        super().__init__(transport, ledger, placement)
        self._groups: Groups = tuple(tuple(sorted(group)) for group in groups)
        host = {node: rank for rank, of in enumerate(placement) for node in of}
        if not all(self._groups) or sorted(node for group in self._groups for node in group) != sorted(host):
            raise TransportError(f"groups: each of {len(host)} nodes in one group expected, none empty")
        rank = transport.rank
        ranks = [sorted({host[node] for node in group}) for group in self._groups]
        leaders = [host[group[0]] for group in self._groups]
        self._here = [g for g, of in enumerate(ranks) if rank in of]
        self._led = [g for g in self._here if leaders[g] == rank]
        self._rows = {
            g: [b for b, node in enumerate(self._nodes) if node in self._groups[g]] for g in self._here
        }
        self._span = self._spanning(ranks, leaders, inside)
        led = tuple(
            tuple(g for g, leader in enumerate(leaders) if leader == r) for r in range(len(placement))
        )
        self._inner = inner(self._transport, ledger, led)
        self._levels: dict[int, _Levels] = {}

    def _spanning(
        self,
        ranks: Sequence[Sequence[int]],
        leaders: Sequence[int],
        inside: Callable[[Transport, Ledger], Collective],
    ) -> _Span | None:
        """The group over several ranks that this rank is part of. Every rank must call it."""
        wide = [g for g, of in enumerate(ranks) if len(of) > 1]
        for rank in range(self._transport.size):
            several = [g for g in wide if rank in ranks[g]]
            if len(several) > 1:
                raise TransportError(
                    f"groups: rank {rank} hosts nodes of groups {several[:8]}, which lie on several ranks; "
                    "one such group a rank is possible: place the nodes of a group on one rank"
                )
        mine = [g for g in wide if g in self._here]
        part = self._transport.split(mine[0] + 1 if mine else 0, self._transport.rank)
        if not mine:
            part.close()
            return None
        return _Span(mine[0], part, inside(part, self._ledger), ranks[mine[0]].index(leaders[mine[0]]))

    def _mix(self, rows: Tensor, routes: Routes, round_: int) -> tuple[int, ...]:
        levels = self._known(routes.matrix)
        sound = [
            all_finite(row.detach().numpy()) if row.is_cpu else bool(row.isfinite().all()) for row in rows
        ]
        takers = {g: self._takers(g, levels, sound) for g in self._here}
        sums = {g: self._sum(rows, takers[g], g) for g in self._here}
        # Nobody's mean is 0 / 0: not finite, so that it reaches nobody.
        means = torch.stack([sums[g][:-1] / sums[g][-1] for g in self._led]) if self._led else rows[:0]
        self._inner.mix(means, levels.between, round_)
        mixed = dict(zip(self._led, means, strict=True))
        if self._span is not None:
            mixed[self._span.group] = self._spread(mixed.get(self._span.group), sums[self._span.group][:-1])
        for g in self._here:
            for b in takers[g]:
                rows[b] = mixed[g]
        return self._unsound(sound)

    def _takers(self, group: int, levels: _Levels, sound: Sequence[bool]) -> list[int]:
        """The rows here that are part of a group's mean."""
        return [b for b in self._rows[group] if sound[b] and self._nodes[b] in levels.present[group]]

    def _sum(self, rows: Tensor, takers: Sequence[int], group: int) -> Tensor:
        """The sum of a group's rows, and their number behind it (n + 1,)."""
        total = rows.new_zeros(rows.shape[1] + 1)
        for b in takers:
            total[:-1] += rows[b]
        total[-1] = len(takers)
        if self._span is not None and self._span.group == group:
            self._span.collective.allreduce(total)
        return total

    def _spread(self, mixed: Tensor | None, memory: Tensor) -> Tensor:
        """What the leader has, on every rank of the group."""
        assert self._span is not None
        if mixed is not None:
            memory.copy_(mixed)
            self._ledger.add("broadcast", memory.nbytes * (self._span.ranks.size - 1))
        self._span.ranks.broadcast(memory, self._span.leader)
        return memory

    def _known(self, matrix: MixingMatrix) -> _Levels:
        known = self._levels.get(id(matrix))
        if known is None:
            if len(self._levels) >= _REMEMBERED:
                self._levels.clear()
            known = self._levels[id(matrix)] = _levels(matrix, self._groups)
        return known

    def agree(self, values: Tensor) -> None:
        """All nodes, so all means, are ``values`` (n,) now. Every rank must call it."""
        self._inner.agree(values)

    def state(self) -> NodeStates:
        """What the inner mixer keeps, by the first node of a group."""
        return {self._groups[g][0]: kept for g, kept in self._inner.state().items()}

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """The inverse of :meth:`state`."""
        self._inner.restore({g: state[self._groups[g][0]] for g in self._led if self._groups[g][0] in state})

    def reset(self) -> None:
        """Forgets what the inner mixer keeps. Every rank must call it."""
        self._inner.reset()

    def close(self) -> None:
        """Waits for what is under way and frees the transports (collective)."""
        self._lane.close()
        self._inner.close()
        if self._span is not None:
            self._span.ranks.close()
        super().close()


def _levels(matrix: MixingMatrix, groups: Groups) -> _Levels:
    """Raises :class:`TransportError` for a matrix that is not one of these groups."""
    present = tuple(tuple(i for i in group if dict(matrix.rows[i]) != {i: 1.0}) for group in groups)
    between = contracted(matrix, present)
    rows = expanded(between, present, matrix.size).rows
    for i, (given, made) in enumerate(zip(matrix.rows, rows, strict=True)):
        if any(abs(given.get(j, 0.0) - made.get(j, 0.0)) > _CLOSE for j in given.keys() | made.keys()):
            raise TransportError(
                f"mixing matrix: node {i} does not take the same of all nodes of a group, as its own group "
                "does; use hpc_fl.topology.hierarchical with these groups"
            )
    return _Levels(matrix, between, present)
