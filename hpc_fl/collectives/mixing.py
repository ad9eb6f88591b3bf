"""The front door of gossip: a mixer by its codec alone, over parties or over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_fl.collectives.choco import ChocoMixer
from hpc_fl.collectives.front_door import transport_of
from hpc_fl.collectives.gossip_dense import DenseMixer
from hpc_fl.collectives.gossip_direct import DirectMixer
from hpc_fl.collectives.mixer import Mixer, Placement
from hpc_fl.collectives.squeeze import SqueezeMixer
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Identity
from hpc_fl.compression.base import Base
from hpc_fl.telemetry.ledger import Ledger

if TYPE_CHECKING:
    from mpi4py import MPI


def mixing(
    comm: Transport | MPI.Comm,
    codec: Base | None = None,
    *,
    placement: Placement | None = None,
    changing: bool = False,
    step: float | None = None,
    ledger: Ledger | None = None,
) -> Mixer:
    """What mixes rows over ``comm`` by ``codec`` (None: float32 as it is). Every rank must call it.

    ``placement``: which nodes each rank hosts; None: rank r is node r. A codec that needs error feedback
    travels as CHOCO's differences, or, where the matrices are ``changing`` from call to call, as
    DeepSqueeze's; ``step``: their gamma or eta, None: by the codec. ``ledger``: counts the bytes sent.
    Keep one mixer for each buffer. Raises :class:`CodecError` for a codec that cannot be mixed.
    """
    transport, ledger = transport_of(comm), ledger or Ledger()
    nodes = tuple((rank,) for rank in range(transport.size)) if placement is None else placement
    if codec is None or isinstance(codec, Identity):
        return DenseMixer(transport, ledger, nodes)
    if not codec.needs_feedback:
        return DirectMixer(transport, ledger, nodes, codec)
    if changing:
        return SqueezeMixer(transport, ledger, nodes, codec, eta=step)
    return ChocoMixer(transport, ledger, nodes, codec, gamma=step)
