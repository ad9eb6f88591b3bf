"""The transport laws under Horovod, and what is its own: what it carries, process sets, Adasum, its end."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from laws.transport_laws import LAWS, MAKERS, MOVED_ONLY, bits, ranks_agree, values
from mpi4py import MPI

from hpc_fl.comm.buffers import is_tensor
from hpc_fl.comm.horovod import HorovodTransport
from hpc_fl.comm.mpi import MpiTransport
from hpc_fl.comm.runtime import guard, start
from hpc_fl.comm.staging import StagedTransport
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError, TransportTimeout

Law = Callable[[Transport], None]
Array = npt.NDArray[np.float64]

COLLECTIVES = ("allreduce", "iallreduce", "allgather", "allgatherv", "alltoall", "alltoallv", "broadcast")


def without_collectives_over_mpi(t: HorovodTransport, patch: pytest.MonkeyPatch) -> None:
    """Lets whatever would go over MPI in place of Horovod fail."""

    def refuse(*_: object) -> None:
        raise AssertionError("went over MPI")

    for name in COLLECTIVES:
        patch.setattr(t._mpi, name, refuse)


@pytest.mark.parametrize("law", LAWS)
def test_law(law: Law, transport: Transport) -> None:
    law(transport)


@pytest.mark.parametrize("law", LAWS)
def test_law_with_staged_tensors(law: Law, transport: Transport) -> None:
    """CPU tensors stand in for device tensors, of a Horovod without NCCL."""
    law(StagedTransport(transport, is_device=is_tensor, pin=False))


@pytest.mark.parametrize("law", LAWS)
def test_law_in_reverse_order_of_ranks(law: Law, world: HorovodTransport) -> None:
    """Horovod orders a set by the world's ranks; the group may order itself otherwise."""
    group = world.split(0, key=-world.rank)
    assert isinstance(group, HorovodTransport)
    assert group.rank == world.size - 1 - world.rank
    law(group)
    group.close()


@pytest.mark.parametrize("law", LAWS)
def test_law_on_a_process_set(law: Law, world: HorovodTransport) -> None:
    """All ranks but the first, and the first alone."""
    group = world.split(min(world.rank, 1), key=-world.rank)
    assert isinstance(group, HorovodTransport)
    law(group)
    group.close()


def test_dense_collectives_are_horovods(transport: HorovodTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them asks MPI, for all that Horovod has a type for; numpy and torch memory, used in place."""
    without_collectives_over_mpi(transport, monkeypatch)
    n, rank = transport.size, transport.rank
    for kind in ("numpy-float32", "numpy-float64", "numpy-int64", "torch-float32", "torch-int32"):
        buf = MAKERS[kind]([rank, 1])
        transport.allreduce(buf)
        transport.iallreduce(buf, "max").wait()
        assert values(buf) == [sum(range(n)), n]
    for make in [*MAKERS.values(), *MOVED_ONLY.values()]:
        whole = make([0] * n)
        transport.allgather(make([rank % 2]), whole)
        transport.allgatherv(make([rank % 2]), whole, [1] * n)
        assert values(whole) == [r % 2 for r in range(n)]
        transport.alltoall(whole, whole)
        transport.alltoallv(whole, [1] * n, whole, [1] * n)
        transport.broadcast(whole)


def test_what_horovod_lacks_goes_over_mpi(transport: HorovodTransport) -> None:
    """Sums of unsigned and short integers, and elements of 16 bytes: right, and Horovod is not asked."""
    operations = next(transport._operations)
    for dtype in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.uint64):
        small = np.array([transport.rank, 1], dtype)
        transport.allreduce(small)
        assert small.tolist() == [sum(range(transport.size)), transport.size]
    mine, all_of = np.array([1j * transport.rank]), np.zeros(transport.size, np.complex128)
    transport.allgather(mine, all_of)
    assert all_of.tolist() == [1j * r for r in range(transport.size)]
    transport.alltoall(all_of, all_of.copy())
    transport.broadcast(all_of)
    assert next(transport._operations) == operations + 1


def test_read_only_memory_is_sent(transport: Transport) -> None:
    frozen = np.arange(float(transport.size))
    frozen.flags.writeable = False
    everything, received = np.zeros(transport.size**2), np.zeros(transport.size)
    transport.allgather(frozen, everything)
    transport.alltoall(frozen, received)
    assert everything.reshape(transport.size, -1).tolist() == [frozen.tolist()] * transport.size
    assert received.tolist() == [transport.rank] * transport.size
    if transport.rank == 0:
        transport.broadcast(frozen)
    else:
        transport.broadcast(received)
        assert received.tolist() == frozen.tolist()


def test_parts_may_be_empty_everywhere(transport: Transport) -> None:
    none, nothing = np.zeros(0), [0] * transport.size
    transport.allgather(none, np.zeros(0))
    transport.allgatherv(none, np.zeros(0), nothing)
    transport.alltoallv(none, nothing, np.zeros(0), nothing)
    transport.broadcast(none)
    total = np.ones(1)
    transport.allreduce(total)  # the ranks are still in step
    assert total.tolist() == [transport.size]


def test_large_buffers_are_cut(world: HorovodTransport) -> None:
    """Reductions and broadcasts of more elements than an operation counts; other calls are refused."""
    cut = world.dup()
    cut._limits = (None, False, 3)
    piecewise = cut.dup()
    for buf in (np.arange(10.0).reshape(2, 5), torch.arange(10.0, dtype=torch.float64)):
        piecewise.allreduce(buf)
        piecewise.iallreduce(buf).wait()
        assert values(buf) == [i * world.size**2 for i in range(10)]
        if world.rank > 0:
            buf[...] = 0
        piecewise.broadcast(buf)
        assert values(buf) == [i * world.size**2 for i in range(10)]
        with pytest.raises(TransportError, match="cut it"):
            piecewise.allgather(buf, np.zeros(10 * world.size))
    for made in (piecewise, cut):
        made.close()


def test_counts_that_differ_between_ranks_are_an_error(transport: Transport) -> None:
    """Horovod tells how much came from whom: nothing is written where it was not agreed."""
    n = transport.size
    received = np.full(2 * n, -1.0)
    with pytest.raises(TransportError, match="other counts"):
        transport.alltoallv(np.ones(n), [1] * n, received, [2] * n)
    assert (received == -1.0).all()


def test_shapes_that_differ_between_ranks_are_an_error(transport: Transport) -> None:
    """Horovod refuses on all ranks what MPI would add up wrongly, and goes on."""
    if transport.size > 1:
        with pytest.raises(TransportError, match=r"allreduce sum of \d+ elements failed: "):
            transport.allreduce(np.ones(3 + transport.rank % 2))
    total = np.ones(1)
    transport.allreduce(total)
    assert total[0] == transport.size


def test_a_blocking_collective_gives_up_in_time(world: HorovodTransport) -> None:
    """The others come late: the first to call raises and names the collective, which may still complete."""
    if world.size == 1:
        return
    hasty = world.dup()
    hasty.timeout = 0.05
    buf = np.ones(1)
    if world.rank == 0:
        request = hasty.iallreduce(buf)
        with pytest.raises(TransportTimeout, match=r"rank 0: allreduce sum of 1 elements: not complete"):
            request.wait()
        assert not request.done()
    world.barrier()
    if world.rank > 0:
        request = hasty.iallreduce(buf)
    request.wait(60.0)
    assert buf[0] == world.size
    hasty.close()


def test_groups_are_process_sets(world: HorovodTransport) -> None:
    """One for each set of ranks, however often it is split off; a part of a part goes over MPI."""
    before = len(world._sets)
    halves = [world.split(world.rank % 2) for _ in range(2)]
    new = len(world._sets) - before
    assert new <= 2
    for half in halves:
        assert isinstance(half, HorovodTransport)
        assert half._set.ranks == [r for r in range(world.size) if r % 2 == world.rank % 2]
        twin = half.dup()
        assert twin._set is half._set
        alone = half.split(half.rank)
        total = np.array([1.0])
        alone.allreduce(total)
        assert total[0] == 1.0 if alone.size == 1 else half.size
        assert alone.name == world.name or isinstance(alone, MpiTransport)
        for made in (alone, twin, half):
            made.close()
    assert len(world._sets) == before + new


def adasum(a: Array, b: Array) -> Array:
    """The formula, for two."""
    dot, aa, bb = float(a @ b), float(a @ a), float(b @ b)
    return (1 - dot / (2 * aa) if aa else 1.0) * a + (1 - dot / (2 * bb) if bb else 1.0) * b


def of_all(parts: list[Array]) -> Array:
    """Neighbours first, then neighbours of the results."""
    while len(parts) > 1:
        parts = [adasum(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [0, 1, 8, 1001])
def test_adasum_is_its_formula(transport: HorovodTransport, dtype: str, n: int) -> None:
    """Of parallel vectors the mean, of orthogonal ones the sum; in between, and for zeros, by the formula."""
    if transport.size & (transport.size - 1):
        with pytest.raises(TransportError, match="power of two"):
            transport.adasum(np.ones(n, dtype))
        return
    parts = [np.random.default_rng(r).standard_normal(n) for r in range(transport.size)]
    same = [np.full(n, 2.0)] * transport.size
    zero = [part * (r > 0) for r, part in enumerate(parts)]
    apart = [np.where(np.arange(n) % transport.size == r, parts[r], 0.0) for r in range(transport.size)]
    for case, wanted in ((parts, None), (same, same[0]), (apart, sum(apart)), (zero, None)):
        buf = case[transport.rank].astype(dtype)
        transport.adasum(buf)
        np.testing.assert_allclose(buf, of_all(case) if wanted is None else wanted, rtol=1e-5, atol=1e-6)
        assert ranks_agree(transport, bits(buf))


def test_adasum_is_for_floats_of_all_ranks(transport: HorovodTransport) -> None:
    if transport.size & (transport.size - 1):
        return
    tensor = torch.ones(3)
    transport.adasum(tensor)
    assert tensor.tolist() == [1.0] * 3
    for wrong in (np.ones(3, np.int32), torch.ones(3, dtype=torch.float16), np.ones((3, 2))[:, 0]):
        with pytest.raises(TransportError, match="cannot exchange"):
            transport.adasum(wrong)
    if transport.size > 1:
        part = transport.split(transport.rank)
        assert isinstance(part, HorovodTransport)
        with pytest.raises(TransportError, match="all ranks only"):
            part.adasum(tensor)
        part.close()


def test_sums_have_the_bits_of_mpi(transport: HorovodTransport) -> None:
    """Fusion is off, so that a run over Horovod can be compared with one over MPI."""
    mine = np.random.default_rng(transport.rank).standard_normal(5000)
    over_mpi, overlapping = mine.copy(), [mine.copy() for _ in range(5)]
    transport._mpi.allreduce(over_mpi)
    for request in [transport.iallreduce(buf) for buf in overlapping]:
        request.wait()
    assert {bits(buf) for buf in overlapping} == {bits(over_mpi)}


def test_groups_of_the_same_ranks_do_not_meet(world: HorovodTransport) -> None:
    """Under way at the same time, and waited for in another order than begun."""
    groups = [world.dup(), world.dup(), world.split(0, key=-world.rank)]
    groups.append(groups[0].dup())
    bufs = [np.full(n + 1, float(n)) for n in range(len(groups))]
    requests = [group.iallreduce(buf) for group, buf in zip(groups, bufs, strict=True)]
    for request in requests[::-1] if world.rank % 2 else requests:
        request.wait()
    assert [values(buf) for buf in bufs] == [[float(n * world.size)] * (n + 1) for n in range(len(bufs))]
    for group in groups:
        group.close()


@pytest.mark.usefixtures("world")
def test_there_is_one_horovod_in_a_process() -> None:
    with pytest.raises(TransportError, match="runs in this process already"):
        start(MPI.COMM_WORLD, transport="horovod")


def test_ranks_that_leave_with_one_code_leave_in_peace(transport: Transport) -> None:
    with pytest.raises(SystemExit) as left, guard(transport):
        raise SystemExit(75)
    assert left.value.code == 75
