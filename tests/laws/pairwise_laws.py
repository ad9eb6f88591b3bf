"""What pairwise averaging must do, for any number of ranks. Every rank calls each law with its transport."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpc_fl.collectives import Averaged, PairwiseAverager
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError, TransportTimeout
from hpc_fl.telemetry.ledger import Ledger

EXCHANGES = 2000
LIMIT = 50.0

GRAPHS: dict[str, Callable[[int, int], Sequence[int]]] = {
    "complete": lambda rank, ranks: [r for r in range(ranks) if r != rank],
    "ring": lambda rank, ranks: sorted({(rank - 1) % ranks, (rank + 1) % ranks} - {rank}),
    "star": lambda rank, ranks: list(range(1, ranks)) if rank == 0 else [0],
}


def start_of(rank: int, n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(rank).normal(size=n).astype(np.float32))


def everyones(t: Transport, x: torch.Tensor) -> NDArray[np.float64]:
    """(ranks, n): the buffers of all."""
    rows = np.empty((t.size, x.numel()), np.float32)
    t.allgather(x.numpy(), rows)
    return rows.astype(np.float64)


def distance(rows: NDArray[np.float64]) -> float:
    """The consensus distance, squared."""
    return float(((rows - rows.mean(0)) ** 2).sum(1).mean())


def law_many_exchanges_and_no_deadlock(t: Transport, graph: str) -> None:
    """2,000 in all, of random neighbours: the sum is preserved, the ranks come to agree, bytes match."""
    n, each = 1000, EXCHANGES // t.size
    x, ledger = start_of(t.rank, n), Ledger()
    before = everyones(t, x)
    averager = PairwiseAverager(t, ledger, x, neighbours=GRAPHS[graph](t.rank, t.size), seed=7, timeout=LIMIT)
    for number in range(each):
        if number % 25 == 0:  # nobody may be done before another has begun
            t.barrier()
        done = averager.average_with()
        assert done.not_finite is None
        assert (done.peer in averager.neighbours) == (t.size > 1)
    averager.close(LIMIT)
    after = everyones(t, x)
    np.testing.assert_allclose(after.sum(0), before.sum(0), rtol=0, atol=2e-4)
    assert distance(after) <= 1e-3 * distance(before)
    asked = each if t.size > 1 else 0
    counted = ledger.take()
    assert counted.get("gossip", 0) == 4 * n * (asked + averager.answered)
    assert counted.get("headers", 0) == asked + 4 * averager.answered
    answers = np.array([averager.answered])
    t.allreduce(answers)
    assert answers[0] == asked * t.size


def law_all_ask_all_at_once(t: Transport) -> None:
    """Requests that cross, of buffers too large to be sent unasked."""
    n = 50_000
    x = start_of(t.rank, n)
    before = everyones(t, x)
    averager = PairwiseAverager(t, Ledger(), x, timeout=LIMIT)
    for round_ in range(6):
        for peer in averager.neighbours:
            if round_ % 2:
                t.barrier()  # all set off together
            assert averager.average_with(peer) == Averaged(peer)
    averager.close(LIMIT)
    after = everyones(t, x)
    np.testing.assert_allclose(after.sum(0), before.sum(0), rtol=0, atol=1e-4)
    if t.size > 1:
        assert distance(after) < 0.1 * distance(before)


def law_training_goes_on_meanwhile(t: Transport) -> None:
    """What every rank adds while it waits, and between, is in the sum; requests go one after the other."""
    n, steps = 200, 30
    x = torch.zeros(n)
    averager = PairwiseAverager(t, Ledger(), x, timeout=LIMIT)
    for _ in range(steps):
        handles = [averager.start(), averager.start()]
        averager.add(torch.ones(n))
        with averager.locked() as buffer:
            assert buffer.data_ptr() == x.data_ptr()
            buffer.add_(1)
        for handle in handles:
            assert handle.wait(LIMIT).not_finite is None
    averager.close(LIMIT)
    np.testing.assert_allclose(everyones(t, x).sum(0), 2.0 * steps * t.size, rtol=1e-5)


def law_nothing_that_is_not_finite_travels(t: Transport) -> None:
    """Neither when its rank asks nor when it is asked; both are told, and the others go on."""
    x = torch.full((5,), float(t.rank))
    if t.rank == 0:
        x[2] = float("inf")
    averager = PairwiseAverager(t, Ledger(), x, timeout=LIMIT)
    for peer in averager.neighbours:
        done = averager.average_with(peer)
        assert done == Averaged(peer, 0 if 0 in (t.rank, peer) else None)
    averager.close(LIMIT)
    assert torch.isfinite(x).all() == (t.rank != 0)
    rows = everyones(t, x)[1:]
    np.testing.assert_allclose(rows.sum(0), sum(range(t.size)), rtol=1e-6)
    if t.rank == 0:
        assert x.tolist() == [0.0, 0.0, float("inf"), 0.0, 0.0]


def law_large_values_meet(t: Transport) -> None:
    """The difference of the two is beyond float32, their mean is not."""
    x = torch.full((3,), 3e38 if t.rank % 2 else -3e38)
    averager = PairwiseAverager(t, Ledger(), x, timeout=LIMIT)
    if t.rank == 0 and t.size > 1:
        assert averager.average_with(1) == Averaged(1)
    averager.close(LIMIT)
    wanted = 0.0 if t.size > 1 and t.rank < 2 else 3e38 if t.rank % 2 else -3e38
    np.testing.assert_allclose(x.numpy(), wanted)


def law_who_closes_early_answers_on(t: Transport) -> None:
    """Rank 0 closes at once; the others ask it, and get answers."""
    x = torch.full((4,), float(t.rank))
    averager = PairwiseAverager(t, Ledger(), x, timeout=LIMIT)
    if t.rank > 0:
        for _ in range(20):
            assert averager.average_with(0) == Averaged(0)
    averager.close(LIMIT)
    averager.close()
    np.testing.assert_allclose(everyones(t, x).sum(0), sum(range(t.size)), rtol=1e-5)
    assert averager.answered == (20 * (t.size - 1) if t.rank == 0 else 0)
    with pytest.raises(TransportError, match="closed"):
        averager.average_with()


def law_the_choice_is_seeded_and_even(t: Transport) -> None:
    """The same seed asks the same peers; all neighbours are asked."""
    drawn = []
    for seed in (1, 1, 2):
        averager = PairwiseAverager(t, Ledger(), torch.zeros(1), seed=seed, timeout=LIMIT)
        drawn.append([averager.average_with().peer for _ in range(15 * t.size)])
        averager.close(LIMIT)
    assert drawn[0] == drawn[1]
    assert (drawn[0] != drawn[2]) == (t.size > 2)
    assert set(drawn[0]) == (set(range(t.size)) - {t.rank} if t.size > 1 else {None})


def law_empty_buffers_meet(t: Transport) -> None:
    averager = PairwiseAverager(t, Ledger(), torch.zeros(0), timeout=LIMIT)
    for peer in averager.neighbours:
        assert averager.average_with(peer) == Averaged(peer)
    averager.close(LIMIT)


def law_mistakes_are_named(t: Transport) -> None:
    """On every rank where they concern the graph or the size."""
    averager = PairwiseAverager(t, Ledger(), torch.zeros(3), timeout=LIMIT)
    with averager.locked(), pytest.raises(TransportError, match="holds it"):
        averager.average_with()
    for peer, why in ((t.rank, "no neighbour"), (t.size, "not a rank")):
        with pytest.raises(TransportError, match=why):
            averager.average_with(peer)
    averager.close(LIMIT)
    with pytest.raises(TransportError, match="float32"):
        PairwiseAverager(t, Ledger(), torch.zeros(3, dtype=torch.float64))
    with pytest.raises(TransportError, match="other ranks"):
        PairwiseAverager(t, Ledger(), torch.zeros(3), neighbours=[t.rank])
    if t.size > 1:
        with pytest.raises(TransportError, match="shape"):
            PairwiseAverager(t, Ledger(), torch.zeros(3 + t.rank))
        with pytest.raises(TransportError, match="undirected"):
            PairwiseAverager(t, Ledger(), torch.zeros(3), neighbours=[1] if t.rank == 0 else [])


LAWS: list[Callable[[Transport], None]] = [
    law_all_ask_all_at_once,
    law_training_goes_on_meanwhile,
    law_nothing_that_is_not_finite_travels,
    law_large_values_meet,
    law_who_closes_early_answers_on,
    law_the_choice_is_seeded_and_even,
    law_empty_buffers_meet,
    law_mistakes_are_named,
]


def law_silence_is_a_timeout(t: Transport) -> None:
    """Rank 0 does not answer while its buffer is held, and has not closed: both are named. Two ranks."""
    averager = PairwiseAverager(t, Ledger(), torch.zeros(2), timeout=0.1 if t.rank else LIMIT)
    if t.rank == 0:
        with averager.locked():
            t.barrier()
            t.barrier()
        averager.close(LIMIT)
    else:
        t.barrier()
        with pytest.raises(TransportTimeout, match=r"rank 1: averaging with rank 0: no answer within 0\.1 s"):
            averager.average_with(0)
        with pytest.raises(TransportTimeout, match=r"rank 0 has not called it within 0\.1 s"):
            averager.close(0.1)
        t.barrier()
