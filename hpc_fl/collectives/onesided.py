"""One-sided gossip: a rank writes into its neighbours' windows, which look when they like.

The names are BlueFog's (Ying et al.: BlueFog: Make Decentralized Algorithms Practical for Optimization and
Deep Learning, arXiv:2111.04287); push-sum is of Kempe, Dobra, Gehrke: Gossip-Based Computation of Aggregate
Information, FOCS 2003, and Assran et al.: Stochastic Gradient Push, ICML 2019. Each message is the values and
their push-sum weight, n + 1 float32 in one write, so that nobody reads one without the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.comm.window import Floats, Window
from hpc_fl.compression.arrays import all_finite
from hpc_fl.errors import TransportError
from hpc_fl.telemetry.ledger import Ledger

_ITEM: Final = 4


class _Message:
    """Host memory for one message: n values, then their weight."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.array: Floats = np.zeros(n + 1, np.float32)
        self._values = torch.from_numpy(self.array)[:n]

    def scaled(self, buffer: Tensor, weight: float, factor: float) -> Floats:
        """``factor`` times the buffer and its weight."""
        self._values.copy_(buffer.detach())
        self.array[-1] = weight
        np.multiply(self.array, np.float32(factor), out=self.array)
        return self.array

    def finite(self, buffer: Tensor, factor: float = 1.0) -> bool:
        """Whether ``factor`` times the buffer holds neither NaN nor infinity."""
        return all_finite(self.scaled(buffer, 1.0, factor))

    def check(self, buffer: Tensor) -> None:
        """Raises :class:`TransportError` for another shape or dtype."""
        if buffer.dtype != torch.float32 or buffer.shape != (self.n,):
            raise TransportError(
                f"window of {self.n} float32: a buffer of shape {tuple(buffer.shape)} and "
                f"{buffer.dtype} given; make a window for each buffer"
            )


class PushSumWindow:
    """Push-sum without meetings: a rank gives shares of its buffer and weight away, and collects at leisure.

    Rank i holds a numerator x_i (n,), in the caller's buffer, and a ``weight`` w_i, 1 at first. What is in
    buffers and windows together is the same at every moment: sum x_i and sum w_i never change but for
    rounding, whatever the order of the calls. So x_i / w_i goes to the mean of the ranks on every strongly
    connected graph, directed or not, changing or not.

    One slot receives from all: 4 (n + 1) bytes, whatever the degree; as much again for the message. Sends
    4n bytes to each target, and 4 for the weight. One thread of a rank at a time. Making one is collective; n
    must be the same on all ranks. Raises :class:`TransportError` where ``transport.concurrent`` is False.
    """

    name: Final = "push-sum window"

    def __init__(self, transport: Transport, ledger: Ledger, n: int) -> None:
        self._transport, self._ledger = transport.dup(), ledger
        self._window = self._transport.window(n + 1)
        _check_same_sizes(self._window)
        self._message = _Message(n)
        self._weight = np.float32(1.0)

    @property
    def weight(self) -> float:
        """This rank's push-sum weight; with shares below 1 it stays above 0."""
        return float(self._weight)

    def win_accumulate(self, buffer: Tensor, dst_weights: Mapping[int, float]) -> bool:
        """Gives the share ``dst_weights[j]`` of buffer (n,) and weight to each rank j, and keeps the rest.

        Returns when it is in the windows. Shares must be above 0 and sum to less than 1. False: the buffer is
        not finite; it reached nobody, and all is as it was. Other ranks need not call anything.
        """
        self._message.check(buffer)
        rest = self._rest(dst_weights)
        if not self._message.finite(buffer):
            return False
        for rank, share in dst_weights.items():
            self._window.accumulate(self._message.scaled(buffer, self.weight, share), rank)
            _charge(self._ledger, self._message.n)
        buffer.mul_(rest)
        self._weight *= np.float32(rest)
        return True

    def _rest(self, dst_weights: Mapping[int, float]) -> float:
        rest = 1.0 - math.fsum(dst_weights.values())
        if not rest > 0 or any(not share > 0 for share in dst_weights.values()):
            raise TransportError(
                f"win_accumulate: shares {dict(dst_weights)}; each must be above 0, their sum below 1"
            )
        if self._transport.rank in dst_weights:
            raise TransportError("win_accumulate: a share for this rank itself; it keeps the rest anyway")
        return rest

    def win_update(self, buffer: Tensor) -> float:
        """Adds to buffer (n,) and weight what has come in, and leaves an empty slot. The new weight."""
        self._message.check(buffer)
        with self._window.locked() as slot:
            np.copyto(self._message.array, slot)
            slot[:] = 0
        buffer.add_(torch.from_numpy(self._message.array)[:-1].to(buffer.device))
        self._weight += self._message.array[-1]
        return self.weight

    def debiased(self, buffer: Tensor) -> Tensor:
        """x / w: this rank's estimate of the mean (n,), in new memory."""
        return buffer / self.weight

    def drain(self, buffer: Tensor) -> float:
        """:meth:`win_update` when every rank has come here: then nothing is under way (collective)."""
        self._transport.barrier()
        weight = self.win_update(buffer)
        self._transport.barrier()  # what a rank gives away after this belongs to later
        return weight

    def close(self) -> None:
        """Frees the window (collective). What was not collected is lost: :meth:`drain` before."""
        self._window.close()
        self._transport.close()


class NeighborWindow:
    """The latest buffer of each neighbour, in a slot of its own, put there without meetings.

    ``sources``: the ranks that may put here; each has a slot, so that this rank's window is 4 (n + 1) bytes
    times their number, and 4 (n + 1) for the message. Sends 4n bytes to each target, and 4 for the weight.
    One thread of a rank at a time. Making one is collective; n must be the same on all ranks. Raises
    :class:`TransportError` where ``transport.concurrent`` is False.
    """

    name: Final = "neighbor window"

    def __init__(self, transport: Transport, ledger: Ledger, n: int, sources: Sequence[int]) -> None:
        self._transport, self._ledger = transport.dup(), ledger
        self.sources = tuple(sources)
        everyone = [
            json.loads(one) for one in allgather_bytes(self._transport, json.dumps([n, *sources]).encode())
        ]
        _check_sources(everyone, transport.size)
        self._slots = {
            rank: theirs.index(transport.rank)
            for rank, (_, *theirs) in enumerate(everyone)
            if transport.rank in theirs
        }
        self._window = self._transport.window(len(self.sources) * (n + 1))
        self._message = _Message(n)

    @property
    def targets(self) -> tuple[int, ...]:
        """The ranks that have a slot for this one, ascending."""
        return tuple(self._slots)

    def win_put(self, buffer: Tensor, dst_weights: Mapping[int, float] | None = None) -> bool:
        """Puts ``dst_weights[j]`` times the buffer (n,) and times the weight 1 in this rank's slot at each j.

        What was there is overwritten. None: 1 for all :attr:`targets`. Returns when it is there. False: the
        buffer is not finite and reached nobody. Raises :class:`TransportError` for a rank without a slot.
        """
        weights = dict.fromkeys(self._slots, 1.0) if dst_weights is None else dst_weights
        self._message.check(buffer)
        if strangers := sorted(weights.keys() - self._slots.keys()):
            raise TransportError(f"win_put: rank {strangers} has no slot for rank {self._transport.rank}")
        if not all(0 < weight < math.inf for weight in weights.values()):
            raise TransportError(f"win_put: weights {dict(weights)}; finite and above 0 expected")
        if not self._message.finite(buffer, max(weights.values(), default=1.0)):
            return False
        for rank, weight in weights.items():
            offset = self._slots[rank] * (self._message.n + 1)
            self._window.put(self._message.scaled(buffer, 1.0, weight), rank, offset)
            _charge(self._ledger, self._message.n)
        return True

    def win_update(
        self,
        buffer: Tensor,
        self_weight: float | None = None,
        src_weights: Mapping[int, float] | None = None,
    ) -> tuple[int, ...]:
        """Overwrites buffer x (n,) by (s x + sum_j a_j v_j) / (s + sum_j a_j w_j); s is ``self_weight``, a_j
        ``src_weights[j]``, and v_j, w_j are the values and the weight in the slot of j.

        Where every neighbour has put with weight 1, and s and a_j sum to 1, that is s x + sum_j a_j v_j; one
        that has put nothing yet (v_j = 0, w_j = 0) is left out, and the others count for more. Slots stay as
        they are. None: 1 for this rank, and 1 for each of :attr:`sources`. The ranks that had put something.
        """
        own = 1.0 if self_weight is None else self_weight
        weights = dict.fromkeys(self.sources, 1.0) if src_weights is None else src_weights
        self._message.check(buffer)
        if strangers := sorted(weights.keys() - set(self.sources)):
            raise TransportError(f"win_update: rank {strangers} is none of the sources {self.sources}")
        total = self._message.scaled(buffer, 1.0, own)
        with self._window.locked() as memory:
            slots = memory.reshape(len(self.sources), -1) if self.sources else memory.reshape(0, 1)
            heard = tuple(rank for rank, slot in zip(self.sources, slots, strict=True) if slot[-1] != 0)
            for rank in heard:
                total += np.float32(weights.get(rank, 0.0)) * slots[self.sources.index(rank)]
        if not total[-1] > 0:
            raise TransportError(f"win_update: the weights sum to {total[-1]}; give some above 0")
        total /= total[-1]
        buffer.copy_(torch.from_numpy(total)[:-1])
        return heard

    def close(self) -> None:
        """Frees the window (collective)."""
        self._window.close()
        self._transport.close()


def _charge(ledger: Ledger, n: int) -> None:
    ledger.add("gossip", _ITEM * n)
    ledger.add("headers", _ITEM)


def _check_same_sizes(window: Window) -> None:
    if len(set(window.sizes)) > 1:
        lengths = [size - 1 for size in window.sizes]
        raise TransportError(f"window: buffers of {lengths} elements, by rank; all must be alike")


def _check_sources(everyone: Sequence[Sequence[int]], ranks: int) -> None:
    """The same refusal on every rank."""
    lengths = [n for n, *_ in everyone]
    if len(set(lengths)) > 1:
        raise TransportError(f"window: buffers of {lengths} elements, by rank; all must be alike")
    for rank, (_, *sources) in enumerate(everyone):
        if len(set(sources)) < len(sources) or not set(sources) <= set(range(ranks)) - {rank}:
            raise TransportError(
                f"window: sources {sources} of rank {rank}; other ranks of 0 to {ranks - 1} expected, once"
            )
