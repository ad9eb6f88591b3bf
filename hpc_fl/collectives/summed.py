"""What a dense allreduce can add up: buffers as they are, and payloads of which sums decode to sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

import torch
from torch import Tensor

from hpc_fl.collectives.auto import AutoDense
from hpc_fl.collectives.collective import Collective
from hpc_fl.collectives.compressed import Call, Compressed
from hpc_fl.collectives.dense import DenseAllreduce
from hpc_fl.collectives.halves import Halves
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import BF16, FP16, Identity, Payload, RandomK
from hpc_fl.compression.arrays import all_finite, as_array, as_tensor
from hpc_fl.compression.base import Base
from hpc_fl.errors import NotFiniteError
from hpc_fl.telemetry.ledger import Ledger

MakeCollective = Callable[[Transport, Ledger], Collective]

_DENSE: Final[dict[type[Base], MakeCollective]] = {
    Identity: AutoDense,
    FP16: lambda transport, ledger: Halves(transport, ledger, "fp16"),
    BF16: lambda transport, ledger: Halves(transport, ledger, "bf16"),
}
"""What adds up the buffers themselves, the small floats being a matter of the wire."""


class Summed(Compressed):
    """A weighted sum of the buffers by ``dense``, where None by what the codec stands for."""

    name: ClassVar[str] = "dense"

    @classmethod
    def carries(cls, codec: Base) -> bool:
        return type(codec) in _DENSE

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        codec: Base,
        *,
        feedback: bool,
        mean: bool = True,
        dense: MakeCollective | None = None,
    ) -> None:
        super().__init__(transport, ledger, codec, feedback=feedback, mean=mean)
        self._make = dense or _DENSE.get(type(codec), AutoDense)
        self._made: Collective | None = None

    @property
    def _dense(self) -> Collective:
        """Made in the first call, when all ranks are known to want the same one: making it is collective."""
        if self._made is None:
            self._made = self._make(self._transport, self._ledger)
        return self._made

    def close(self) -> None:
        self._lane.close()
        if isinstance(self._made, AutoDense):
            self._made.close()
        super().close()

    def _reduce(self, x: Tensor, call: Call) -> tuple[int, ...]:
        rank = self._transport.rank
        left_out = self._verdict(call.weights[rank] == 0 or all_finite(as_array(x)))
        share = call.shares(left_out)[rank]
        if share > 0:
            x.mul_(share)
        else:
            x.zero_()  # not a product: the buffer may hold a NaN
        self._add(x)
        return left_out

    def _add(self, x: Tensor) -> None:
        """The sum over the ranks, by way of the host where the algorithm works on host memory only."""
        if x.is_cpu or isinstance(self._dense, AutoDense | DenseAllreduce):
            self._dense.allreduce(x)
            return
        host = x.cpu()
        self._dense.allreduce(host)
        x.copy_(host)


class Linear(Summed):
    """A weighted sum of payloads with one part of float32 that all ranks choose alike (random-k)."""

    name: ClassVar[str] = "linear"

    @classmethod
    def carries(cls, codec: Base) -> bool:
        return isinstance(codec, RandomK)

    def _reduce(self, x: Tensor, call: Call) -> tuple[int, ...]:
        rank = self._transport.rank
        takes_part = call.weights[rank] > 0
        codec = self._codec.at(call.number, 0)
        sound = True
        try:
            payload = self._encode(codec, x) if takes_part else codec.encode(torch.zeros_like(x))
        except NotFiniteError:
            payload, sound = codec.encode(torch.zeros_like(x)), False
        left_out = self._verdict(sound, commit=takes_part)
        (values,) = payload.parts
        values = as_tensor(values).mul_(call.shares(left_out)[rank])
        self._add(values)
        codec.decode(Payload(payload.codec, payload.n, (as_array(values),), payload.meta), x)
        return left_out
