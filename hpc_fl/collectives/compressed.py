"""What compressed reductions share: agreement before anything moves, error feedback, one order of calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from hpc_fl.collectives.agreement import RECORD_BYTES, agree
from hpc_fl.collectives.allgather import allgather_bytes_sent
from hpc_fl.collectives.collective import Reduced
from hpc_fl.collectives.lane import Lane, Running
from hpc_fl.collectives.memory import RESIDUAL, Memory
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Payload
from hpc_fl.compression.arrays import all_finite, as_array, as_tensor
from hpc_fl.compression.base import Base
from hpc_fl.errors import CodecError, TransportError
from hpc_fl.telemetry.ledger import Ledger


@dataclass(frozen=True)
class Call:
    """One call as every rank knows it: its ``number`` (0, 1, ...) and the ranks' ``weights``."""

    number: int
    weights: tuple[float, ...]
    mean: bool

    def shares(self, left_out: Sequence[int] = ()) -> list[float]:
        """By rank, what its buffer is multiplied by where ``left_out`` do not take part."""
        weights = [0.0 if rank in left_out else weight for rank, weight in enumerate(self.weights)]
        total = sum(weights) if self.mean else 1.0
        return [weight / total if total > 0 else 0.0 for weight in weights]


class Compressed(ABC):
    """A weighted sum of the ranks' buffers that is encoded by ``codec`` on the way; see :class:`Reduction`.

    ``feedback``: what the encoding leaves out of a call is added in the next one. ``mean``: the sum is
    divided by the sum of the weights. Works on a duplicate of ``transport``. Making one is collective.

    A call raises, on every rank alike: :class:`TransportError` where the ranks' calls differ (size, dtype,
    codec, number of the call); :class:`CodecError` for a buffer that the codec cannot take. On the rank that
    finds it: :class:`WireError`, naming the sender of a message that cannot be read;
    :class:`TransportTimeout`. A rank whose buffer is not finite is left out of the sum, and named; what it
    kept back stays as it was.
    """

    name: ClassVar[str]

    def __init__(
        self, transport: Transport, ledger: Ledger, codec: Base, *, feedback: bool, mean: bool = True
    ) -> None:
        self._transport, self._ledger, self._codec = transport.dup(), ledger, codec
        self._mean, self._calls = mean, 0
        self._memory = Memory() if feedback else None
        self._lane = Lane(f"{self.name} allreduce")

    @classmethod
    @abstractmethod
    def carries(cls, codec: Base) -> bool:
        """Whether it can carry the payloads of ``codec``."""

    @property
    def codec(self) -> Base:
        return self._codec

    @abstractmethod
    def _reduce(self, x: Tensor, call: Call) -> tuple[int, ...]:
        """Overwrites ``x`` by the result; the ranks left out."""

    def allreduce(self, buffer: Tensor, weight: float = 1.0, round_: int | None = None) -> Reduced:
        """See :class:`Reduction`. Every rank must call it."""
        number = self._number(round_)
        return self._lane.run(lambda: self._call(buffer, weight, number))

    def start(self, buffer: Tensor, weight: float = 1.0, round_: int | None = None) -> Running[Reduced]:
        """See :class:`Reduction`. Every rank must call it; raises :class:`TransportError` where MPI was
        started without MPI_THREAD_MULTIPLE.
        """
        if not self._transport.concurrent:
            raise TransportError(
                f"start: {self._transport.name} was not started for several threads "
                "(MPI_THREAD_MULTIPLE); use allreduce"
            )
        number = self._number(round_)
        return self._lane.submit(lambda: self._call(buffer, weight, number))

    def _number(self, round_: int | None) -> int:
        number = self._calls if round_ is None else round_
        self._calls = number + 1
        return number

    def _call(self, buffer: Tensor, weight: float, number: int) -> Reduced:
        facts = {
            "collective": self.name,
            "codec": self._codec,
            **_described(buffer),
            "round": number,
            "mean": self._mean,
            "feedback": self._memory is not None,
        }
        call = Call(number, agree(self._transport, facts, weight), self._mean)
        self._charge_headers(RECORD_BYTES)
        if any(not 0 <= one < float("inf") for one in call.weights):
            raise CodecError(f"weights of the ranks: {call.weights[:8]}; finite and 0 or more expected")
        x = as_tensor(as_array(buffer))
        if self._memory is not None:
            self._memory.begin(x)
        left_out = self._reduce(x, call) if self._transport.size > 1 else self._alone(x, call)
        entered = [one for rank, one in enumerate(call.weights) if rank not in left_out]
        return Reduced(sum(entered), left_out)

    def _alone(self, x: Tensor, call: Call) -> tuple[int, ...]:
        """The only rank's result: nothing travels, so nothing is lost."""
        sound = all_finite(as_array(x))
        if sound and self._memory is not None:
            self._memory.commit()
        if not sound:
            x.zero_()
            return (0,)
        x.mul_(call.shares()[0])
        return ()

    def _verdict(self, sound: bool, *, commit: bool = True) -> tuple[int, ...]:
        """The ranks whose buffers were not finite, once all have encoded; commits what is kept back here."""
        flags = np.zeros(self._transport.size, np.uint8)
        self._transport.allgather(np.array([not sound], np.uint8), flags)
        self._charge_headers(1)
        if sound and commit and self._memory is not None:
            self._memory.commit()
        return tuple(np.flatnonzero(flags).tolist())

    def _encode(self, codec: Base, x: Tensor) -> Payload:
        """The payload of the whole buffer, with what was kept back of it."""
        return codec.encode(x) if self._memory is None else self._memory.encode_whole(codec, x)

    def _charge(self, payload: Payload, message: int, times: int = 1) -> None:
        """Counts a message of so many bytes with this payload, sent so often."""
        self._ledger.add("allreduce", times * payload.nbytes)
        self._ledger.add("headers", times * (message - payload.nbytes))

    def _charge_headers(self, nbytes: int) -> None:
        self._ledger.add("headers", allgather_bytes_sent(nbytes, self._transport.size))

    def state(self) -> dict[str, Tensor]:
        """``residual`` (n,): what was kept back here, in units of the input; empty where nothing is."""
        residual = None if self._memory is None else self._memory.settle(self._codec)
        return {} if residual is None else {RESIDUAL: residual}

    def restore(self, *states: Mapping[str, Tensor]) -> None:
        """Takes over :meth:`state` of one rank, or of several: in a world of another size their sum is kept.

        With ``mean`` and weights that differ between the ranks such a sum is an approximation.
        """
        if self._memory is not None:
            self._memory.restore([state[RESIDUAL] for state in states if RESIDUAL in state])

    def close(self) -> None:
        """Waits for what is under way and frees the transport (collective)."""
        self._lane.close()
        self._transport.close()


def _described(buffer: object) -> dict[str, str]:
    """What the ranks compare of their buffers, of any kind: told before anything about them is refused."""
    if not hasattr(buffer, "dtype") or not hasattr(buffer, "shape"):
        return {"buffer": type(buffer).__name__}
    return {"shape": str(tuple(buffer.shape)), "dtype": str(buffer.dtype).removeprefix("torch.")}
