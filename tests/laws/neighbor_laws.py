"""What the rank-level neighbour collectives must do, for any number of ranks."""

from typing import Any, Final

import numpy as np
import pytest
import torch
from laws.reduction_laws import Counting

from hpc_fl.collectives import NeighborAllreduce, neighbor_allgather, neighbor_allreduce
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import FP16, OneBit
from hpc_fl.errors import TransportError
from hpc_fl.telemetry import Ledger

SIZES: Final = (0, 1, 7, 33, 1003, 70_000)


def weights(size: int, round_: int = 0) -> Any:
    """(S, D): what rank i gives x_j on arrival, S[i, j], and j's messages for i when they leave, D[i, j]."""
    draw = np.random.default_rng(100 * size + round_)
    there = (draw.random((size, size)) > 0.4) & ~np.eye(size, dtype=bool)
    return draw.uniform(0.1, 0.4, (size, size)) * there, np.where(draw.random((size, size)) > 0.5, 0.5, 1.0)


def neighbours(transport: Transport, round_: int = 0) -> dict[str, Any]:
    """The arguments of this rank's call."""
    s, d = weights(transport.size, round_)
    r = transport.rank
    return {
        "self_weight": 0.25,
        "src_weights": {j: float(s[r, j]) for j in np.flatnonzero(s[r]).tolist()},
        "dst_weights": {i: float(d[i, r]) for i in np.flatnonzero(s[:, r]).tolist()},
    }


def buffer(rank: int, n: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(rank))


def law_neighbours_are_weighted_on_both_sides(transport: Transport) -> None:
    reduce, size = NeighborAllreduce(transport), transport.size
    for round_, n in enumerate(SIZES):
        s, d = weights(size, round_)
        everyone = np.stack([buffer(rank, n).double().numpy() for rank in range(size)])
        wanted = ((s * d + 0.25 * np.eye(size)) @ everyone)[transport.rank]
        x, other = buffer(transport.rank, n), buffer(transport.rank, n).double().numpy().reshape(1, n)
        reduce.allreduce(x, **neighbours(transport, round_), check=True)
        handle = reduce.start(other, **neighbours(transport, round_))
        handle.wait(60)
        np.testing.assert_allclose(x.numpy(), wanted, atol=1e-5)
        np.testing.assert_allclose(other[0], wanted, atol=1e-12)
    reduce.close()


def law_encoded_neighbours_come_close(transport: Transport) -> None:
    size, counting, ledger = transport.size, Counting(transport.dup()), Ledger()
    s, d = weights(size)
    everyone = np.stack([buffer(rank, 1003).double().numpy() for rank in range(size)])
    x = buffer(transport.rank, 1003)
    neighbor_allreduce(x, counting, **neighbours(transport), codec=FP16(), ledger=ledger)
    wanted = ((s * d + 0.25 * np.eye(size)) @ everyone)[transport.rank]
    np.testing.assert_allclose(x.numpy(), wanted, atol=1e-2)
    sent = ledger.take()
    assert sent.get("gossip", 0) == 2 * 1003 * len(neighbours(transport)["dst_weights"])
    assert sent.get("gossip", 0) + sent.get("headers", 0) == counting.sent


def law_the_ledger_has_what_was_sent(transport: Transport) -> None:
    counting, ledger = Counting(transport.dup()), Ledger()
    neighbor_allreduce(buffer(transport.rank, 1003), counting, **neighbours(transport), ledger=ledger)
    assert ledger.take()["gossip"] == counting.sent
    assert counting.sent == 4 * 1003 * len(neighbours(transport)["dst_weights"])


def law_what_is_not_finite_reaches_nobody(transport: Transport) -> None:
    last = transport.size - 1
    for codec in (None, OneBit()):
        for n in (1003, 70_000):
            x = buffer(transport.rank, n)
            if transport.rank == last:
                x[n // 2] = float("inf")
            before = x.clone()
            neighbor_allreduce(x, transport, **neighbours(transport), codec=codec)
            assert torch.equal(x, before) if transport.rank == last else x.isfinite().all()


def law_calls_that_do_not_fit_are_refused_on_all_ranks(transport: Transport) -> None:
    if transport.size < 3:
        return
    last, x = transport.size - 1, torch.zeros(4)
    targets = [last] if transport.rank == 0 else []
    with pytest.raises(TransportError, match=f"rank 0 sends to {last}, which expects nothing"):
        neighbor_allreduce(x, transport, src_weights={}, dst_weights=targets, check=True)
    sources = {0: 0.5} if transport.rank == last else {}
    with pytest.raises(TransportError, match=f"rank {last} expects 0, which sends nothing"):
        neighbor_allreduce(x, transport, src_weights=sources, dst_weights=[], check=True)
    x = torch.zeros(4 + (transport.rank == last))
    with pytest.raises(TransportError, match=r"shape: \(4,\) on rank 0"):
        neighbor_allreduce(x, transport, src_weights={}, dst_weights=[], check=True)


def law_neighbours_are_gathered(transport: Transport) -> None:
    s, _ = weights(transport.size)
    sources, targets = (np.flatnonzero(of).tolist() for of in (s[transport.rank], s[:, transport.rank]))
    for n in SIZES:
        counting, ledger = Counting(transport.dup()), Ledger()
        mine = buffer(transport.rank, n)
        found = neighbor_allgather(mine, counting, sources, targets, ledger=ledger)
        assert found.shape == (len(sources), n)
        assert all(torch.equal(row, buffer(source, n)) for row, source in zip(found, sources, strict=True))
        assert ledger.take()["gossip"] == counting.sent == 4 * n * len(targets)
    array = np.arange(3) + transport.rank
    found = neighbor_allgather(array, transport, sources, targets)
    assert found.tolist() == [(np.arange(3) + source).tolist() for source in sources]


def law_ranks_that_there_are_not_are_refused(transport: Transport) -> None:
    for bad in (transport.rank, transport.size, -1):
        with pytest.raises(TransportError, match="other ranks of 0 to"):
            neighbor_allreduce(torch.zeros(2), transport, src_weights={bad: 1.0}, dst_weights=[])
    with pytest.raises(TransportError, match="float32 or float64 expected"):
        neighbor_allreduce(torch.zeros(2, dtype=torch.int32), transport, src_weights={}, dst_weights=[])
    with pytest.raises(TransportError, match="not contiguous"):
        neighbor_allreduce(torch.zeros(4, 2).T, transport, src_weights={}, dst_weights=[])


LAWS: Final = [value for name, value in list(globals().items()) if name.startswith("law_")]
