"""Records and how they are told; no law here depends on how fast the machine is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc_fl.bench import BENCHMARKS, run_benchmark
from hpc_fl.bench.accuracy import run as run_accuracy
from hpc_fl.bench.memory import config_for
from hpc_fl.bench.record import Record, header, interleave, print_records, write_records
from hpc_fl.config import make_config
from hpc_fl.errors import ConfigError, HpcFlError

KEYS = {
    "case",
    "n",
    "ranks",
    "threads",
    "seconds",
    "yardstick",
    "yardstick_seconds",
    "ratio",
    "bytes",
    "bar",
    "holds",
}
"""What DESIGN.md promises of every record."""


@pytest.mark.parametrize(
    ("seconds", "bar", "holds"), [(1.0, 0.5, True), (1.01, 0.5, False), (0.5, 0.5, True), (9.0, None, None)]
)
def test_a_bar_is_the_largest_ratio_that_holds(seconds: float, bar: float | None, holds: bool | None) -> None:
    record = Record.of("case", seconds, "yardstick", 2.0, bar)
    assert record.ratio * record.yardstick_seconds == record.seconds
    assert record.holds is holds


@pytest.mark.parametrize("value", [96.9, 97.0, 97.1])
def test_at_least_and_at_most_are_opposites_but_at_the_bar(value: float) -> None:
    above, below = Record.at_least("a", value, 97.0, "%"), Record.at_most("b", value, 97.0, "%")
    assert above.holds is (value >= 97.0)
    assert below.holds is (value <= 97.0)


def test_details_of_a_record_are_kept() -> None:
    record = Record.of("case", 1.0, "yardstick", 1.0, None, n=7, ranks=3, threads=2, bytes=5, unit="buffers")
    assert (record.n, record.ranks, record.threads, record.bytes, record.unit) == (7, 3, 2, 5, "buffers")


@pytest.mark.parametrize(("block", "order"), [(1, "ababababab"), (3, "abaaabbbab"), (9, "abaaaabbbb")])
def test_subject_and_yardstick_take_turns(block: int, order: str) -> None:
    calls: list[str] = []

    def timed(name: str, seconds: list[float]) -> Callable[[], float]:
        def call() -> float:
            calls.append(name)
            return seconds.pop(0)

        return call

    ours, theirs = timed("a", [99.0, 3.0, 1.0, 2.0, 9.0]), timed("b", [99.0, 30.0, 10.0, 20.0, 90.0])
    medians = interleave(ours, theirs, 4, block=block)
    assert "".join(calls) == order
    assert medians == (2.5, 25.0)  # the warm-up does not count


def test_the_file_has_a_header_and_the_promised_keys(tmp_path: Path) -> None:
    records = [Record.of("one", 1.0, "bare", 4.0, 0.5), Record.at_least("two", 98.0, 97.0, "%")]
    write_records(tmp_path / "records.json", header("round"), records)
    first, *written = json.loads((tmp_path / "records.json").read_text())
    assert {"benchmark", "processor", "machine", "commit", "load_average", "packages"} <= first.keys()
    assert all(record.keys() >= KEYS for record in written)
    assert [Record(**record) for record in written] == records


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(HpcFlError, match=r"missing/records\.json"):
        write_records(tmp_path / "missing" / "records.json", header("round"), [])


def test_the_table_fits_100_columns_and_keeps_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        Record.of("lr-one-party (loop)", 0.00123, "bare mpi4py loop", 0.001, 1.3, ranks=4),
        Record.of("until first round", 8.1, "bare imports", 6.0, 1.5, ranks=4),
        Record.at_least("breast_cancer, 30 rounds", 97.4, 97.0, "%", ranks=4),
        Record.at_most("FedAvg, auto (loop)", 4.4, 4.0, "buffers", ranks=2),
    ]
    print_records(header("all"), records)
    _, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) == 1 + len(records)  # no cell is folded
    for record, line in zip(records, lines[1:], strict=True):
        assert record.case in line
        assert record.yardstick in line
        assert ("holds" in line) is bool(record.holds)


def test_an_unknown_benchmark_or_option_is_refused() -> None:
    with pytest.raises(ConfigError, match=", ".join(BENCHMARKS)):
        run_benchmark("speed", [], None)
    with pytest.raises(ConfigError, match="key=value"):
        run_benchmark("round", ["lr"], None)
    with pytest.raises(ConfigError, match="digits, breast_cancer"):
        run_accuracy({"case": "mnist"})
    with pytest.raises(ConfigError, match="configs=FOLDER"):
        run_accuracy({"configs": "/nowhere"})


def test_memory_gives_every_rank_as_many_parties_and_samples() -> None:
    one, four = (make_config(config_for(16, ranks, "loop")) for ranks in (1, 4))
    assert four.parties == 4 * one.parties
    assert four.data.options()["samples"] == 4 * one.data.options()["samples"]


def test_a_small_benchmark_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark("round", ["shape=lr", "rounds=2", "ranks=1"], tmp_path / "round.json")
    first, record = json.loads((tmp_path / "round.json").read_text())
    assert first["benchmark"] == "round"
    assert record.keys() >= KEYS
    assert record["n"] == 7850
    assert record["ranks"] == 1
    assert record["bytes"] == 0  # nobody to send to
    assert "lr" in capsys.readouterr().out
