"""The front door: a reduction by its codec alone, as an object for many calls or as one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from hpc_fl.collectives.collective import Reduced
from hpc_fl.collectives.compressed import Compressed
from hpc_fl.collectives.lowrank import LowRankMean
from hpc_fl.collectives.sharded import Sharded
from hpc_fl.collectives.sparse import Sparse
from hpc_fl.collectives.summed import Linear, Summed
from hpc_fl.collectives.vote import Vote
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import BF16, FP16, Identity, LowRank, RandomK, SignSGD, Threshold, TopK
from hpc_fl.compression.base import Base
from hpc_fl.errors import CodecError
from hpc_fl.telemetry.ledger import Ledger

if TYPE_CHECKING:
    from mpi4py import MPI

_USUAL: Final[dict[type[Base], type[Compressed]]] = {
    Identity: Summed,
    FP16: Summed,
    BF16: Summed,
    TopK: Sparse,
    Threshold: Sparse,
    RandomK: Linear,
    SignSGD: Vote,
    LowRank: LowRankMean,
}
"""What carries a codec's payloads, unless it is told otherwise; any other codec's: :class:`Sharded`."""


def reduction(
    comm: Transport | MPI.Comm,
    codec: Base | None = None,
    *,
    feedback: bool | None = None,
    mean: bool = True,
    ledger: Ledger | None = None,
    collective: type[Compressed] | None = None,
    **options: Any,
) -> Compressed:
    """What reduces buffers over ``comm`` by ``codec`` (None: float32 as it is). Every rank must call it.

    ``feedback``: what the encoding leaves out is added in the next call; None: as the codec needs it.
    ``mean``: the weighted mean, else the weighted sum. ``ledger``: counts the bytes sent. ``collective``: the
    class that carries the payloads, None for the usual one; ``options``: that class's own. Keep one object
    for each buffer: it remembers what was left out of it. Raises :class:`CodecError` for a pairing that
    cannot work.
    """
    codec = codec or Identity()
    carrier = collective or _USUAL.get(type(codec), Sharded)
    if not carrier.carries(codec):
        raise CodecError(f"collective {carrier.name} cannot carry {codec.name}")
    keeps = codec.needs_feedback if feedback is None else feedback
    return carrier(transport_of(comm), ledger or Ledger(), codec, feedback=keeps, mean=mean, **options)


def allreduce(
    buffer: Any,
    comm: Transport | MPI.Comm,
    codec: Base | None = None,
    weight: float = 1.0,
    *,
    mean: bool = True,
    ledger: Ledger | None = None,
) -> Reduced:
    """Overwrites ``buffer`` (n,) float32 by the ranks' weighted mean (or sum). Every rank must call it.

    ``buffer``: a torch tensor, NumPy or CuPy array. One call alone: nothing is kept back for a next one, for
    which :func:`reduction` is there. Errors are those of :class:`Compressed`.
    """
    transport = transport_of(comm)
    once = reduction(transport, codec, feedback=False, mean=mean, ledger=ledger)
    reduced = once.allreduce(buffer, weight)
    once.close()  # not after an error, when other ranks may be elsewhere
    if transport is not comm:
        transport.close()
    return reduced


def transport_of(comm: Transport | MPI.Comm) -> Transport:
    """A transport as it is; a communicator's."""
    if not hasattr(comm, "Get_rank"):
        return comm
    from hpc_fl.comm.mpi import MpiTransport

    return MpiTransport(cast("MPI.Comm", comm))
