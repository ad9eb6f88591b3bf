"""Each element takes the sign that most ranks have: one bit an element both ways, counted by its owner.

Bernstein, Wang, Azizzadenesheli, Anandkumar: signSGD: Compressed Optimisation for Non-Convex Problems, ICML
2018 (majority vote); the owners share the counting as in Bernstein, Zhao, Azizzadenesheli, Anandkumar:
signSGD with Majority Vote is Communication Efficient and Fault Tolerant, ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from hpc_fl.backends import backend_of
from hpc_fl.collectives.compressed import Call
from hpc_fl.collectives.memory import Memory
from hpc_fl.collectives.messages import sent_by
from hpc_fl.collectives.sharded import Found, Sharded
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Payload
from hpc_fl.compression.arrays import as_array, module_of
from hpc_fl.compression.base import Base
from hpc_fl.compression.signsgd import SignSGD
from hpc_fl.telemetry.ledger import Ledger


class Vote(Sharded):
    """``codec.scale`` with the majority's sign, on all ranks; a tie is positive.

    Every rank with a weight above 0 has one vote, whatever the weight. The result is no mean, and keeps
    nothing back of the counting; ``feedback`` is for the rank's own signs.
    """

    name: ClassVar[str] = "vote"
    encodes_own: ClassVar[bool] = True

    @classmethod
    def carries(cls, codec: Base) -> bool:
        return isinstance(codec, SignSGD)

    def __init__(
        self, transport: Transport, ledger: Ledger, codec: SignSGD, *, feedback: bool, mean: bool = True
    ) -> None:
        super().__init__(transport, ledger, codec, feedback=feedback, mean=mean)
        self._server: Memory | None = None

    def _add_up(self, own: Tensor, found: Found, shares: Sequence[float], out: Tensor) -> None:
        like = as_array(out)
        ballots = []
        for source, payload in sorted(found.items()):
            if payload is not None and shares[source] > 0:
                with sent_by(source):
                    self._codec.read(payload, like)  # refuses what no peer of ours sends
                ballots.append(payload)
        out.zero_()
        if ballots:
            self._codec.accumulate(_majority(ballots, module_of(like)), 1.0, out)

    def _alone(self, x: Tensor, call: Call) -> tuple[int, ...]:
        left_out = super()._alone(x, call)
        if not left_out and call.weights[0] > 0:
            self._codec.decode(self._codec.encode(x), x)
        return left_out


def _majority(ballots: Sequence[Payload], module: Any) -> Payload:
    """The payload of the signs that more than half of the payloads have; ``module``: NumPy or CuPy."""
    first = ballots[0]
    scales, bits = first.parts
    rows = module.stack([module.asarray(ballot.parts[1]) for ballot in ballots])
    winner = module.empty(bits.size, "uint8")
    backend_of(winner).majority(rows, winner)
    return Payload(first.codec, first.n, (scales, winner), first.meta)
