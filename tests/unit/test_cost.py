"""The cost model: laws of the forecasts, and a choice that all ranks make alike."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_fl.collectives.cost import CANDIDATES, RANK, WORTH, Kernel, World, choose_codec, forecasts
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.probe import measure_world
from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport

N = 1 << 20
SHAPES = ((1024, 1000), (1000, 24), (576,))
KERNELS = {one.codec: Kernel(2e-9, 1e-9) for one in CANDIDATES} | {"identity": Kernel(0.0, 3e-10)}


def world(ranks: int = 4, gbit: float = 1.0, latency: float = 5e-5) -> World:
    return World(ranks, Link(latency, gbit * 1e9 / 8), KERNELS)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_a_faster_network_takes_no_longer_and_compression_gains_less(ranks: int) -> None:
    speeds = [0.1, 1.0, 10.0, 100.0]
    told = [forecasts(world(ranks, gbit), N, SHAPES) for gbit in speeds]
    for slow, fast in pairwise(told):
        for before, after in zip(slow, fast, strict=True):
            assert after.seconds <= before.seconds
            assert after.seconds / fast[0].seconds >= before.seconds / slow[0].seconds - 1e-9


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 16), st.integers(10_000, 10**8), st.floats(0.01, 400))
def test_break_even_is_where_both_take_equally_long(ranks: int, n: int, gbit: float) -> None:
    here = world(ranks, gbit)
    told = forecasts(here, n)
    for index, forecast in enumerate(told):
        if 0 < forecast.break_even < math.inf:
            there = replace(here, link=replace(here.link, bandwidth=forecast.break_even))
            again = forecasts(there, n)
            # On another network another way may be the shortest, which has another break-even.
            if (again[0].work, again[index].work) == (told[0].work, forecast.work):
                assert again[index].seconds == pytest.approx(again[0].seconds)


@pytest.mark.parametrize("gbit", [0.01, 1.0, 40.0, 1000.0])
def test_a_codec_that_changes_more_must_save_a_fifth(gbit: float) -> None:
    choice = choose_codec(world(gbit=gbit), N, SHAPES)
    names = [one.candidate.codec for one in choice.forecasts]
    chosen = choice.forecasts[names.index(choice.codec)]
    for milder in choice.forecasts[: names.index(choice.codec)]:
        assert chosen.seconds < WORTH * milder.seconds
    assert choice.why.startswith("dense" if choice.codec == "identity" else choice.codec)


def test_slow_networks_compress_and_fast_ones_do_not() -> None:
    assert choose_codec(world(gbit=0.01), N, SHAPES).codec != "identity"
    fast = choose_codec(world(gbit=10_000.0), N, SHAPES)
    assert (fast.codec, fast.collective) == ("identity", "dense")
    assert fast.why.endswith("above the break-even of every codec")


def test_a_small_buffer_travels_as_it_is() -> None:
    choice = choose_codec(world(latency=1e-3), 1000)
    assert choice.codec == "identity"
    assert "no codec saves" in choice.why


def test_low_rank_needs_the_shapes_of_the_whole_buffer() -> None:
    offered = [one.candidate.codec for one in forecasts(world(), N, SHAPES)]
    assert offered == [one.codec for one in CANDIDATES]
    for shapes in ((), SHAPES[:1]):
        assert "lowrank" not in [one.candidate.codec for one in forecasts(world(), N, shapes)]


def test_work_is_what_the_formulas_say() -> None:
    told = {one.candidate.codec: one.work for one in forecasts(world(4), N, SHAPES)}
    assert told["identity"].nbytes == 2 * 3 / 4 * 4 * N
    assert told["bf16"].nbytes == told["identity"].nbytes / 2
    assert told["onebit"].nbytes == pytest.approx(2 * 3 * N / 4 / 8, rel=1e-3)
    factors = RANK * (1024 + 1000 + 1000 + 24) + 576
    assert told["lowrank"].nbytes == pytest.approx(2 * 3 / 4 * 4 * factors, abs=4)


def test_one_rank_has_nobody_to_send_to() -> None:
    choice = choose_codec(replace(world(), ranks=1), N, SHAPES)
    assert choice.codec == "identity"
    assert "one rank" in choice.why


def test_all_ranks_measure_the_same_world_and_choose_the_same() -> None:
    def program(transport: Transport) -> tuple[World, str]:
        here = measure_world(transport)
        return here, choose_codec(here, N, SHAPES).why

    first, *others = run_ranks(3, program)
    assert first[0].ranks == 3
    assert first[0].link.bandwidth > 0
    assert set(first[0].kernels) == {one.codec for one in CANDIDATES}
    assert all(other == first for other in others)


def test_a_rank_alone_is_measured_too() -> None:
    assert measure_world(solo()).ranks == 1
