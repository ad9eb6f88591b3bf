"""What every transport must do, for any number of ranks. Every rank calls each law with its transport."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hpc_fl.comm.control import allgather_bytes, broadcast_bytes
from hpc_fl.comm.transport import Buffer, Request, Transport
from hpc_fl.errors import TransportError, TransportTimeout

Make = Callable[[Any], Buffer]

MAKERS: dict[str, Make] = {
    "numpy-float32": lambda values: np.asarray(values, np.float32),
    "numpy-float64": lambda values: np.asarray(values, np.float64),
    "numpy-int64": lambda values: np.asarray(values, np.int64),
    "numpy-uint8": lambda values: np.asarray(values, np.uint8),
    "torch-float32": lambda values: torch.tensor(values, dtype=torch.float32),
    "torch-int32": lambda values: torch.tensor(values, dtype=torch.int32),
}
MOVED_ONLY: dict[str, Make] = {
    "numpy-float16": lambda values: np.asarray(values, np.float16),
    "numpy-bool": lambda values: np.asarray(values, np.bool_),
    "torch-bfloat16": lambda values: torch.tensor(values, dtype=torch.bfloat16),
    "torch-float16": lambda values: torch.tensor(values, dtype=torch.float16),
}


def values(buf: Buffer) -> list[float]:
    """The numbers in a buffer."""
    flat: list[float] = buf.reshape(-1).tolist()
    return flat


def bits(x: np.ndarray[Any, Any]) -> bytes:
    return x.tobytes()


def ranks_agree(t: Transport, data: bytes) -> bool:
    return len(set(allgather_bytes(t, data))) == 1


def law_ranks_are_numbered(t: Transport) -> None:
    """Ranks are 0 to size - 1, once each, and so are those of a machine."""
    seen = np.zeros(t.size, np.int64)
    t.allgather(np.array([t.rank]), seen)
    assert seen.tolist() == list(range(t.size))
    assert 0 <= t.local_rank < t.local_size <= t.size
    assert t.name


def law_allreduce_reduces_and_all_agree(t: Transport) -> None:
    """Sum, minimum and maximum are right for every dtype, in place, on numpy and torch alike."""
    for make in MAKERS.values():
        for op, wanted in (
            ("sum", [sum(range(t.size)), t.size]), ("min", [0, 1]), ("max", [t.size - 1, 1])
        ):  # fmt: skip
            buf = make([t.rank, 1])
            t.allreduce(buf, op)  # type: ignore[arg-type]
            assert values(buf) == wanted


def law_allreduce_gives_identical_bits(t: Transport) -> None:
    """Floating-point sums, whose value depends on the order, are the same bits on all ranks, each time."""
    for n in (0, 1, 7, 31, 1000, 70_001):
        start = np.random.default_rng(t.rank).standard_normal(n).astype(np.float32) * 10.0**t.rank
        first, second = start.copy(), start.copy()
        t.allreduce(first)
        t.iallreduce(second).wait()
        assert ranks_agree(t, bits(first))
        assert ranks_agree(t, bits(second))
        again = start.copy()
        t.allreduce(again)
        assert bits(again) == bits(first)
        np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-3 * 10.0**t.size)


def law_allreduce_keeps_shape_and_views(t: Transport) -> None:
    """A view of a larger buffer is reduced where it lies, and nothing around it changes."""
    whole = torch.ones(4, 3)
    t.allreduce(whole[1:3])
    assert values(whole) == [1.0] * 3 + [float(t.size)] * 6 + [1.0] * 3
    leaf = torch.ones(2, requires_grad=True)
    t.allreduce(leaf)
    assert leaf.tolist() == [t.size] * 2


def law_memory_used_again_is_seen_anew(t: Transport) -> None:
    """What is remembered of a tensor never outlives it: new tensors at old addresses are reduced rightly."""
    for n in (3, 3, 5, 2, 3):
        for dtype in (torch.float32, torch.int32):
            fresh = torch.full((n,), t.rank, dtype=dtype)
            t.allreduce(fresh)
            assert values(fresh) == [sum(range(t.size))] * n
            del fresh


def law_iallreduce_requests_may_overlap(t: Transport) -> None:
    """Several reductions under way complete in whatever order they are waited for; waiting twice is fine."""
    bufs = [np.full(100, t.rank + i, np.float64) for i in range(4)]
    requests = [t.iallreduce(buf) for buf in bufs]
    for request in reversed(requests):
        request.wait()
        request.wait()
        assert request.done()
    for i, buf in enumerate(bufs):
        assert buf.tolist() == [sum(range(t.size)) + t.size * i] * 100


def _until_done(request: Request) -> None:
    while not request.done():
        pass


def law_messages_go_round_a_ring(t: Transport) -> None:
    """Each rank's message arrives at the next; with blocking, started and polled calls, for every dtype."""
    right, left = (t.rank + 1) % t.size, (t.rank - 1) % t.size
    for make in [*MAKERS.values(), *MOVED_ONLY.values()]:
        sent, received = make([t.rank, 1, 0]), make([9, 9, 9])
        request = t.isend(sent, right, tag=3)
        t.recv(received, left, tag=3)
        request.wait()
        assert values(received) == values(make([left, 1, 0]))
    received = np.zeros(1)
    pending = t.irecv(received, left)
    t.isend(np.array([t.rank + 0.5]), right).wait()
    _until_done(pending)
    assert received[0] == left + 0.5


def law_messages_do_not_overtake(t: Transport) -> None:
    """Messages from one rank with one tag arrive in order; another tag may be received first."""
    right, left = (t.rank + 1) % t.size, (t.rank - 1) % t.size
    sends = [t.isend(np.array([i]), right, tag=i % 2) for i in range(6)]
    received = {tag: [np.zeros(1, np.int64) for _ in range(3)] for tag in (0, 1)}
    receives = [t.irecv(buf, left, tag) for tag in (1, 0) for buf in received[tag]]
    for request in [*reversed(receives), *sends]:
        request.wait()
    assert [int(buf[0]) for buf in received[0]] == [0, 2, 4]
    assert [int(buf[0]) for buf in received[1]] == [1, 3, 5]


def law_messages_that_were_prepared_may_be_sent_again(t: Transport) -> None:
    """To both neighbours in a circle, which may be one rank, or this one; two messages to one in order."""
    right, left = (t.rank + 1) % t.size, (t.rank - 1) % t.size
    mine, other = np.zeros(3, np.float32), np.zeros(3, np.float32)
    from_left, second, from_right = (np.zeros(3, np.float32) for _ in range(3))
    exchange = t.persistent(
        [(mine, right), (other, right), (mine, left)],
        [(from_left, left), (second, left), (from_right, right)],
        7,
    )
    for turn in range(4):
        mine[:], other[:] = 10 * t.rank + turn, -turn
        exchange.run()
        got = [from_left[0], second[0], from_right[0]]
        # Where both neighbours are one rank, its three messages come in the order in which they were sent.
        expected = [10 * left + turn, -turn, 10 * right + turn]
        assert got == expected
    exchange.close()


def law_short_messages_fill_the_head(t: Transport) -> None:
    """A message may be shorter than the buffer that receives it."""
    right, left = (t.rank + 1) % t.size, (t.rank - 1) % t.size
    buf = np.full(5, -1.0)
    request = t.isend(np.array([1.0, t.rank]), right)
    t.recv(buf, left)
    request.wait()
    assert buf[:2].tolist() == [1.0, left]


def law_gathers_concatenate_by_rank(t: Transport) -> None:
    """allgather, allgatherv (empty parts included) and gather put the parts of all ranks in order."""
    for make in [*MAKERS.values(), *MOVED_ONLY.values()]:
        whole = make([[5, 5]] * t.size)
        t.allgather(make([t.rank % 2, 1]), whole)
        assert values(whole) == [v for r in range(t.size) for v in (r % 2, 1)]
        counts = [r % 3 for r in range(t.size)]
        parts = make([5] * sum(counts))
        t.allgatherv(make([t.rank % 2] * counts[t.rank]), parts, counts)
        assert values(parts) == [r % 2 for r in range(t.size) for _ in range(counts[r])]
        for root in range(t.size):
            collected = make([5] * t.size)
            t.gather(make([t.rank % 2]), collected if t.rank == root else None, root)
            if t.rank == root:
                assert values(collected) == [r % 2 for r in range(t.size)]


def law_alltoall_transposes(t: Transport) -> None:
    """Part j of rank i becomes part i of rank j, with equal and with unequal parts."""
    for make in MAKERS.values():
        received = make([0] * 2 * t.size)
        t.alltoall(make([v for j in range(t.size) for v in (t.rank, j)]), received)
        assert values(received) == [v for i in range(t.size) for v in (i, t.rank)]
        sends = [(t.rank + j) % 3 for j in range(t.size)]
        received = make([9] * sum(sends))
        t.alltoallv(make([t.rank] * sum(sends)), sends, received, sends)
        assert values(received) == [i for i in range(t.size) for _ in range(sends[i])]


def law_broadcast_copies_the_root(t: Transport) -> None:
    """Every rank ends with the root's values, whichever rank is the root."""
    for root in range(t.size):
        for make in [*MAKERS.values(), *MOVED_ONLY.values()]:
            buf = make([1, 0, 1] if t.rank == root else [0, 0, 0])
            t.broadcast(buf, root)
            assert values(buf) == values(make([1, 0, 1]))


def law_control_bytes_arrive(t: Transport) -> None:
    """Bytes of any length, none included, reach every rank unchanged."""
    data = [bytes([r]) * (r * 3) for r in range(t.size)]
    assert allgather_bytes(t, data[t.rank]) == data
    for root in range(t.size):
        for message in (b"", b"{}", bytes(range(256)) * 5):
            assert broadcast_bytes(t, message if t.rank == root else None, root) == message


def law_split_and_dup_are_separate(t: Transport) -> None:
    """Groups are ordered by key, hold only their colour, and their messages never meet the parent's."""
    group = t.split(t.rank % 2, key=-t.rank)
    members = [r for r in range(t.size) if r % 2 == t.rank % 2]
    assert (group.size, group.rank) == (len(members), members[::-1].index(t.rank))
    total = np.array([float(t.rank)])
    group.allreduce(total)
    assert total[0] == sum(members)
    twin = t.dup()
    here, there = np.zeros(1), np.zeros(1)
    requests = [t.irecv(here, t.rank), twin.irecv(there, t.rank)]
    requests += [twin.isend(np.array([2.0]), t.rank), t.isend(np.array([1.0]), t.rank)]
    for request in requests:
        request.wait()
    assert (here[0], there[0]) == (1.0, 2.0)
    for made in (group, twin):
        made.close()
        made.close()


def law_barrier_waits_for_all(t: Transport) -> None:
    """A message sent before a barrier by every rank can be received after it."""
    right, left = (t.rank + 1) % t.size, (t.rank - 1) % t.size
    request = t.isend(np.array([1.0]), right)
    t.barrier()
    buf = np.zeros(1)
    t.recv(buf, left)
    request.wait()
    assert buf[0] == 1.0


def law_unusable_buffers_are_refused(t: Transport) -> None:
    """Before anything is sent: what is not contiguous, writable, numeric or an array."""
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    refused: list[Any] = [
        np.zeros((4, 4))[:, 1],
        torch.zeros(4, 4)[:, 1],
        frozen,
        np.array([None]),
        [1.0],
        2.0,
    ]
    for buf in refused:
        with pytest.raises(TransportError, match="cannot exchange"):
            t.allreduce(buf)
        with pytest.raises(TransportError, match="cannot exchange"):
            t.recv(buf, 0)
    for make in MOVED_ONLY.values():
        with pytest.raises(TransportError, match="convert it"):
            t.allreduce(make([1, 2]))
    with pytest.raises(TransportError, match="unknown operation"):
        t.allreduce(np.zeros(1), "median")  # type: ignore[arg-type]


def law_wrong_sizes_are_refused(t: Transport) -> None:
    """Before anything is sent: ranks out of range, counts that do not fit, buffers of different dtypes."""
    x = np.zeros(t.size)
    for call in (
        lambda: t.send(x, t.size), lambda: t.recv(x, -1), lambda: t.broadcast(x, t.size),
        lambda: t.gather(x, x, t.size), lambda: t.allgather(x, np.zeros(t.size * t.size - 1)),
        lambda: t.allgather(x, np.zeros(t.size * t.size, np.float32)),
        lambda: t.allgatherv(x, np.zeros(100), [t.size + 1] * t.size),
        lambda: t.allgatherv(x, np.zeros(100), [1] * (t.size + 1)),
        lambda: t.alltoall(x, np.zeros(t.size + 1)),
        lambda: t.alltoallv(x, [2] * t.size, np.zeros(2 * t.size), [2] * t.size),
        lambda: t.split(-1),
    ):  # fmt: skip
        with pytest.raises(TransportError):
            call()


def law_wait_gives_up_in_time(t: Transport) -> None:
    """A wait with a timeout raises and names the operation; the request can be waited for again."""
    buf = np.zeros(1)
    request = t.irecv(buf, t.rank, tag=9)
    with pytest.raises(TransportTimeout, match=f"receive from rank {t.rank}"):
        request.wait(0.05)
    assert not request.done()
    t.isend(np.array([4.0]), t.rank, tag=9).wait()
    request.wait(30.0)
    assert buf[0] == 4.0


LAWS = [
    pytest.param(law, id=name.removeprefix("law_"))
    for name, law in list(globals().items())
    if name.startswith("law_")
]
"""All laws as pytest parameters."""
