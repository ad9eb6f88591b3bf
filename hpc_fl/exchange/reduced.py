"""The sum of a rank's parties as one buffer, encoded on its way through a compressed reduction.

The bytes depend on the buffer and the ranks, not on the parties. What the encoding leaves out belongs to the
rank's sum, in units of the mean, so that sums of it belong to sums of ranks: it is kept under the lowest
party id that the rank hosts, and goes with that party to a world of another size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives import Handle, Reduced, ReducedHandle, Reduction, dense_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.exchange.exchange import KeptStates, Mixed
from hpc_fl.exchange.facts import Facts
from hpc_fl.exchange.outbox import Outbox, names_everywhere
from hpc_fl.telemetry.ledger import Ledger


@dataclass(frozen=True)
class _Several:
    """The reductions of a round, under way."""

    handles: Sequence[ReducedHandle]

    def wait(self) -> tuple[Reduced, ...]:
        return tuple(handle.wait() for handle in self.handles)


class ReducedExchange:
    """The mean over all parties of a buffer of ``n`` float32 for each of ``reductions``, which are weighted
    sums; see :class:`Exchange`. ``hosted``: the ids of all parties of this rank.

    A party that is not finite is left out before its rank's sum is made; a rank whose sum, with what was kept
    back, is not finite is left out with all its parties. A rank without parties in a round sends nothing of
    its own. Ranks that host no party at all take nothing into checkpoints.
    """

    def __init__(
        self,
        transport: Transport,
        reductions: Mapping[str, Reduction],
        ledger: Ledger,
        *,
        n: int,
        hosted: Sequence[int],
        device: torch.device,
    ) -> None:
        self._transport, self._reductions = transport, dict(reductions)
        self._outbox = Outbox({name: torch.zeros(n, device=device) for name in reductions})
        self._home = min(hosted, default=None)
        self._facts = Facts(transport, ledger)
        self._round = 0
        self._under_way: _Several | None = None
        self._reduced: tuple[Reduced, ...] = ()

    def open(self, round_: int, total: float) -> None:
        self._round = round_
        self._outbox.open(total)

    def add(
        self,
        party_ids: Sequence[int],
        buffers: Mapping[str, Tensor],
        weights: NDArray[np.float32],
        losses: Tensor,
    ) -> None:
        self._outbox.add(party_ids, buffers, weights, losses)

    def travel(self, *, stop: bool = False) -> None:
        entering = self._tell(stop)
        buffers = self._outbox.buffers
        self._reduced = tuple(
            reduction.allreduce(buffers[name], entering, self._round)
            for name, reduction in self._reductions.items()
        )

    def start(self, *, stop: bool = False) -> Handle:
        entering = self._tell(stop)
        buffers = self._outbox.buffers
        self._under_way = _Several(
            [
                reduction.start(buffers[name], entering, self._round)
                for name, reduction in self._reductions.items()
            ]
        )
        return self._under_way

    def _tell(self, stop: bool) -> float:
        """Tells all ranks what entered here; 1 where it has a weight, as the share of this rank's buffer."""
        outbox = self._outbox
        self._facts.tell(outbox.sums, len(outbox.left_out), stop)
        weight = float(self._facts.sums[:, 0].sum())
        if 0 < weight != outbox.total:  # somebody was left out: the others' shares grow
            for buffer in outbox.buffers.values():
                buffer.mul_(outbox.total / weight)
        return 1.0 if outbox.sums[0] > 0 else 0.0

    def result(self) -> Mixed:
        if self._under_way is not None:
            self._reduced, self._under_way = self._under_way.wait(), None
        outbox = self._outbox
        lost = sorted({rank for reduced in self._reduced for rank in reduced.left_out})
        entered = self._facts.sums.copy()
        entered[lost] = 0
        weight, loss, parties = entered.sum(0).tolist()
        before = float(self._facts.sums[:, 0].sum())
        if lost and weight > 0:
            for buffer in outbox.buffers.values():
                buffer.mul_(before / weight)
        names: tuple[int, ...] = ()
        if lost or self._facts.left_out.any():
            mine = outbox.left_out + (outbox.parties if self._transport.rank in lost else [])
            names = names_everywhere(self._transport, mine)
        n = sum(map(len, outbox.buffers.values()))
        return Mixed(
            outbox.buffers,
            weight,
            loss * outbox.total / weight if weight > 0 else float("nan"),
            round(parties),
            names,
            self._facts.stop,
            0,
            0,
            dense_bytes(n, self._transport.size),
        )

    def state(self) -> KeptStates:
        kept = {
            f"{name}.{key}": tensor
            for name, reduction in self._reductions.items()
            for key, tensor in reduction.state().items()
        }
        return {} if self._home is None or not kept else {self._home: kept}

    def restore(self, state: KeptStates) -> None:
        for name, reduction in self._reductions.items():
            prefix = f"{name}."
            found = [
                {key.removeprefix(prefix): tensor for key, tensor in kept.items() if key.startswith(prefix)}
                for kept in state.values()
            ]
            reduction.restore(*(kept for kept in found if kept))
