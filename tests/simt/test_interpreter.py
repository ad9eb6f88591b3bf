"""The interpreter itself: what would hang a GPU is reported, and what depends on an order shows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from simt.interpreter import SOURCES, Interpreter, Order, SimtError, build

KERNELS = r"""
#include "common.cuh"

KERNEL(64)
half_a_barrier(u32* out) {
    if (threadIdx.x < 32) __syncthreads();
    out[threadIdx.x] = 1;
}

KERNEL(64)
half_a_vote(u32* out) {
    if (lane() < 16) out[threadIdx.x] = __ballot_sync(ALL, 1);
}

KERNEL(64)
two_operations(u32* out) {
    if (lane() < 16) out[threadIdx.x] = __any_sync(ALL, 1);
    else out[threadIdx.x] = __ballot_sync(ALL, 1);
}

KERNEL(64)
wait_for_nobody(volatile u32* out) {
    while (out[0] != 7) __nanosleep(10);
}

KERNEL(64)
no_barrier(u32* out) {
    __shared__ u32 shared[64];
    shared[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = shared[63 - threadIdx.x];
}

KERNEL(64)
barrier(u32* out) {
    __shared__ u32 shared[64];
    shared[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = shared[63 - threadIdx.x];
}

KERNEL(64)
half_a_warp(u32* out) {
    if (lane() < 16) out[threadIdx.x] = __shfl_xor_sync(0xFFFFu, (u32)threadIdx.x, 1);
    else out[threadIdx.x] = 0;
}

// Block b waits for block b - 1, numbered by ticket: all three must run in turn.
KERNEL(32)
chain(u32* out) {
    __shared__ u32 ticket;
    if (threadIdx.x == 0) ticket = atomicAdd(&out[0], 1u);
    __syncthreads();
    if (threadIdx.x) return;
    while (*(volatile u32*)&out[1] != ticket) __nanosleep(10);
    atomicExch(&out[1], ticket + 1);
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]) -> Path:
    need(shutil.which("g++"), "g++")
    folder = tmp_path_factory.mktemp("snippets")
    shutil.copy(SOURCES / "common.cuh", folder)
    (folder / "snippets.cu").write_text(KERNELS)
    build(folder, ("snippets",), sources=folder)
    return folder


def run(
    folder: Path, kernel: str, order: Order = Order.FORWARD, grid: int = 1, block: int = 64
) -> NDArray[np.uint32]:
    out = np.zeros(64 * grid, np.uint32)
    Interpreter(folder, order).launch("snippets", kernel, grid, block, (out,))
    return out


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("half_a_barrier", "deadlock: block 0: 32 threads at a barrier"),
        ("half_a_vote", "in a warp operation __ballot_sync"),
        ("two_operations", "deadlock: block 0: 0 threads at a barrier, 64 in a warp operation"),
        ("wait_for_nobody", "waits for ever: block 0: .* 64 wait"),
        ("unheard_of", "no such kernel"),
    ],
)
def test_what_would_hang_is_reported(folder: Path, kernel: str, words: str, order: Order) -> None:
    with pytest.raises(SimtError, match=words):
        run(folder, kernel, order)


def test_a_missing_barrier_shows(folder: Path) -> None:
    right = np.arange(63, -1, -1)
    assert all((run(folder, "barrier", order) == right).all() for order in Order)
    assert not all((run(folder, "no_barrier", order) == right).all() for order in Order)


@pytest.mark.parametrize("order", Order)
def test_each_block_has_shared_memory_of_its_own(folder: Path, order: Order) -> None:
    assert (run(folder, "barrier", order, grid=7) == np.tile(np.arange(63, -1, -1), 7)).all()


@pytest.mark.parametrize("order", Order)
def test_part_of_a_warp(folder: Path, order: Order) -> None:
    half = np.arange(16) ^ 1
    rest = np.zeros(16)
    assert (run(folder, "half_a_warp", order) == np.concatenate([half, rest, 32 + half, rest])).all()


@pytest.mark.parametrize("order", Order)
def test_blocks_that_wait_for_each_other(folder: Path, order: Order) -> None:
    assert run(folder, "chain", order, grid=5, block=32)[1] == 5
