"""DeepSqueeze: gossip of encoded rows with error feedback.

Tang, Lian, Qiu, Yuan, Zhang, Zhang, Liu: DeepSqueeze: Decentralization Meets Error-Compensated Compression,
2019. With what was kept back, d_i: v_i = x_i + d_i; C(v_i) is sent; d_i = v_i - C(v_i);
x_i += eta sum_j w_ij (C(v_j) - C(v_i)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from hpc_fl.collectives.gossip_direct import Differences
from hpc_fl.collectives.gossip_encoded import detached
from hpc_fl.collectives.mixer import NodeStates, Placement
from hpc_fl.collectives.routes import Routes
from hpc_fl.collectives.steps import usual_eta
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Payload
from hpc_fl.compression.base import Base
from hpc_fl.compression.error_feedback import ErrorFeedback
from hpc_fl.errors import CodecError
from hpc_fl.telemetry.ledger import Ledger


class SqueezeMixer(Differences):
    """See above; for any codec, and matrices that change from round to round.

    ``eta``: above 0, 1 at most; the harder the codec compresses, the smaller it has to be; None:
    :func:`hpc_fl.collectives.steps.usual_eta`. Keeps for each
    node what its codec keeps back (n,). A node that is left out keeps what it had. Raises
    :class:`CodecError` for another eta.
    """

    name: ClassVar[str] = "squeeze"

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        placement: Placement,
        codec: Base,
        *,
        eta: float | None = None,
    ) -> None:
        if eta is not None and not 0 < eta <= 1:
            raise CodecError(f"squeeze gossip: eta = {eta} given; above 0 and at most 1 expected")
        super().__init__(transport, ledger, placement, codec)
        self._eta, self._feedback = eta, ErrorFeedback(codec)

    def _begin(self, rows: Tensor, routes: Routes) -> None:
        if self._eta is None:
            self._eta = usual_eta(self._codec, rows.shape[1])
        self.step = self._eta

    def _encode(self, node: int, x: Tensor, round_: int) -> Payload:
        return detached(self._feedback.encode(node, round_, x), x)

    def state(self) -> NodeStates:
        """What the codec keeps back of each node hosted here, as it keeps it."""
        return self._feedback.state()

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """The inverse of :meth:`state`; other nodes' are passed over. The tensors are copied."""
        mine = {node: state[node] for node in self._nodes if node in state}
        self._feedback.restore(
            {node: {name: kept.clone() for name, kept in of.items()} for node, of in mine.items()}
        )
