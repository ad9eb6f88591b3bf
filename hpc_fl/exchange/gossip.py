"""The parties' own buffers, each mixed with those of the party's neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives import dense_bytes
from hpc_fl.collectives.mixer import Mixer, MixingHandle
from hpc_fl.comm.transport import Transport
from hpc_fl.exchange.exchange import KeptStates, Mixed
from hpc_fl.exchange.facts import Facts
from hpc_fl.exchange.outbox import names_everywhere
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import Schedule

Present = frozenset[int] | None
"""The parties that take part in a round; None: all."""


@dataclass(frozen=True)
class Mixing:
    """A round's mixing under way."""

    handles: Sequence[MixingHandle]

    def wait(self) -> tuple[int, ...]:
        """Returns when all buffers are mixed: the parties hosted here that were left out of some."""
        return tuple(sorted({party for handle in self.handles for party in handle.wait()}))


class GossipExchange:
    """Mixes buffers by the matrices of ``schedule``, whose nodes are the parties; ``mixers``: by the name of
    a buffer, what carries it; ``elements``: of all buffers of one party. Every rank must make the same calls.

    Absent parties keep their buffers; the weights of those present are those of the graph without them.
    """

    def __init__(
        self,
        transport: Transport,
        schedule: Schedule,
        mixers: Mapping[str, Mixer],
        ledger: Ledger,
        *,
        elements: int,
    ) -> None:
        self._transport, self.schedule, self._mixers = transport, schedule, dict(mixers)
        self._facts, self._elements = Facts(transport, ledger), elements

    def mix(self, rows: Mapping[str, Tensor], round_: int, present: Present) -> tuple[int, ...]:
        """Mixes ``rows``, (B, length) by name for the parties hosted here, in place, and waits. Those of them
        that were left out, as not finite.
        """
        matrix = self.schedule.matrix(round_, present)
        left = [self._mixers[name].mix(of, matrix, round_) for name, of in rows.items()]
        return tuple(sorted({party for parties in left for party in parties}))

    def start(self, rows: Mapping[str, Tensor], round_: int, present: Present) -> Mixing:
        """Begins to; ``rows`` are not to be touched before ``wait()``."""
        matrix = self.schedule.matrix(round_, present)
        return Mixing([self._mixers[name].start(of, matrix, round_) for name, of in rows.items()])

    def tell(self, sums: NDArray[np.float64], left_out: Sequence[int], stop: bool) -> Mixed:
        """How the round went for all parties, the same on every rank; no buffers. ``sums``: of the parties
        hosted here that entered, the number, their losses, and the number again.
        """
        self._facts.tell(sums, len(left_out), stop)
        weight, loss, parties = self._facts.sums.sum(0).tolist()
        names = names_everywhere(self._transport, left_out) if self._facts.left_out.any() else ()
        return Mixed(
            {},
            weight,
            loss / weight if weight > 0 else float("nan"),
            round(parties),
            names,
            self._facts.stop,
            0,
            0,
            dense_bytes(self._elements, self._transport.size),
        )

    def agree(self, values: Mapping[str, Tensor]) -> None:
        """By name, what that buffer of all parties is now, (length,), the same bits on every rank. Every rank
        must call it.
        """
        for name, tensor in values.items():
            self._mixers[name].agree(tensor)

    def close(self) -> None:
        """Ends the threads and frees the transports of the mixers (collective)."""
        for mixer in self._mixers.values():
            mixer.close()

    def reset(self) -> None:
        """Forgets what the mixers kept of neighbours, when parties are gone for good. Every rank must call
        it.
        """
        for mixer in self._mixers.values():
            mixer.reset()

    def state(self) -> KeptStates:
        """What the mixers keep for the parties hosted here, for a checkpoint."""
        kept: KeptStates = {}
        for name, mixer in self._mixers.items():
            for party, tensors in mixer.state().items():
                mine = kept.setdefault(party, {})
                mine.update({f"{name}.{key}": tensor for key, tensor in tensors.items()})
        return kept

    def restore(self, state: KeptStates) -> None:
        """The inverse of :meth:`state`, with the parties hosted here now."""
        for name, mixer in self._mixers.items():
            prefix = f"{name}."
            mixer.restore(
                {
                    party: {key.removeprefix(prefix): t for key, t in kept.items() if key.startswith(prefix)}
                    for party, kept in state.items()
                }
            )
