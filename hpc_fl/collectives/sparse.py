"""The sum of what the ranks' codecs select, by whichever sparse scheme costs least.

===========  =======================================================  =====================
``gather``   everything to everybody                                  8k (P-1) bytes a rank
``doubling`` pairs exchange their sums, log2(P) times                 8 (k + 2k + 4k ...), at most 8K log2(P)
``split``    each rank adds up one part and sends the sum to all      (P-1)/P (8k + 8K)
``regions``  as split; of the sum, about the k largest                24k (P-1)/P
===========  =======================================================  =====================

K is the size of the union. The first three are exact and give the same sum, up to the order of adding:
``auto`` takes the one of least cost. Indices are coded by size, so that less is sent than the formulas say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from hpc_fl.backends import Array
from hpc_fl.collectives.agreement import agree
from hpc_fl.collectives.compressed import Call, Compressed
from hpc_fl.collectives.elements import Elements, growth_of, write
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.sparse_doubling import Doubling
from hpc_fl.collectives.sparse_gather import Gather
from hpc_fl.collectives.sparse_regions import Regions
from hpc_fl.collectives.sparse_scheme import Load, MakeScheme, Post, Scheme, too_large
from hpc_fl.collectives.sparse_split import REFRESH, Split
from hpc_fl.comm.transport import Transport
from hpc_fl.compression.arrays import as_array, as_tensor, module_of
from hpc_fl.compression.base import Base
from hpc_fl.compression.sparse import Sparse as Selecting
from hpc_fl.compression.sparse import sparse_parts
from hpc_fl.errors import CodecError, NotFiniteError
from hpc_fl.telemetry.ledger import Ledger

AUTO: Final = "auto"
EXACT: Final[dict[str, type[Scheme]]] = {one.name: one for one in (Gather, Doubling, Split)}
"""What ``auto`` chooses among: the result is the same."""
SCHEMES: Final = (AUTO, *EXACT, Regions.name)
_LARGEST: Final = float(np.finfo(np.float32).max)
_NOT_FINITE: Final = -1
_TOO_LARGE: Final = -2
_AGREED: Final = "agreed"


class Sparse(Compressed):
    """The weighted sum of what ``codec`` (top-k, threshold) selects on each rank.

    ``scheme``: one of :data:`SCHEMES`. ``global_k``: of the sum only the k largest elements are the result,
    ties by lower index; k is what the rank that brings the most brings. What is dropped, so or by regions,
    goes back to what the ranks that brought it keep back, where there is feedback. ``refresh``: calls for
    which owners keep their parts, and regions their threshold. ``link``: what ``auto`` counts with.

    Raises :class:`CodecError` for a codec that does not send selected elements as they are, and for options
    out of range; :class:`TransportError` on all ranks where they differ.
    """

    name: ClassVar[str] = "sparse"

    @classmethod
    def carries(cls, codec: Base) -> bool:
        return isinstance(codec, Selecting)

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        codec: Selecting,
        *,
        feedback: bool,
        mean: bool = True,
        scheme: str = AUTO,
        global_k: bool = False,
        refresh: int = REFRESH,
        link: Link | None = None,
    ) -> None:
        if not isinstance(codec, Selecting):
            raise CodecError(f"sparse: codec {codec!r} given; topk or threshold expected")
        if scheme not in SCHEMES:
            raise CodecError(f"sparse: scheme {scheme!r} given; one of {', '.join(SCHEMES)} expected")
        if refresh < 1:
            raise CodecError(f"sparse: refresh = {refresh} given; 1 or more expected")
        super().__init__(transport, ledger, codec, feedback=feedback, mean=mean)
        self._link = link or Link()
        facts = {"scheme": scheme, "global_k": global_k, "refresh": refresh, "link": self._link}
        agree(self._transport, facts, 0.0)
        self._global_k, self._growth = global_k, 1.0
        post = Post(self._transport, ledger)
        owned = {one.name: partial(one, refresh=refresh) for one in (Split, Regions)}
        makers: dict[str, MakeScheme] = {**EXACT, **owned}
        names = list(EXACT) if scheme == AUTO else [scheme]
        self._schemes = {name: makers[name](post) for name in names}
        self._post = post

    def _reduce(self, x: Tensor, call: Call) -> tuple[int, ...]:
        rank, out = self._transport.rank, as_array(x)
        mine, code = self._selected(x, call)
        counts = self._post.tell(code)[:, 0].tolist()
        if _TOO_LARGE in counts:
            raise too_large()
        left_out = tuple(one for one, count in enumerate(counts) if count == _NOT_FINITE)
        load = self._load(x.numel(), [max(0, count) for count in counts], call)
        if any(load.counts):
            scaled = mine.scaled(call.shares(left_out)[rank])
            union = self.choose(load).total(scaled, load, lambda piece, parts: write(parts, piece.of(out)))
            if union is not None:
                self._growth = growth_of(union, load.most, load.ranks)
        else:
            x.zero_()
        if self._memory is not None and call.weights[rank] > 0 and rank not in left_out:
            self._return(mine, out)
            self._memory.commit()
        return left_out

    def _selected(self, x: Tensor, call: Call) -> tuple[Elements, int]:
        """What this rank brings, and for the others: how many elements, or why none."""
        like, weight = as_array(x), call.weights[self._transport.rank]
        none = Elements.none(x.numel(), like)
        if weight == 0:
            return none, 0
        codec = self._codec.at(call.number, self._transport.rank)
        try:
            payload = self._encode(codec, x)
        except NotFiniteError:
            return none, _NOT_FINITE
        mine = Elements(payload.n, *sparse_parts(payload, like))
        # The shares of a mean are 1 at most.
        if not call.mean and mine.peak() * weight > _LARGEST:
            return none, _TOO_LARGE
        return mine, len(mine)

    def _load(self, n: int, counts: Sequence[int], call: Call) -> Load:
        keep = max(counts) if self._global_k else None
        return Load(n, tuple(counts), call.number, self._growth, keep)

    def choose(self, load: Load) -> Scheme:
        """The scheme for such a call: the same on every rank, as all that it depends on is."""
        return min(self._schemes.values(), key=lambda scheme: scheme.seconds(load, self._link))

    def _return(self, mine: Elements, out: Array) -> None:
        """Gives back to what is kept of this rank's elements those that the result ``out`` does not have."""
        if self._memory is None or not (self._global_k or Regions.name in self._schemes):
            return
        dropped = module_of(out).flatnonzero(out[mine.indices] == 0)
        indices, values = mine.indices[dropped], mine.values[dropped]
        self._memory.add_back(as_tensor(indices), as_tensor(values))

    def state(self) -> dict[str, Tensor]:
        """Also ``agreed``: what the ranks found in earlier calls and build upon, so that a run that is
        resumed takes the same way: growth of the union, threshold of the sum, bounds of the regions.
        """
        split = [one for one in self._schemes.values() if isinstance(one, Split)]
        agreed = [self._growth, *(number for one in split for number in one.agreed())]
        return super().state() | {_AGREED: torch.tensor(agreed, dtype=torch.float64)}

    def restore(self, *states: Mapping[str, Tensor]) -> None:
        """Of another world, what was agreed on is found anew."""
        super().restore(*states)
        self._growth = 1.0
        agreed = states[0][_AGREED].tolist() if len(states) == 1 and _AGREED in states[0] else []
        if agreed:
            self._growth = agreed[0]
        for one in self._schemes.values():
            if isinstance(one, Split):
                one.restore(agreed[1:])
