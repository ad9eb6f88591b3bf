"""``bench collectives``: what it computes from what was measured, and all of it once at a small size."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from math import prod
from pathlib import Path

import pytest

from hpc_fl.bench import collectives, run_benchmark
from hpc_fl.bench.collective_cases import (
    CASES,
    GLOO,
    HOROVOD,
    LIMIT,
    MPI,
    PEERS,
    break_even,
    transformer_shapes,
)
from hpc_fl.bench.collective_plot import draw
from hpc_fl.bench.collective_ranks import Sample
from hpc_fl.bench.collective_records import ANY, COUNTED, FORMULA, PAYS, SMALL, Place, records_of
from hpc_fl.bench.record import Record, header
from hpc_fl.bench.tune import tune
from hpc_fl.errors import ConfigError

N = 25_000_000
LAB, LOCAL = Place("lab", 1e9), Place("local", None)


def sample(name: str, seconds: float, nbytes: int = 0, **more: float) -> Sample:
    facts = {"n": N, "ranks": 4, "threads": 1} | more
    return Sample(name, seconds=seconds, bytes=nbytes, **facts)  # type: ignore[arg-type]


def only(records: list[Record], name: str, yardstick: str) -> Record:
    (found,) = [r for r in records if r.case.startswith(f"{name}, ") and r.yardstick == yardstick]
    return found


def test_break_even_is_bytes_saved_over_time_added() -> None:
    # 100 MB against 3 MB, 10 ms longer: at that speed the 97 MB take 10 ms.
    assert break_even(100e6, 3e6, 0.01) == pytest.approx(97e6 * 8 / 0.01)
    assert break_even(100e6, 3e6, 0.0) == math.inf
    assert break_even(100e6, 3e6, -0.1) == math.inf
    assert break_even(3e6, 3e6, 0.01) == break_even(1e6, 3e6, -0.01) == 0.0


@pytest.mark.parametrize("n", [8, 5000, 1_000_000, 25_000_000])
def test_the_transformer_has_exactly_so_many_parameters(n: int) -> None:
    shapes = transformer_shapes(n)
    assert sum(map(prod, shapes)) == n
    assert n < 100_000 or sum(prod(shape) for shape in shapes if len(shape) == 2) > 0.95 * n


def test_bars_on_the_virtual_cluster() -> None:
    samples = [
        sample("dense", 1.25, 150_000_000, wire=150_300_000, off=0.002),
        sample("onebit", 0.2, 4_690_000, wire=4_900_000, off=0.04),
        sample("topk 0.1%", 0.1, 600_000, wire=700_000, off=0.1),
        sample(HOROVOD, 2.0),
        sample(GLOO, 1.3),
        sample(MPI, 1.9),
    ]
    records = records_of(LAB, samples, PEERS)
    limit = only(records, "dense", LIMIT)
    assert limit.yardstick_seconds == pytest.approx(1.2)
    assert limit.share == pytest.approx(0.96)
    assert limit.holds
    assert only(records, "dense", HOROVOD).holds
    assert only(records, "onebit", HOROVOD).bar == 1 / 12
    assert only(records, "onebit", HOROVOD).holds is False
    assert only(records, "onebit", GLOO).holds is False
    assert only(records, "topk 0.1%", HOROVOD).holds
    assert only(records, "onebit", MPI).holds is None
    counted = {r.case.partition(",")[0]: r for r in records if r.case.endswith(COUNTED)}
    assert [counted[name].holds for name in ("dense", "onebit", "topk 0.1%")] == [True, False, None]
    assert counted["onebit"].wire == 4_900_000


def test_without_horovod_its_bars_are_not_judged() -> None:
    records = records_of(LAB, [sample("onebit", 0.1, 4_690_000), sample(GLOO, 1.3)], PEERS)
    absent = only(records, "onebit", f"{HOROVOD} (not installed)")
    assert absent.holds is None
    assert absent.bar == 1 / 12
    assert only(records, "onebit", GLOO).holds
    json.dumps([record.ratio for record in records], allow_nan=False)


def test_compression_pays_beside_the_fastest_dense_allreduce() -> None:
    samples = [
        sample("dense", 0.050, 0),  # through memory that the ranks share
        sample("dense mean", 0.060, 150_000_000),
        sample("onebit", 0.050, 2_000_000),
        sample("topk 1%", 0.030, 1_000_000),
        sample(MPI, 0.040),
        sample(GLOO, 0.010),
    ]
    records = records_of(LOCAL, samples, PEERS)
    pays = {r.case.partition(",")[0]: r for r in records if r.case.endswith(PAYS)}
    assert pays["onebit"].seconds == pytest.approx(148e6 * 8 / 0.010 / 1e9)  # gloo is TCP, no shared memory
    assert pays["onebit"].holds
    assert pays["topk 1%"].seconds == ANY
    assert "dense" not in pays


def test_small_messages_and_short_buffers_have_bars_of_their_own() -> None:
    samples = [
        sample("dense", 1e-5, 4096, n=SMALL),
        sample(HOROVOD, 1e-3, n=SMALL),
        sample(MPI, 9e-6, n=SMALL),
    ]
    small = records_of(LAB, samples, PEERS)
    assert [r.yardstick for r in small if r.bar is not None] == [MPI]
    short = records_of(
        LAB, [sample("onebit", 1.0, 26_000, n=100_000), sample(HOROVOD, 1.0, n=100_000)], (HOROVOD,)
    )
    assert [r.yardstick for r in short if r.bar is not None] == [FORMULA]


@pytest.mark.parametrize("ended", [0, 50])
def test_runs_that_ended_are_counted(ended: int) -> None:
    (record,) = records_of(LAB, [sample("lowrank 4, 50 runs", 0.3, ended=ended)], PEERS)
    assert record.seconds == ended
    assert record.holds is (ended == 50)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"speed": "1"}, "speed"),
        ({"schemes": "onebit,twobit"}, "twobit"),
        ({"where": "moon"}, "where"),
        ({"n": "many"}, "n: got 'many'"),
        ({"ranks": "1"}, "ranks: got '1'"),
    ],
)
def test_an_option_that_cannot_be_is_named(options: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        collectives.Asked.read(options)


def test_the_picture_and_the_table_show_every_scheme(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [sample(name, 0.1 + i, 1000 * i + 1) for i, name in enumerate((*CASES, *PEERS))]
    records = records_of(LAB, samples, PEERS)
    draw(records, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    collectives.show(header("collectives"), records)
    out = capsys.readouterr().out
    assert all(f"{name}, 25M x 4, lab" in out for name in CASES)
    assert "FAILS" in out


@pytest.mark.usefixtures("mpi")
def test_a_small_benchmark_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, plot = tmp_path / "collectives.json", tmp_path / "plot.png"
    few = ["where=local", "n=20000", "p=2", "times=1", "warmup=1", "schemes=dense,onebit,topk 1%,lowrank 4"]
    run_benchmark("collectives", [*few, f"plot={plot}"], file)
    first, *found = json.loads(file.read_text())
    records = [Record(**record) for record in found]
    assert first["benchmark"] == "collectives"
    for peer in PEERS if find_spec("horovod") else (GLOO, MPI):
        assert only([r for r in records if r.n == 20_000], "onebit", peer).yardstick_seconds > 0
        assert only([r for r in records if r.n == SMALL], "dense", peer).yardstick_seconds > 0
    assert all(r.holds for r in records if r.yardstick == FORMULA and r.case.startswith("dense"))
    assert {r.ranks for r in records} == {2}
    assert plot.exists()
    assert "onebit, 20000 x 2, local" in capsys.readouterr().out


def test_tuning_needs_a_world() -> None:
    with pytest.raises(ConfigError, match="-n"):
        tune([], None)
