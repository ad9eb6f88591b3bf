"""Laws of the recorder and of what is written: metrics.jsonl, events.jsonl, TensorBoard files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpc_fl.errors import HpcFlError
from hpc_fl.telemetry import (
    CheckpointWritten,
    Event,
    JsonlSink,
    Notice,
    PartyLeftOut,
    Recorder,
    RoundFinished,
    RunStarted,
    TensorBoardSink,
    read_jsonl,
)


def finished(number: int, **metrics: Any) -> RoundFinished:
    return RoundFinished(number, 9, {"round": number, **metrics})


def started(first_round: int = 1) -> RunStarted:
    return RunStarted("digits", None, 2, 4, 650, first_round, 9, {})


class Witness:
    """A sink that notes what it is told, and fails where asked."""

    def __init__(self, failure: str | None = None) -> None:
        self.events: list[Event] = []
        self.closed = 0
        self._failure = failure

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1
        if self._failure is not None:
            raise OSError(self._failure)


def write(path: Path, rounds: range, append_after_round: int | None = None) -> None:
    with Recorder([JsonlSink(path, append_after_round)]) as recorder:
        for number in rounds:
            recorder.emit(finished(number))
            recorder.emit(PartyLeftOut(number, (1,), "NaN"))


def test_every_sink_gets_every_event_and_is_closed_although_one_fails() -> None:
    sinks = [Witness(), Witness("first"), Witness("second"), Witness()]
    recorder = Recorder(sinks)
    recorder.emit(Notice("hello"))
    with pytest.raises(OSError, match="first"):
        recorder.close()
    assert all(sink.events == [Notice("hello")] and sink.closed == 1 for sink in sinks)


def test_the_error_of_the_run_is_not_hidden_by_a_sink_that_cannot_close() -> None:
    with pytest.raises(ValueError, match="the cause") as caught, Recorder([Witness("disk full")]):
        raise ValueError("the cause")
    assert any("disk full" in note for note in caught.value.__notes__)


def test_importing_telemetry_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "rich", "tensorboard", "matplotlib")
    code = f"import sys, hpc_fl.telemetry, hpc_fl.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_each_line_is_on_disk_at_once_and_equals_its_record(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "new" / "metrics.jsonl")
    record = {"round": 1, "accuracy": 0.5, "cohort": [0, 2], "bytes_sent": {"allreduce": [1, 2]}}
    sink.handle(RoundFinished(1, 3, record))
    assert (tmp_path / "new" / "metrics.jsonl").read_text() == json.dumps(record) + "\n"
    sink.close()
    sink.close()


def test_values_that_json_lacks_become_null(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.handle(finished(1, loss=float("nan"), deep={"a": [float("inf"), 1.5, (float("-inf"),)]}))
    sink.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [
        {"round": 1, "loss": None, "deep": {"a": [None, 1.5, [None]]}}
    ]


def test_other_events_go_beside_with_name_and_time(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    events: list[Event] = [
        started(),
        CheckpointWritten(2, tmp_path / "c", True, 0.5),
        PartyLeftOut(3, (1, 4), "NaN"),
    ]
    for event in events:
        sink.handle(event)
    sink.close()
    run, checkpoint, party = read_jsonl(tmp_path / "events.jsonl")
    assert [line["event"] for line in (run, checkpoint, party)] == [type(event).__name__ for event in events]
    assert run["time"] <= checkpoint["time"] <= party["time"]
    assert checkpoint["path"] == str(tmp_path / "c")
    assert party["party_ids"] == [1, 4]
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("interrupted", ["", '{"round": 6, "accu', '{"round": 6}', "\x00\x00"])
@pytest.mark.parametrize("after", [0, 3, 5, 8])
def test_resuming_gives_each_round_once(tmp_path: Path, interrupted: str, after: int) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 6))
    with path.open("a") as file:
        file.write(interrupted)
    write(path, range(after + 1, 10), append_after_round=after)
    kept = range(1, min(after, 6 if interrupted.endswith("}") else 5) + 1)
    assert [record["round"] for record in read_jsonl(path)] == [*kept, *range(after + 1, 10)]
    left_out = [event["round"] for event in read_jsonl(tmp_path / "events.jsonl")]
    assert left_out == [*range(1, min(after, 5) + 1), *range(after + 1, 10)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.jsonl", "metrics.jsonl"]


def test_resuming_without_files_begins_them(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", range(4, 6), append_after_round=3)
    assert [record["round"] for record in read_jsonl(tmp_path / "metrics.jsonl")] == [4, 5]


def test_a_new_run_begins_anew(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", range(1, 6))
    write(tmp_path / "metrics.jsonl", range(1, 3))
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == len(read_jsonl(tmp_path / "events.jsonl")) == 2


def test_damage_before_the_last_line_is_refused_by_line_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1}\n{"rou\n{"round": 3}\n')
    before = path.read_text()
    with pytest.raises(HpcFlError, match="line 2"):
        JsonlSink(path, append_after_round=3)
    assert path.read_text() == before


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HpcFlError, match="run folder"):
        JsonlSink(tmp_path / "file" / "metrics.jsonl")


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    sink = JsonlSink(path)
    with pytest.raises(HpcFlError, match="space"):
        sink.handle(finished(1))


def scalars_of(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory)).Reload()
    return {
        tag: [(point.step, point.value) for point in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_reads_back_what_was_written_and_a_resumed_run_replaces_its_rounds(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard")
    sink = TensorBoardSink(tmp_path)
    sink.handle(started())
    for number in range(1, 6):
        sink.handle(
            finished(
                number,
                accuracy=0.5,
                consensus_distance=0.25,
                model_accuracy={"mean": 0.75},
                bytes_sent={"gossip": [3, 4]},
                seconds={"train": 2},
                left_out=[1],
            )
        )
    sink.close()
    sink.close()
    assert scalars_of(tmp_path) == {
        tag: [(number, value) for number in range(1, 6)]
        for tag, value in {
            "accuracy": 0.5,
            "consensus_distance": 0.25,
            "model_accuracy/mean": 0.75,
            "bytes_sent/gossip": 7,
            "seconds/train": 2,
            "left_out_size": 1,
        }.items()
    }
    with Recorder([TensorBoardSink(tmp_path)]) as recorder:
        recorder.emit(started(first_round=4))
        recorder.emit(finished(4, accuracy=1.0))
    assert scalars_of(tmp_path)["accuracy"] == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 1.0)]


def test_tensorboard_failure_is_raised_and_its_absence_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    sink = TensorBoardSink(tmp_path / "file" / "folder")
    sink.handle(started())
    with pytest.raises(HpcFlError, match="folder"):
        sink.close()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(HpcFlError, match="pip install"):
        TensorBoardSink(tmp_path)
