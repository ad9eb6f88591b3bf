"""What one-sided windows must do, for any number of ranks. Every rank calls each law with its transport."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpc_fl.collectives import NeighborWindow, PushSumWindow
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError, TransportTimeout
from hpc_fl.telemetry.ledger import Ledger

Doubles = NDArray[np.float64]


def total(t: Transport, values: object) -> Doubles:
    """The sum over the ranks, in float64."""
    array = np.array(values, np.float64)
    t.allreduce(array)
    return array


def start_of(rank: int, n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(rank).normal(size=n).astype(np.float32))


def law_a_put_is_there_when_it_returns(t: Transport) -> None:
    """At the offset that was asked for, and nowhere else; the target calls nothing."""
    window = t.window(t.size * 3)
    for target in range(t.size):
        window.put(np.array([t.rank + 1, -1], np.float32), target, 3 * t.rank)
    t.barrier()
    with window.locked() as memory:
        wanted = [x for rank in range(t.size) for x in (rank + 1.0, -1.0, 0.0)]
        assert memory.tolist() == wanted
    window.close()


def law_accumulated_values_add_up(t: Transport) -> None:
    """Whatever interleaves; and a write is one whole: a reader sees equal elements at every moment."""
    n, rounds = 1000, 30
    window = t.window(n)
    taken = np.zeros(n)
    for round_ in range(rounds):
        window.accumulate(np.ones(n, np.float32), (t.rank + round_) % t.size)
        with window.locked() as memory:
            assert memory.min() == memory.max()
            taken += memory
            memory[:] = 0
    t.barrier()
    with window.locked() as memory:
        taken += memory
    window.close()
    assert total(t, taken).tolist() == [rounds * t.size] * n


def law_windows_may_differ_in_size_and_number(t: Transport) -> None:
    """Also none at all; what lies outside is refused before anything moves."""
    windows = [t.window(t.rank), t.window(4)]
    assert windows[0].sizes == tuple(range(t.size))
    t.barrier()
    windows[0].put(np.full(t.rank, 5, np.float32), t.rank)
    with windows[0].locked() as memory, windows[1].locked() as other:
        assert memory.tolist() == [5.0] * t.rank
        assert other.tolist() == [0.0] * 4
    for values, target, offset, why in (
        (np.zeros(5, np.float32), 0, 0, "has 4"),
        (np.zeros(1, np.float32), 0, 4, "has 4"),
        (np.zeros(1, np.float32), 0, -1, "elements -1"),
        (np.zeros(1, np.float32), t.size, 0, "0 to"),
        (np.zeros(1), 0, 0, "float32"),
    ):
        with pytest.raises(TransportError, match=why):
            windows[1].put(values, target, offset)  # type: ignore[arg-type]
    for window in windows:
        window.close()
        window.close()
    with pytest.raises(TransportError, match="closed"):
        windows[1].put(np.zeros(1, np.float32), 0)


def law_no_call_inside_locked(t: Transport) -> None:
    """It would wait for its own thread, or two ranks for each other."""
    window = t.window(2)
    with window.locked(), pytest.raises(TransportError, match="holds it"):
        window.put(np.zeros(1, np.float32), t.rank)
    window.put(np.ones(1, np.float32), t.rank)
    window.close()


def law_a_lock_not_given_back_is_a_timeout(t: Transport) -> None:
    """And the window goes on when it is."""
    window = t.window(1)
    if t.rank == 0:
        with window.locked():
            t.barrier()
            t.barrier()
    else:
        limit, window._limit = window._limit, 0.05  # type: ignore[attr-defined]
        t.barrier()
        with pytest.raises(TransportTimeout, match=r"window of rank 0: .* within 0\.05 s"):
            window.put(np.zeros(1, np.float32), 0)
        window._limit = limit  # type: ignore[attr-defined]
        t.barrier()
    window.accumulate(np.ones(1, np.float32), 0)
    window.close()


def law_no_mass_is_lost(t: Transport) -> None:
    """Sums of x and of the weights are those of the beginning, whatever interleaves; bytes match."""
    n, rounds = 257, 40
    x, ledger = start_of(t.rank, n), Ledger()
    before = total(t, x.numpy())
    window = PushSumWindow(t, ledger, n)
    draw = np.random.default_rng(100 + t.rank)
    sent = 0
    for _ in range(rounds):
        others = [rank for rank in range(t.size) if rank != t.rank and draw.random() < 0.6]
        assert window.win_accumulate(x, {rank: 0.8 / len(others) for rank in others})
        sent += len(others)
        if draw.random() < 0.5:
            window.win_update(x)
    window.drain(x)
    np.testing.assert_allclose(total(t, x.numpy()), before, rtol=0, atol=1e-4)
    np.testing.assert_allclose(total(t, window.weight), t.size, rtol=1e-5)
    counted = ledger.take()
    assert counted.get("gossip", 0) == 4 * n * sent
    assert counted.get("headers", 0) == 4 * sent
    window.close()


def law_push_sum_finds_the_mean(t: Transport) -> None:
    """On a directed graph that is not balanced: a ring, and chords from even ranks to rank 0."""
    n = 33
    x = start_of(t.rank, n)
    mean = total(t, x.numpy()) / t.size
    window = PushSumWindow(t, Ledger(), n)
    targets = {(t.rank + 1) % t.size, 0 if t.rank % 2 == 0 else (t.rank + 1) % t.size} - {t.rank}
    for step in range(40 * t.size):
        window.win_accumulate(x, dict.fromkeys(targets, 1 / (len(targets) + 1)))
        window.win_update(x)
        if step % t.size == 0:  # nobody may be done before another has begun
            t.barrier()
    window.drain(x)
    np.testing.assert_allclose(window.debiased(x).numpy(), mean, rtol=0, atol=1e-4)
    window.close()


def law_values_and_weight_arrive_together(t: Transport) -> None:
    """Of a buffer of ones, x / w is 1 on every rank at every moment."""
    n = 5000
    x = torch.ones(n)
    window = PushSumWindow(t, Ledger(), n)
    for step in range(30):
        window.win_accumulate(x, {(t.rank + 1 + step) % t.size: 0.5} if (1 + step) % t.size else {})
        weight = window.win_update(x)
        np.testing.assert_allclose(x.numpy(), weight, rtol=1e-5)
    window.drain(x)
    window.close()


def law_what_is_not_finite_is_not_sent(t: Transport) -> None:
    n = 8
    x = torch.ones(n)
    window = PushSumWindow(t, Ledger(), n)
    neighbour = NeighborWindow(t, Ledger(), n, [r for r in range(t.size) if r != t.rank])
    if t.rank == 0:
        x[3] = float("nan")
    shares = {r: 0.5 / t.size for r in range(t.size) if r != t.rank}
    assert neighbour.win_put(x) == (t.rank != 0)
    assert window.win_accumulate(x, shares) == (t.rank != 0)
    if t.rank == 0:
        assert window.weight == 1.0
        x[3] = 1.0
    weight = window.drain(x)
    np.testing.assert_allclose(x.numpy(), weight, rtol=1e-6)
    y = torch.zeros(n)
    heard = neighbour.win_update(y)
    assert heard == tuple(r for r in range(1, t.size) if r != t.rank)
    np.testing.assert_allclose(y.numpy(), len(heard) / (len(heard) + 1), rtol=1e-6)
    for one in (window, neighbour):
        one.close()


def law_put_and_update_mix(t: Transport) -> None:
    """With weights that sum to 1, what everyone put last is mixed as a matrix would; bytes match."""
    n = 21
    sources = sorted({(t.rank - 1) % t.size, (t.rank - 2) % t.size} - {t.rank})
    x, ledger = start_of(t.rank, n), Ledger()
    window = NeighborWindow(t, ledger, n, sources)
    assert set(window.targets) == {(t.rank + 1) % t.size, (t.rank + 2) % t.size} - {t.rank}
    assert window.win_put(torch.full((n,), 7.0))
    assert window.win_put(x)
    t.barrier()
    weights = {r: 0.25 * (i + 1) / len(sources) for i, r in enumerate(sources)}
    own = 1 - sum(weights.values())
    wanted = own * x + sum((w * start_of(r, n) for r, w in weights.items()), torch.zeros(n))
    assert window.win_update(x, own, weights) == tuple(sources)
    np.testing.assert_allclose(x.numpy(), wanted.numpy(), rtol=0, atol=1e-5)
    assert ledger.take().get("gossip", 0) == 2 * 4 * n * len(window.targets)
    window.close()


def law_mistakes_are_named(t: Transport) -> None:
    window = PushSumWindow(t, Ledger(), 3)
    for shares, why in (({t.rank: 0.5}, "itself"), ({0: 1.0}, "below 1"), ({0: -0.5}, "above 0")):
        with pytest.raises(TransportError, match=why):
            window.win_accumulate(torch.zeros(3), shares)
    with pytest.raises(TransportError, match="window of 3"):
        window.win_update(torch.zeros(4))
    window.close()
    neighbour = NeighborWindow(t, Ledger(), 3, [])
    with pytest.raises(TransportError, match="no slot"):
        neighbour.win_put(torch.zeros(3), {t.rank: 1.0})
    with pytest.raises(TransportError, match="none of the sources"):
        neighbour.win_update(torch.zeros(3), 1.0, {t.rank: 1.0})
    with pytest.raises(TransportError, match="sum to 0"):
        neighbour.win_update(torch.zeros(3), 0.0)
    neighbour.close()
    with pytest.raises(TransportError, match="other ranks"):
        NeighborWindow(t, Ledger(), 3, [t.rank])
    if t.size > 1:
        with pytest.raises(TransportError, match="must be alike"):
            PushSumWindow(t, Ledger(), 3 + t.rank)


LAWS: list[Callable[[Transport], None]] = [
    law_a_put_is_there_when_it_returns,
    law_accumulated_values_add_up,
    law_windows_may_differ_in_size_and_number,
    law_no_call_inside_locked,
    law_a_lock_not_given_back_is_a_timeout,
    law_no_mass_is_lost,
    law_push_sum_finds_the_mean,
    law_values_and_weight_arrive_together,
    law_what_is_not_finite_is_not_sent,
    law_put_and_update_mix,
    law_mistakes_are_named,
]
