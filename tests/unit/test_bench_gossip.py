"""``bench gossip``: what it computes from what was measured, and its parts once at a small size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpc_fl.bench import gossip, gossip_digits
from hpc_fl.bench.accuracy import Trial
from hpc_fl.bench.collective_cases import HOROVOD, LIMIT, SENDRECV
from hpc_fl.bench.collective_ranks import Plan, Sample
from hpc_fl.bench.collective_records import Place, records_of
from hpc_fl.bench.gossip_cases import LAB, MODULE, SHORT, sent
from hpc_fl.bench.gossip_digits import ABOVE, CASES, CORRECTED, PARTIES
from hpc_fl.bench.record import Record
from hpc_fl.compression import TopK
from hpc_fl.config.load import DIGITS, load_config
from hpc_fl.errors import ConfigError

N = 25_000_000
TRIAL = Trial(Path(DIGITS), 100, 1, (0, 1, 2))


def run_of(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "parameters": 10, "threads": 1, "bytes": 0}


def told(monkeypatch: pytest.MonkeyPatch, accuracies: dict[str, float]) -> dict[str, Record]:
    """The records of the cases with these mean accuracies, by case."""

    def run(_: Trial, seed: int, *settings: str) -> dict[str, Any]:
        (name,) = [
            name
            for name in accuracies
            if all(setting in settings for setting in CASES[name].settings)
            and len(settings) - len(CASES[name].settings) == 5
        ]
        return run_of(accuracies[name] + (seed - 1) / 100)

    monkeypatch.setattr(Trial, "run", run)
    records = gossip_digits.records_of(gossip_digits.Asked(tuple(accuracies), TRIAL, 2))
    return {record.case: record for record in records}


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_a_configuration(name: str) -> None:
    config = load_config(Path(DIGITS), [f"parties={PARTIES}", *CASES[name].settings])
    assert config.parties == PARTIES
    assert CASES[name].beside in (*CASES, "")
    assert CASES[name].behind is None or CASES[name].beside


@pytest.mark.parametrize(("name", "points"), [("ring", 3.0), ("exponential", 1.0)])
@pytest.mark.parametrize("off", [-0.01, 0.01])
def test_a_bar_is_so_many_points_below(
    name: str, points: float, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(monkeypatch, {"fedavg": 0.98, name: 0.98 - points / 100 + off / 100})
    (record,) = found.values()
    assert record.holds is (off > 0)
    assert record.seconds == pytest.approx(98 - points + off)
    assert record.yardstick_seconds == pytest.approx(98)
    assert record.case == f"{CASES[name].title}, 100 rounds"


@pytest.mark.parametrize(("best", "holds"), [(0.959, False), (0.961, True)])
def test_the_better_algorithm_is_above_plain_gossip(
    best: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    means = dict(zip((*ABOVE, *CORRECTED), (0.95, 0.96, best, 0.90), strict=True))
    better = [record for case, record in told(monkeypatch, means).items() if "the better one" in case]
    assert [(record.yardstick, record.holds) for record in better] == [
        (CASES["skewed-plain"].title, holds),
        (CASES["skewed"].title, None),
    ]


def test_a_case_runs_what_it_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []

    def run(_: Trial, seed: int, *settings: str) -> dict[str, Any]:
        seen.append(settings)
        return run_of(0.5 + seed / 100)

    monkeypatch.setattr(Trial, "run", run)
    (record,) = gossip_digits.records_of(gossip_digits.Asked(("choco-topk5",), TRIAL, 1))
    assert record.yardstick == CASES["ring"].title
    assert len(seen) == 2 * len(TRIAL.seeds)
    assert all(f"parties={PARTIES}" in settings for settings in seen)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("one-peer", 4 * N),
        ("ring", 8 * N),
        ("exponential", 8 * N),
        ("ring bf16", 4 * N),
        ("choco topk 1%", 2 * TopK(ratio=0.01).nbytes(N)),
        ("choco sign", 2 * (N // 8 + 4)),
    ],
)
def test_bytes_of_a_step_on_four_ranks(name: str, wanted: int) -> None:
    formula = LAB[name].formula
    assert formula is not None
    assert formula(N, 4) == wanted


def test_two_ranks_of_a_ring_are_one_pair() -> None:
    assert sent("ring", "Identity")(10, 2) == 40
    assert sent("ring", "Identity")(10, 1) == 0


def test_bars_of_the_virtual_cluster() -> None:
    def sample(name: str, seconds: float, nbytes: int) -> Sample:
        return Sample(name, N, 4, 1, seconds, nbytes, nbytes, 0.0)

    samples = [
        sample("one-peer", 0.8 / 0.89, 4 * N),
        sample("ring", 1.6 / 0.86, 8 * N),
        sample("choco sign", 0.1, 2 * N // 8),
        sample(HOROVOD, 1.3, 0),
    ]
    records = records_of(Place("lab", 1e9), samples, (HOROVOD,), LAB)
    holds = {(r.case.partition(",")[0], r.yardstick): r.holds for r in records}
    assert holds["one-peer", LIMIT] is False
    assert holds["one-peer", HOROVOD] is False
    assert holds["ring", LIMIT] is True
    assert holds["ring", HOROVOD] is None
    assert holds["choco sign", HOROVOD] is True
    assert all(r.holds for r in records if r.yardstick == "formula")


@pytest.mark.parametrize(("seconds", "holds"), [(2.0, True), (2.1, False)])
def test_short_exchanges_take_twice_as_long_at_most(seconds: float, holds: bool) -> None:
    samples = [Sample(SENDRECV, 1024, 2, 1, 1.0), *(Sample(name, 1024, 2, 1, seconds) for name in SHORT)]
    records = gossip.short_records(samples)
    assert [record.holds for record in records] == [holds, None]  # that which wakes a thread has no bar


@pytest.mark.parametrize("name", [*LAB, *SHORT])
def test_the_ranks_find_every_scheme(name: str) -> None:
    assert Plan(8, [name], cases=MODULE).case(name) in (*LAB.values(), *SHORT.values())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"speed": "1"}, "speed"),
        ({"where": "moon"}, "where: got 'moon'"),
        ({"where": "digits", "case": "ring,rung"}, "case: got 'rung'"),
        ({"where": "small", "exchanges": "0"}, "exchanges: got '0'"),
        ({"where": "digits", "seeds": "one"}, "seeds: got 'one'"),
    ],
)
def test_an_option_that_cannot_be_is_named(options: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        gossip.run(options)


@pytest.mark.usefixtures("mpi")
def test_short_exchanges_from_end_to_end() -> None:
    records = gossip.run({"where": "small", "exchanges": "20"})
    assert [record.case.partition(",")[0] for record in records] == list(SHORT)
    assert all(record.yardstick_seconds > 0 for record in records)
    assert records[0].bytes == 4096
