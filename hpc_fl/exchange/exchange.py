"""What every exchange is: codec and collective as one function, from the updates of all parties to their
weighted mean on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives.collective import Handle

KeptStates = dict[int, dict[str, Tensor]]
"""What the parties hosted on this rank keep between exchanges, by party id and name."""


@dataclass(frozen=True)
class Mixed:
    """The result of an exchange, identical bits on every rank.

    ``buffers``: each buffer's weighted mean (n,), views that live until the next round is opened; zeros where
    no party contributed. ``weight``: the sum of the weights that entered, rounded to float32; ``loss``: the
    weighted mean training loss, NaN where no party contributed; ``parties``: how many entered; ``left_out``:
    the ids of those that did not because their update was not finite; ``stop``: whether some rank asked to
    stop. ``payload_bytes``: what the updates of those that entered took, encoded, headers apart, where
    float32 takes ``plain_bytes``; both 0 where sums of ranks are encoded instead. ``dense_bytes``: what a
    rank sends in a dense exchange of these buffers.
    """

    buffers: Mapping[str, Tensor]
    weight: float
    loss: float
    parties: int
    left_out: tuple[int, ...]
    stop: bool
    payload_bytes: int
    plain_bytes: int
    dense_bytes: int


class Exchange(Protocol):
    """The mean over all parties of named buffers of n float32 each.

    A round: :meth:`open`, :meth:`add` for the parties hosted here, :meth:`travel` (or :meth:`start` and
    ``wait()`` on what it returns), :meth:`result`. Every rank must make the same calls, except for
    :meth:`add`, which a rank calls as often as it has parties to add.
    """

    def open(self, round_: int, total: float) -> None:
        """Begins round ``round_`` (from 0); the buffers of the last result are overwritten.

        ``total``: the sum of the weights of all parties expected on all ranks.
        """
        ...

    def add(
        self,
        party_ids: Sequence[int],
        buffers: Mapping[str, Tensor],
        weights: NDArray[np.float32],
        losses: Tensor,
    ) -> None:
        """Adds B parties: ``buffers`` (B, n) by name, ``weights`` (B,), ``losses`` (B,) float32.

        A party with a NaN or an infinity in a buffer or in its loss is left out whole, and named in the
        result; what it kept back in earlier rounds stays as it was. Nothing given is kept or changed.
        """
        ...

    def travel(self, *, stop: bool = False) -> None:
        """Brings to every rank what it needs, and waits. ``stop``: whether this rank asks all to stop."""
        ...

    def start(self, *, stop: bool = False) -> Handle:
        """Begins to; local work may go on until ``wait()`` on what this returns."""
        ...

    def result(self) -> Mixed:
        """The mean of what has arrived. Raises :class:`WireError` naming rank and party for a message that
        cannot be read.
        """
        ...

    def state(self) -> KeptStates:
        """What the parties hosted here keep for their next rounds, for a checkpoint; only those that keep
        something. The tensors live until the next round.
        """
        ...

    def restore(self, state: KeptStates) -> None:
        """The inverse of :meth:`state`, with the parties hosted here now."""
        ...
